"""--force-new-cluster (F-73): what is kept, what is dropped, and what a crash in the middle of it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftkv.apply import Kind, MemberChange, encode_batch, encode_member_change
from raftkv.backend import Backend
from raftkv.config import Config, StartError, load
from raftkv.membership import Members
from raftkv.pb import rpc_pb2
from raftkv.raft import ConfState, Entry, EntryType, HardState, encode_conf_change
from raftkv.server.bootstrap import GENESIS, Booted, boot
from raftkv.wal import Wal

TERM = 4
NAMES = ("a", "b", "c")


def config(directory: Path, *argv: str) -> Config:
    """The first of three members."""
    members = ",".join(f"{name}=http://127.0.0.1:{port}" for port, name in enumerate(NAMES, 1))
    named = ("--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:1", f"--initial-cluster={members}")
    return load([f"--data-dir={directory}", "--unsafe-no-fsync", *named, *argv], {})


def close(booted: Booted) -> None:
    booted.wal.close()
    booted.backend.close()
    booted.lock.release()


def put(index: int) -> Entry:
    message = rpc_pb2.PutRequest(key=b"k", value=b"%d" % index).SerializeToString()
    return Entry(TERM, index, data=encode_batch(1, index, [(Kind.PUT, message)]))


def change(index: int, operation: MemberChange.Operation.ValueType, member_id: int, *urls: str) -> Entry:
    data = encode_conf_change(encode_member_change(1, index, operation, member_id, urls))
    return Entry(TERM, index, EntryType.CONF_CHANGE, data)


FIRST = GENESIS.index + 1


def a_minority(directory: Path) -> Booted:
    """A member of three, applied up to entry 4, with what it may or may not share with the others behind that:
    a put, a new member, a removal, and a put."""
    booted = boot(config(directory))
    others = [each.id for each in booted.members if each.id != booted.member_id]
    log = [
        put(FIRST),
        put(FIRST + 1),
        put(FIRST + 2),
        put(FIRST + 3),
        change(FIRST + 4, MemberChange.ADD, 99, "http://127.0.0.1:99"),
        change(FIRST + 5, MemberChange.REMOVE, others[0]),
        put(FIRST + 6),
    ]
    booted.wal.stage(HardState(TERM, others[1], FIRST + 2), log)
    booted.wal.flush()
    booted.applier.apply(log[:3])
    close(booted)
    return booted


def forced(directory: Path) -> Booted:
    return boot(config(directory, "--force-new-cluster"))


def entries(booted: Booted) -> list[Entry]:
    return booted.storage.entries(booted.storage.first_index(), booted.storage.last_index() + 1, 1 << 20)


def check_alone(booted: Booted, before: Booted) -> None:
    alone = ConfState(voters=(before.member_id,))
    assert (booted.member_id, booted.cluster_id, booted.data_id) == (
        before.member_id,
        before.cluster_id,
        before.data_id,
    )
    assert booted.conf_state == booted.applier.conf_state == booted.storage.initial_state()[1] == alone
    assert [each.id for each in booted.members] == [before.member_id]
    assert len(booted.members.removed) == 2


def test_all_data_is_kept_and_all_others_are_dropped(tmp_path: Path) -> None:
    """F-73, CL-06: also what was not known to be committed, for it may have been acknowledged by a leader that is
    lost."""
    before = a_minority(tmp_path)
    booted = forced(tmp_path)
    check_alone(booted, before)
    assert (booted.applier.index, booted.storage.last_index()) == (FIRST + 2, FIRST + 6)
    assert booted.applier.state_hash == before.applier.state_hash
    kept = {each.index: each for each in entries(booted)}
    assert [kept[index].data for index in (FIRST + 3, FIRST + 6)] == [put(FIRST + 3).data, put(FIRST + 6).data]
    booted.applier.apply([kept[index] for index in range(FIRST + 3, FIRST + 7)])
    assert booted.store.current_revision == 1 + 5
    assert [each.id for each in booted.members] == [before.member_id]
    close(booted)


def test_changes_that_were_meant_for_the_old_cluster_are_blanked(tmp_path: Path) -> None:
    """In the log, so that no start ever applies them; terms and positions stay."""
    a_minority(tmp_path)
    close(forced(tmp_path))
    wal, contents = Wal.open(config(tmp_path).wal_dir)
    wal.close()
    blanked = {each.index: each for each in contents.entries}
    for index in (FIRST + 4, FIRST + 5):
        assert blanked[index] == Entry(TERM, index)
    assert blanked[FIRST + 6] == put(FIRST + 6)
    assert contents.last.index == FIRST + 6


def test_the_vote_and_the_term_stay(tmp_path: Path) -> None:
    """Its old peers may be alive after all."""
    before = a_minority(tmp_path)
    others = [each.id for each in before.members if each.id != before.member_id]
    booted = forced(tmp_path)
    hard_state, _ = booted.storage.initial_state()
    assert (hard_state.term, hard_state.vote) == (TERM, others[1])
    assert hard_state.commit >= booted.applier.index
    close(booted)


def test_once_is_enough(tmp_path: Path) -> None:
    """Without the flag it stays alone."""
    before = a_minority(tmp_path)
    close(forced(tmp_path))
    again = boot(config(tmp_path))
    check_alone(again, before)
    assert again.storage.last_index() == FIRST + 6
    close(again)


def test_twice_changes_nothing(tmp_path: Path) -> None:
    """Somebody leaves the flag in the unit file."""
    before = a_minority(tmp_path)
    first = forced(tmp_path)
    log = entries(first)
    close(first)
    second = forced(tmp_path)
    check_alone(second, before)
    assert entries(second) == log
    close(second)


class Crash(Exception):
    """The process dies here."""


@pytest.mark.parametrize("flag", ["--force-new-cluster", "--force-new-cluster=false"])
def test_a_crash_between_log_and_store_leaves_the_old_cluster_or_makes_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """With the flag it is finished; without, it is the member of three that it was, but for changes that never were."""
    before = a_minority(tmp_path)

    def crash(*_: Any) -> None:
        raise Crash

    opened: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(Members, "keep_only", crash)
        for kind in (Wal, Backend):
            patch.setattr(kind, "open", _remembering(kind.open, opened))
        with pytest.raises(Crash):
            forced(tmp_path)
    _let_go(*opened)

    booted = boot(config(tmp_path, flag))
    if flag == "--force-new-cluster":
        check_alone(booted, before)
    else:
        assert (len(booted.members), len(booted.conf_state.voters)) == (3, 3)
    assert booted.applier.index == FIRST + 2
    assert [each.type for each in entries(booted)] == [EntryType.NORMAL] * 7
    close(booted)


def _let_go(read: tuple[Wal, Any], backend: Backend) -> None:
    """What a dead process no longer holds."""
    read[0].close()
    backend._detach()
    backend._lock.release()


def _remembering(real: Any, opened: list[Any]) -> Any:
    """... must be let go of by hand."""

    def remember(*args: Any, **kwargs: Any) -> Any:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    return remember


def test_a_member_that_was_removed_cannot_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-73, CL-06: it does not belong to what it would go on as. It is left as it was."""
    before = a_minority(tmp_path)
    booted = boot(config(tmp_path))
    booted.applier.apply(entries(booted)[3:5])
    index = booted.applier.index + 1
    booted.applier.apply([change(index, MemberChange.REMOVE, before.member_id)])
    log = entries(booted)
    close(booted)
    opened: list[Any] = []
    with monkeypatch.context() as patch:
        for kind in (Wal, Backend):
            patch.setattr(kind, "open", _remembering(kind.open, opened))
        with pytest.raises(StartError, match=f"{before.member_id:x} was removed") as refused:
            forced(tmp_path)
    assert "data directory of a member that was not removed" in refused.value.hint
    _let_go(*opened)
    again = boot(config(tmp_path))
    assert (len(again.members), again.members.removed) == (3, [before.member_id])
    assert entries(again) == log
    close(again)


def test_a_new_member_has_nothing_to_force(tmp_path: Path) -> None:
    """It begins as one of three, and goes on alone."""
    booted = forced(tmp_path)
    assert len(booted.conf_state.voters) == 1
    assert len(booted.members.removed) == 2
    close(booted)

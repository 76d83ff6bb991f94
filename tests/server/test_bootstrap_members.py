"""Data directories of members of a cluster: how they begin, and what an interrupted installation of a store leaves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.apply import Kind, encode_batch
from raftkv.backend import Expected, ReceivedStore
from raftkv.config import Config, load
from raftkv.membership import Member
from raftkv.pb import rpc_pb2
from raftkv.raft import ConfState, Entry, HardState
from raftkv.server.bootstrap import GENESIS, Booted, Ids, boot
from raftkv.server.joining import Founding, found_cluster
from raftkv.wal import ORIGIN, LogPosition, Wal
from raftkv.wire import encode_conf_state

U64 = st.integers(0, 2**64 - 1)


def config(directory: Path, name: str = "a", *argv: str) -> Config:
    """One of three members that are founded together."""
    members = ",".join(f"{each}=http://127.0.0.1:{port}" for port, each in enumerate("abc", 1))
    url = f"http://127.0.0.1:{'abc'.index(name) + 1}"
    named = (f"--name={name}", f"--initial-advertise-peer-urls={url}", f"--initial-cluster={members}")
    return load([f"--data-dir={directory / name}", "--unsafe-no-fsync", *named, *argv], {})


def close(booted: Booted) -> None:
    booted.wal.close()
    booted.backend.close()
    booted.lock.release()


def put(index: int, value: bytes) -> Entry:
    message = rpc_pb2.PutRequest(key=b"k", value=value).SerializeToString()
    return Entry(2, index, data=encode_batch(1, index, [(Kind.PUT, message)]))


def value_of(booted: Booted) -> bytes | None:
    state = booted.store.get(booted.backend.read(), b"k")
    return None if state is None else state.value


# --- who it is --------------------------------------------------------------------------------------------------------


@given(U64, U64, U64)
def test_a_log_says_whose_it_is(member_id: int, cluster_id: int, data_id: int) -> None:
    ids = Ids(member_id, cluster_id, data_id)
    assert Ids.decode(ids.encode()) == ids


@given(U64, U64)
def test_logs_of_the_first_version_have_no_data_id(member_id: int, cluster_id: int) -> None:
    assert Ids.decode(struct.pack(">BQQ", 1, member_id, cluster_id)) == Ids(member_id, cluster_id, 0)


@pytest.mark.parametrize(
    "raw", [b"", b"x", bytes(17), bytes(25), b"\x02" + bytes(16), b"\x01" + bytes(24), b"\x03" + bytes(24)]
)
def test_what_no_version_wrote_is_nobodys(raw: bytes) -> None:
    assert Ids.decode(raw) is None


def test_a_member_of_the_first_version_goes_on(tmp_path: Path) -> None:
    """RF-72: it says that it has no data id, which nobody holds against it."""
    settings = config(tmp_path)
    booted = boot(settings)
    ids = booted.member_id, booted.cluster_id
    close(booted)
    for each in settings.wal_dir.iterdir():
        each.unlink()
    Wal.create(settings.wal_dir, struct.pack(">BQQ", 1, *ids), base=GENESIS, unsafe_no_fsync=True).close()
    old = boot(settings)
    assert (old.member_id, old.cluster_id, old.data_id) == (*ids, 0)
    close(old)


def test_every_data_directory_has_an_id_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    """RF-72: made anew with the same settings it is another one."""
    first, second = boot(config(tmp_path / "1")), boot(config(tmp_path / "2"))
    assert first.member_id == second.member_id
    assert 0 != first.data_id != second.data_id != 0
    close(first)
    close(second)
    again = boot(config(tmp_path / "1"))
    assert again.data_id == first.data_id
    close(again)


# --- how it begins ----------------------------------------------------------------------------------------------------


def test_members_that_found_a_cluster_begin_with_the_same_state(tmp_path: Path) -> None:
    """Behind an entry that nobody has in the log: who joins later is given a snapshot, which names the members."""
    booted = [boot(config(tmp_path, name)) for name in "abc"]
    ids = tuple(sorted(each.member_id for each in booted))
    for each in booted:
        assert each.conf_state == ConfState(voters=ids)
        assert tuple(member.id for member in each.members) == ids
        assert (each.applier.index, each.applier.term) == (GENESIS.index, GENESIS.term) == (1, 1)
        assert (each.storage.first_index(), each.storage.last_index(), each.storage.term(1)) == (2, 1, 1)
        hard_state, conf_state = each.storage.initial_state()
        assert (hard_state, conf_state) == (HardState(0, 0, 1), each.conf_state)
        assert each.storage.snapshot().conf_state == each.conf_state
    assert len({each.member_id for each in booted}) == 3
    assert len({(each.applier.state_hash, each.cluster_id) for each in booted}) == 1
    for each in booted:
        close(each)
    again = boot(config(tmp_path, "b"))
    assert (again.conf_state, again.applier.index, again.storage.first_index()) == (ConfState(voters=ids), 1, 2)
    close(again)


def test_a_lone_member_counts_from_the_first_entry(tmp_path: Path) -> None:
    """As every version of raftkv did."""
    booted = boot(load([f"--data-dir={tmp_path}", "--unsafe-no-fsync"], {}))
    assert (booted.applier.index, booted.storage.first_index(), booted.storage.last_index()) == (0, 1, 0)
    close(booted)


def test_a_member_that_joins_begins_with_nothing(tmp_path: Path) -> None:
    """F-72, CL-06: it knows whom to listen to, and is in nobody's quorum, not even its own."""
    members = (Member(5, ("http://m5:1",), "five", data_id=55), Member(9, ("http://m9:1",), is_learner=True))
    booted = boot(config(tmp_path), Founding(9, 0xC1, members, (3, 4), joins=True))
    assert (booted.member_id, booted.cluster_id) == (9, 0xC1)
    assert booted.conf_state == ConfState()
    assert tuple(booted.members) == members
    assert booted.members.removed == [3, 4]
    assert (booted.applier.index, booted.storage.first_index(), booted.storage.last_index()) == (
        ORIGIN.index,
        1,
        0,
    )
    close(booted)
    again = boot(config(tmp_path))
    assert (again.member_id, tuple(again.members), again.members.removed) == (9, members, [3, 4])
    close(again)


def test_what_a_member_began_with_does_not_matter_when_it_has_data(tmp_path: Path) -> None:
    """F-70."""
    first = boot(config(tmp_path))
    close(first)
    other = found_cluster(config(tmp_path, "a", "--initial-cluster-token=other"))
    again = boot(config(tmp_path), other)
    assert again.member_id == first.member_id != other.member_id
    close(again)


# --- a store that was being installed ---------------------------------------------------------------------------------

COPIED = 30


def receive(tmp_path: Path) -> Booted:
    """Member `a` has applied a put of its own; a copy of member `b`'s newer store lies beside it, whole."""
    giver = boot(config(tmp_path, "b"))
    giver.applier.apply([put(index, b"of the copy") for index in range(2, COPIED + 1)])
    copy = giver.backend.begin_copy()
    taker = boot(config(tmp_path, "a"))
    taker.wal.stage(HardState(2, 0, 2), [put(2, b"its own")])
    taker.wal.flush()
    taker.applier.apply([put(2, b"its own")])
    received = ReceivedStore(tmp_path / "a" / "member" / "snap", copy.size_bytes)
    at = 0
    while piece := copy.read(at, 1 << 20):
        received.write(at, piece)
        at += len(piece)
    conf_state = encode_conf_state(giver.conf_state)
    received.finish(Expected(COPIED, 2, giver.cluster_id, conf_state, taker.member_id))
    copy.close()
    close(giver)
    return taker


def left_over(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "a" / "member" / "snap").glob("received-*"))


def test_a_store_that_the_log_decided_for_is_put_in_place(tmp_path: Path) -> None:
    """RF-46: the member crashed after its log was restarted behind the copy and before the stores were exchanged."""
    taker = receive(tmp_path)
    taker.wal.stage(HardState(2, 0, COPIED), (), LogPosition(COPIED, 2))
    taker.wal.flush()
    close(taker)
    assert len(left_over(tmp_path)) == 1

    booted = boot(config(tmp_path, "a"))

    assert (booted.applier.index, booted.applier.term, value_of(booted)) == (COPIED, 2, b"of the copy")
    assert (booted.storage.first_index(), booted.storage.last_index()) == (COPIED + 1, COPIED)
    assert (booted.member_id, booted.data_id) == (taker.member_id, taker.data_id)
    assert len(booted.conf_state.voters) == 3
    assert left_over(tmp_path) == []
    close(booted)


def test_a_store_that_the_log_does_not_speak_of_goes(tmp_path: Path) -> None:
    """RF-46: the member crashed before: the old store goes on, with the old log."""
    close(receive(tmp_path))
    assert len(left_over(tmp_path)) == 1

    booted = boot(config(tmp_path, "a"))

    assert (booted.applier.index, value_of(booted), booted.storage.last_index()) == (2, b"its own", 2)
    assert left_over(tmp_path) == []
    close(booted)

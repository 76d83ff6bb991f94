"""A store replaced by another member's, offline: what becomes of the log, what is refused, and what a crash leaves."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from raftkv.apply import Kind, encode_batch
from raftkv.config import Config, StartError, load
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import Entry, HardState
from raftkv.rpc.codes import Code
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import build_routes
from raftkv.server.bootstrap import Booted, DirectoryLock, boot
from raftkv.server.peers import Copies, Identity, PeerService
from raftkv.server.peers.copies import IDLE_S
from raftkv.server.rebuild import Rebuilt, must_restart, rebuild
from raftkv.wal import LogPosition, Wal, WalContents
from raftkv.wire import encode_conf_state

OURS, PEER = "m1", "m2"
PORTS: Final = {OURS: 1, PEER: 2}
"""For the members' ids; where the peer really listens, it says itself."""
VOTE: Final = 0xB0B


def config(directory: Path, name: str, token: str = "cluster") -> Config:
    """Of one of two members that were founded together."""
    urls = {each: f"http://127.0.0.1:{port}" for each, port in PORTS.items()}
    argv = {
        "data-dir": directory,
        "name": name,
        "initial-advertise-peer-urls": urls[name],
        "initial-cluster": ",".join(f"{each}={url}" for each, url in urls.items()),
        "initial-cluster-token": token,
        "unsafe-no-fsync": "true",
    }
    return load([f"--{flag}={value}" for flag, value in argv.items()], {})


def close(booted: Booted) -> None:
    booted.wal.close()
    booted.backend.close()
    booted.lock.release()


def put(index: int, term: int, text: str) -> Entry:
    message = rpc_pb2.PutRequest(key=b"k", value=f"{text} {index}".encode()).SerializeToString()
    return Entry(term, index, data=encode_batch(1, index, [(Kind.PUT, message)]))


@dataclass(kw_only=True)
class Story:
    """What a member has in its log, from entry 2 on (entry 1 of a cluster is its founding), and in its store."""

    name: str
    terms: list[int]
    """Of entry 2, 3, ..."""
    applied: int
    text: str = "right"
    """What its store says; the log is right."""
    hard_term: int = 0
    """The last entry's unless given."""
    token: str = "cluster"

    def write(self, directory: Path) -> None:
        booted = boot(config(directory, self.name, self.token))
        log = [put(index, term, "right") for index, term in enumerate(self.terms, 2)]
        booted.wal.stage(HardState(self.hard_term or self.terms[-1], VOTE, self.applied), log)
        booted.wal.flush()
        booted.applier.apply([put(each.index, each.term, self.text) for each in log[: self.applied - 1]])
        close(booted)


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Ours, the peer's."""
    yield tmp_path / OURS, tmp_path / PEER
    shutil.rmtree(tmp_path)  # preallocated segments are large


class _Host:
    """As much of a node as the peer service asks for in these tests."""

    def __init__(self, booted: Booted, url: str) -> None:
        self.identity = Identity(booted.cluster_id, booted.member_id, booted.data_id)
        self.members = booted.members
        self._url = url
        self.removed: list[int] = []

    def on_forwarded(self, call: Any, _request: Any) -> None:
        call.fail(Code.UNAVAILABLE, "nobody forwards here")

    def known_members(self) -> peer_pb2.MembersResponse:
        records = [each.to_record() for each in self.members if each.id not in self.removed]
        for record in records:
            if self.identity.member_id == record.ID:
                record.name = PEER
                record.peerURLs[:] = [self._url]
        return peer_pb2.MembersResponse(cluster_id=self.identity.cluster_id, members=records, removed=self.removed)


@dataclass
class Peer:
    url: str
    host: _Host
    copies: Copies


@asynccontextmanager
async def serving(directory: Path, token: str = "cluster") -> AsyncIterator[Peer]:
    """The peer's store behind a real socket."""
    loop = asyncio.get_running_loop()
    booted = boot(config(directory, PEER, token))
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    host: Any = _Host(booted, url)
    conf_state = encode_conf_state(booted.applier.conf_state)
    copies = Copies(loop, booted.backend, lambda: conf_state, lambda _member, _received: None)
    listener = Listener(loop, build_routes((PeerService(host, copies).service(),)))
    await listener.start(sock)
    try:
        yield Peer(url, host, copies)
    finally:
        listener.close()
        await copies.stop()
        close(booted)


def run(ours: Path, peers: Path, token: str = "cluster") -> Rebuilt:
    async def scenario() -> Rebuilt:
        async with serving(peers, token) as peer:
            return await rebuild(ours, ours / "member" / "wal", peer.url)

    return asyncio.run(scenario())


@contextmanager
def booted_again(directory: Path) -> Iterator[Booted]:
    booted = boot(config(directory, OURS))
    try:
        yield booted
    finally:
        close(booted)


def value(booted: Booted) -> bytes:
    found = booted.store.get(booted.backend.read(), b"k")
    assert found is not None
    return found.value


def leftovers(directory: Path) -> list[str]:
    store = directory / "member" / "snap"
    return sorted(path.name for pattern in ("received-*", "incoming*", "data.mdb.*") for path in store.glob(pattern))


# --- what becomes of the log ------------------------------------------------------------------------------------------


def test_a_log_that_holds_the_last_entry_of_the_copy_is_kept(directories: tuple[Path, Path]) -> None:
    """The copy is older than what this member has acknowledged: only its log has the rest."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 7, applied=6, text="wrong", hard_term=3).write(ours)
    Story(name=PEER, terms=[1] * 4, applied=5).write(peers)
    rebuilt = run(ours, peers)
    assert (rebuilt.copy, rebuilt.last, rebuilt.log_restarted) == (LogPosition(5, 1), LogPosition(8, 1), False)
    assert rebuilt.peer_name == PEER
    with booted_again(ours) as booted:
        assert booted.member_id == rebuilt.member_id
        assert value(booted) == b"right 5"
        assert booted.applier.index == 5
        assert booted.storage.initial_state()[0] == HardState(3, VOTE, 6)
        log = booted.storage.entries(6, 9, 1 << 20)
        booted.applier.apply(log)
        assert value(booted) == b"right 8"
    assert leftovers(ours) == []


@pytest.mark.parametrize(
    ("hard_term", "kept"),
    [
        (3, HardState(3, VOTE, 9)),
        (2, HardState(2, VOTE, 9)),
        (1, HardState(2, 0, 9)),  # nobody was voted for in a term that this member has not seen
    ],
)
def test_a_log_that_ends_before_the_copy_restarts_behind_it(
    hard_term: int, kept: HardState, directories: tuple[Path, Path]
) -> None:
    """RF-45; thesis §3.8: a term does not go back, a vote is not given twice in it."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong", hard_term=hard_term).write(ours)
    Story(name=PEER, terms=[1, 1, 1, 1, 1, 2, 2, 2], applied=9).write(peers)
    rebuilt = run(ours, peers)
    assert (rebuilt.copy, rebuilt.last, rebuilt.log_restarted) == (LogPosition(9, 2), LogPosition(9, 2), True)
    with booted_again(ours) as booted:
        assert value(booted) == b"right 9"
        assert (booted.storage.first_index(), booted.storage.last_index()) == (10, 9)
        assert booted.storage.term(9) == 2
        assert booted.storage.initial_state()[0] == kept
        assert booted.member_id == rebuilt.member_id


def test_entries_that_were_never_committed_go(directories: tuple[Path, Path]) -> None:
    """Another entry was committed in the place of one of ours (thesis §3.6)."""
    ours, peers = directories
    Story(name=OURS, terms=[1, 1, 1, 2, 2], applied=4, text="wrong").write(ours)
    Story(name=PEER, terms=[1, 1, 1, 3], applied=5).write(peers)
    rebuilt = run(ours, peers)
    assert (rebuilt.last, rebuilt.log_restarted) == (LogPosition(5, 3), True)
    with booted_again(ours) as booted:
        assert (value(booted), booted.storage.last_index()) == (b"right 5", 5)
        assert booted.storage.initial_state()[0] == HardState(3, 0, 5)


def log_with(base: LogPosition, terms: list[int], commit: int) -> WalContents:
    entries = [Entry(term, index) for index, term in enumerate(terms, base.index + 1)]
    return WalContents(b"", HardState(9, 0, commit), base, entries)


@pytest.mark.parametrize(
    ("copy", "restarts"),
    [
        (LogPosition(10, 2), False),  # where the log begins
        (LogPosition(11, 2), False),
        (LogPosition(13, 4), False),  # its last entry
        (LogPosition(14, 4), True),
        (LogPosition(13, 5), True),
        (LogPosition(12, 3), True),
    ],
)
def test_whether_the_log_restarts(copy: LogPosition, restarts: bool) -> None:
    log = log_with(LogPosition(10, 2), [2, 4, 4], commit=11)
    assert must_restart(log, copy) is restarts


@pytest.mark.parametrize(
    ("copy", "text"),
    [
        (LogPosition(9, 2), "has applied up to entry 9, but the log here begins after entry 10"),
        (LogPosition(10, 1), "the logs contradict each other"),
        (LogPosition(11, 3), "entry 11 was committed with term 2 here, and with term 3 there"),
    ],
)
def test_copies_that_do_not_go_with_the_log(copy: LogPosition, text: str) -> None:
    with pytest.raises(StartError, match=text):
        must_restart(log_with(LogPosition(10, 2), [2, 4, 4], commit=11), copy)


# --- refusals ---------------------------------------------------------------------------------------------------------


async def _from_another_url(peer: Peer, ours: Path) -> Rebuilt:
    return await rebuild(ours, ours / "member" / "wal", peer.url.replace("127.0.0.1", "localhost"))


async def _from_nobody(peer: Peer, ours: Path) -> Rebuilt:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return await rebuild(ours, ours / "member" / "wal", f"http://127.0.0.1:{port}")


async def _after_removal(peer: Peer, ours: Path) -> Rebuilt:
    peer.host.removed = [each.id for each in peer.host.members if each.id != peer.host.identity.member_id]
    return await rebuild(ours, ours / "member" / "wal", peer.url)


async def _without_log(peer: Peer, ours: Path) -> Rebuilt:
    return await rebuild(ours, ours / "wal", peer.url)


async def _while_in_use(peer: Peer, ours: Path) -> Rebuilt:
    lock = DirectoryLock(ours / "member")
    try:
        return await rebuild(ours, ours / "member" / "wal", peer.url)
    finally:
        lock.release()


async def _too_many_copies(peer: Peer, ours: Path) -> Rebuilt:
    peer.copies.open = lambda call, _reader, _request: call.fail(Code.RESOURCE_EXHAUSTED, "too many copies")  # type: ignore[method-assign]
    return await rebuild(ours, ours / "member" / "wal", peer.url)


async def _closed_half_way(peer: Peer, ours: Path) -> Rebuilt:
    really_open = peer.copies.open

    def open_and_forget(call: Any, reader: int, request: peer_pb2.OpenCopyRequest) -> None:
        really_open(call, reader, request)
        peer.copies.on_tick(asyncio.get_running_loop().time() + IDLE_S)

    peer.copies.open = open_and_forget  # type: ignore[method-assign]
    return await rebuild(ours, ours / "member" / "wal", peer.url)


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (
            _from_another_url,
            r"no other member of the cluster has the peer URL http://localhost:\d+. Give one of these: m2=",
        ),
        (_from_nobody, "no member answers at http"),
        (_after_removal, "was removed from the cluster. Remove this member from the cluster and add it anew"),
        (_without_log, "there is no log in .*, so there is no member to rebuild"),
        (_while_in_use, "is in use by another raftkv"),
        (_closed_half_way, "this copy is closed. Nothing was changed. Try again, or with another member"),
        (_too_many_copies, "no copy of the store can be had from .*: too many copies. Nothing was changed"),
    ],
)
def test_refused_and_nothing_changed(
    attempt: Callable[[Peer, Path], Coroutine[Any, Any, Rebuilt]], text: str, directories: tuple[Path, Path]
) -> None:
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 6, applied=7).write(peers)

    async def scenario() -> None:
        async with serving(peers) as peer:
            await attempt(peer, ours)

    with pytest.raises(StartError, match=text):
        asyncio.run(scenario())
    _expect_unchanged(ours)


def _expect_unchanged(ours: Path) -> None:
    assert leftovers(ours) == []
    with booted_again(ours) as booted:
        assert (value(booted), booted.applier.index, booted.storage.last_index()) == (b"wrong 6", 6, 6)


def test_another_clusters_member_is_refused(directories: tuple[Path, Path]) -> None:
    """H-71."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 6, applied=7, token="other").write(peers)
    with pytest.raises(StartError, match="belongs to cluster"):
        run(ours, peers, token="other")
    _expect_unchanged(ours)


def test_a_peer_that_lags_behind_the_beginning_of_the_log_is_refused(directories: tuple[Path, Path]) -> None:
    ours, peers = directories
    Story(name=OURS, terms=[1] * 8, applied=9).write(ours)
    Story(name=PEER, terms=[1] * 4, applied=5).write(peers)
    booted = boot(config(ours, OURS))
    booted.wal.stage(None, (), LogPosition(9, 1))  # what came before was let go
    close(booted)
    with pytest.raises(StartError, match=r"has applied entry 5, 9 is wanted. Nothing was changed. Wait until"):
        run(ours, peers)
    with booted_again(ours) as again:
        assert (value(again), again.storage.first_index()) == (b"right 9", 10)


def test_no_room_for_the_copy(directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 6, applied=7).write(peers)

    async def scenario() -> None:
        async with serving(peers) as peer:
            with monkeypatch.context() as full:
                full.setattr("raftkv.backend.received.os.posix_fallocate", _no_space)
                await rebuild(ours, ours / "member" / "wal", peer.url)

    with pytest.raises(StartError, match=r"no room for a copy of .* Make room on the disk"):
        asyncio.run(scenario())
    _expect_unchanged(ours)


def _no_space(_fd: int, _offset: int, _size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- crashes ----------------------------------------------------------------------------------------------------------

FINISH = "raftkv.backend.received:ReceivedStore.finish"
RECORD = "raftkv.server.rebuild:_Rebuild._restart_log"
INSTALL = "raftkv.server.rebuild:install"
SWAP = "raftkv.backend.datadir:finish_swap"

_DIES_AT = """
import importlib, os, sys
from raftkv.cli.main import run

module, _, path = sys.argv[1].partition(":")
owner = importlib.import_module(module)
*way, name = path.split(".")
for step in way:
    owner = getattr(owner, step)
getattr(owner, name)  # it must exist
setattr(owner, name, lambda *_args: os._exit(99))
sys.exit(run(["rebuild", *sys.argv[2:]]))
"""


async def _run_and_die(where: str, ours: Path, peers: Path) -> None:
    """The command in a process of its own, which dies when it comes to that function."""
    async with serving(peers) as peer:
        argv = ("-c", _DIES_AT, where, "--data-dir", str(ours), "--from", peer.url)
        process = await asyncio.create_subprocess_exec(sys.executable, *argv, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        assert process.returncode == 99, errors.decode()


@pytest.mark.crash
@pytest.mark.parametrize(("where", "new"), [(FINISH, False), (INSTALL, False), (SWAP, True)])
def test_death_on_the_way_with_the_log_kept(where: str, new: bool, directories: tuple[Path, Path]) -> None:
    """RF-46: either store goes with the log as it is."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 7, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 4, applied=5).write(peers)
    asyncio.run(_run_and_die(where, ours, peers))
    with booted_again(ours) as booted:
        expected = (b"right 5", 5, 8) if new else (b"wrong 6", 6, 8)
        assert (value(booted), booted.applier.index, booted.storage.last_index()) == expected
    assert leftovers(ours) == []
    assert run(ours, peers).copy == LogPosition(5, 1)
    with booted_again(ours) as booted:
        assert value(booted) == b"right 5"


@pytest.mark.crash
@pytest.mark.parametrize(("where", "new"), [(FINISH, False), (RECORD, False), (INSTALL, True), (SWAP, True)])
def test_death_on_the_way_with_the_log_restarted(where: str, new: bool, directories: tuple[Path, Path]) -> None:
    """RF-46: from the record in the log on the copy is the store, before it the old one is; never one of each."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 8, applied=9).write(peers)
    asyncio.run(_run_and_die(where, ours, peers))
    with booted_again(ours) as booted:
        expected = (b"right 9", 9, 9) if new else (b"wrong 6", 6, 6)
        assert (value(booted), booted.applier.index, booted.storage.last_index()) == expected
    assert leftovers(ours) == []


@pytest.mark.crash
def test_an_interrupted_installation_does_not_come_after_the_next(directories: tuple[Path, Path]) -> None:
    """A copy that the log waits for is settled first: otherwise the next start would put it over the newer one."""
    ours, peers = directories
    Story(name=OURS, terms=[1] * 5, applied=6, text="wrong").write(ours)
    Story(name=PEER, terms=[1] * 11, applied=9).write(peers)
    asyncio.run(_run_and_die(INSTALL, ours, peers))
    log = [put(index, 1, "right") for index in (10, 11, 12)]
    wal, _ = Wal.open(ours / "member" / "wal")
    wal.stage(None, log)
    wal.close()
    booted = boot(config(peers, PEER))
    booted.applier.apply(log[:2])
    close(booted)
    rebuilt = run(ours, peers)
    assert (rebuilt.copy, rebuilt.log_restarted) == (LogPosition(11, 1), False)
    with booted_again(ours) as again:
        assert (value(again), again.applier.index, again.storage.last_index()) == (b"right 11", 11, 12)

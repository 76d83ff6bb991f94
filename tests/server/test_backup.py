"""Snapshots of a stopped member, of a running one, and what is said of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from backup_support import NAMES, booted, config, dump_backend, dump_file, live, put, requests

from raftkv.apply import encode_member_change
from raftkv.backend import DamagedError
from raftkv.config import StartError
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import Entry, EntryType, encode_conf_change
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Service, build_routes
from raftkv.server.backup import Credentials, save_offline, save_online, snapshot_status
from raftkv.server.bootstrap import DirectoryLock

STORE = bytes(range(256)) * 4


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    shutil.rmtree(tmp_path)  # preallocated segments are large


# --- of a stopped member ----------------------------------------------------------------------------------------------


def test_what_is_only_in_the_log_is_in_the_snapshot(data_dir: Path) -> None:
    """RF-41: the store lags after a kill, and the commit index on disk lags behind what a lone voter acknowledged."""
    settings = config(data_dir)
    life = requests(100)
    live(settings, life, applied=60, commit=80)
    path = data_dir.parent / "backup.db"
    told: list[tuple[int, int]] = []
    saved = save_offline(data_dir, None, path, lambda *each: told.append(each))
    assert (saved.applied, saved.replayed, saved.left_out) == (len(life), len(life) - 60, 0)
    assert saved.size_bytes == path.stat().st_size - 32
    assert told[-1] == (saved.size_bytes, saved.size_bytes)
    with booted(settings) as member:  # it goes on as if it had been started
        assert member.applier.index == len(life)
        assert dump_backend(member.backend) == dump_file(path)
        value = member.store.get(member.backend.read(), b"k019")
        assert value is not None
        assert value.value == b"v99"


def test_of_a_cluster_only_what_is_known_to_be_committed(data_dir: Path) -> None:
    """RF-41: what only this member has may have been overwritten on the others."""
    settings = config(data_dir, "m2", NAMES)
    live(settings, [put(number) for number in range(20)], applied=5, commit=12)
    path = data_dir.parent / "backup.db"
    saved = save_offline(data_dir, None, path)
    assert (saved.applied, saved.replayed, saved.left_out) == (13, 7, 8)
    assert snapshot_status(path).total_keys == 12
    with booted(settings) as member:
        assert (member.applier.index, member.storage.last_index()) == (13, 21)


def test_a_lone_voter_speaks_for_itself_until_it_has_company(data_dir: Path) -> None:
    settings = config(data_dir)
    live(settings, [put(number) for number in range(4)], commit=2)
    change = encode_member_change(1, 5, peer_pb2.MemberChange.ADD, 0xB, ["http://127.0.0.1:8001"])
    with booted(settings) as member:
        entries = [Entry(3, 5, EntryType.CONF_CHANGE, encode_conf_change(change)), Entry(3, 6), Entry(3, 7)]
        member.wal.stage(None, entries)
        member.wal.flush()
    saved = save_offline(data_dir, None, data_dir.parent / "backup.db")
    assert (saved.applied, saved.left_out) == (5, 2)


def test_a_log_elsewhere(data_dir: Path) -> None:
    wal_dir = data_dir.parent / "wal"
    live(config(data_dir, wal_dir=wal_dir), [put(1)])
    with pytest.raises(StartError, match=r"there is no log in .*data/member/wal"):
        save_offline(data_dir, None, data_dir.parent / "backup.db")
    assert save_offline(data_dir, wal_dir, data_dir.parent / "backup.db").applied == 1


def test_there_is_no_member(data_dir: Path) -> None:
    """Looking for one must not make one."""
    with pytest.raises(StartError, match="there is no member to take a snapshot of"):
        save_offline(data_dir, None, data_dir.parent / "backup.db")
    assert list(data_dir.parent.iterdir()) == []


def test_a_member_that_runs_is_left_alone(data_dir: Path) -> None:
    """PY-36."""
    live(config(data_dir), [put(1)])
    lock = DirectoryLock(data_dir / "member")
    try:
        with pytest.raises(StartError, match="is in use by another raftkv"):
            save_offline(data_dir, None, data_dir.parent / "backup.db")
    finally:
        lock.release()
    assert list(data_dir.parent.glob("backup*")) == []


def test_a_full_disk_leaves_neither_half_a_file_nor_a_lock(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(config(data_dir), [put(1)])

    def no_space(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("raftkv.backend.snapshot_file.write_all", no_space)
        with pytest.raises(OSError, match="No space left"):
            save_offline(data_dir, None, data_dir.parent / "backup.db")
    assert list(data_dir.parent.glob("backup*")) == []
    assert save_offline(data_dir, None, data_dir.parent / "backup.db").applied == 1


# --- what is in one ---------------------------------------------------------------------------------------------------


def test_status(data_dir: Path) -> None:
    """CT-21."""
    live(config(data_dir), requests(100))
    path = data_dir.parent / "backup.db"
    save_offline(data_dir, None, path)
    status = snapshot_status(path)
    assert status.revision == 1 + 100 + 3  # a lease, a compaction and an alarm take none
    assert status.compacted_revision == 5
    assert status.total_keys == 40 + 2 - 1
    assert status.size_bytes == path.stat().st_size - 32
    assert status.version == "3.6.0"
    assert status.verified
    copy = data_dir.parent / "copy.db"
    copy.write_bytes(path.read_bytes()[:-32])
    assert snapshot_status(copy) == status._replace(verified=False)


def test_status_of_a_damaged_one(data_dir: Path) -> None:
    live(config(data_dir), [put(1)])
    path = data_dir.parent / "backup.db"
    save_offline(data_dir, None, path)
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="damaged: the SHA-256 of its content is"):
        snapshot_status(path)


# --- of a running member ----------------------------------------------------------------------------------------------


class _Sends:
    """A member whose Snapshot call sends these blobs, and then ends or breaks off."""

    def __init__(self, blobs: list[bytes], failure: Code | None = None) -> None:
        self.blobs = blobs
        self.failure = failure
        self.tokens: list[str | None] = []

    def services(self) -> tuple[Service, ...]:
        return (
            Service("etcdserverpb.Maintenance").server_stream("Snapshot", self._open),
            Service("etcdserverpb.Auth").unary("Authenticate", self._authenticate),
        )

    def _open(self, call: Any) -> Any:
        self.tokens.append(call.metadata("token"))
        return _Stream(self, call)

    def _authenticate(self, call: Any, message: bytes) -> None:
        request = rpc_pb2.AuthenticateRequest.FromString(message)
        if request.password != "right":
            call.fail(Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
            return
        call.reply(rpc_pb2.AuthenticateResponse(token=f"{request.name}.1").SerializeToString())


class _Stream:
    def __init__(self, member: _Sends, call: Any) -> None:
        self._member = member
        self._call = call

    def on_message(self, _message: bytes) -> None:
        left = sum(map(len, self._member.blobs))
        for blob in self._member.blobs:
            left -= len(blob)
            self._call.send(rpc_pb2.SnapshotResponse(blob=blob, remaining_bytes=left).SerializeToString())
        if self._member.failure is None:
            self._call.finish()
        else:
            self._call.fail(self._member.failure, "the store cannot be read: it breaks off")

    def on_half_close(self) -> None: ...

    def on_writable(self) -> None: ...

    def on_closed(self) -> None: ...


@asynccontextmanager
async def serving(member: _Sends) -> AsyncIterator[int]:
    """Its port."""
    listener = Listener(asyncio.get_running_loop(), build_routes(member.services()))
    sock = socket.create_server(("127.0.0.1", 0))
    await listener.start(sock)
    try:
        yield sock.getsockname()[1]
    finally:
        listener.close()


def save(member: _Sends, path: Path, credentials: Credentials | None = None) -> int:
    async def scenario() -> int:
        async with serving(member) as port:
            return await save_online("127.0.0.1", port, path, credentials)

    return asyncio.run(scenario())


DIGEST = hashlib.sha256(STORE).digest()


@pytest.mark.parametrize(
    "blobs",
    [[STORE, DIGEST], [STORE + DIGEST], [STORE[:100], STORE[100:] + DIGEST[:5], DIGEST[5:]], [STORE, b"", DIGEST]],
)
def test_online(blobs: list[bytes], tmp_path: Path) -> None:
    """MT-10, MT-11: wherever the server cuts."""
    path = tmp_path / "backup.db"
    assert save(_Sends(blobs), path) == len(STORE)
    assert path.read_bytes() == STORE + DIGEST
    assert list(tmp_path.iterdir()) == [path]


def test_online_with_a_token(tmp_path: Path) -> None:
    """AU-41, G-23, MT-14."""
    member = _Sends([STORE, DIGEST])
    save(member, tmp_path / "backup.db", Credentials("root", "right"))
    assert member.tokens == ["root.1"]
    with pytest.raises(RpcError, match="authentication failed"):
        save(member, tmp_path / "backup.db", Credentials("root", "wrong"))
    assert len(member.tokens) == 1


@pytest.mark.parametrize(
    ("member", "error", "text"),
    [
        (_Sends([STORE[:-1], DIGEST]), DamagedError, "not a whole snapshot"),
        (_Sends([STORE[:512], DIGEST]), DamagedError, "does not match the SHA-256"),
        (_Sends([STORE]), DamagedError, "not a whole snapshot"),
        (_Sends([]), DamagedError, "not a whole snapshot"),
        (_Sends([STORE], Code.INTERNAL), RpcError, "it breaks off"),
        (_Sends([STORE, DIGEST], Code.UNAVAILABLE), RpcError, "it breaks off"),
    ],
)
def test_online_what_went_wrong_leaves_nothing(
    member: _Sends, error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        save(member, tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []


def test_online_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("raftkv.backend.snapshot_file.write_all", no_space)
    with pytest.raises(OSError, match="No space left"):
        save(_Sends([STORE] * 1000), tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []

"""Members on disk for the tests of backups: log and store as a life of requests left them, and tables to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from raftkv.apply import Kind, encode_batch
from raftkv.backend import Backend
from raftkv.backend.saved_store import SavedStore
from raftkv.backend.schema import Tables
from raftkv.config import Config, load
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry, HardState
from raftkv.server.bootstrap import Booted, boot

TERM: Final = 3
LEASE: Final = 0x1EA5E
NAMES: Final = ("m1", "m2", "m3")

Dump = dict[str, list[tuple[bytes, bytes]]]
"""Table -> what is in it."""


def config(
    directory: Path, name: str = "m1", names: Iterable[str] = ("m1",), token: str = "old", **more: Any
) -> Config:
    urls = {each: f"http://127.0.0.1:{8000 + NAMES.index(each)}" for each in names}
    flags = {
        "data-dir": directory,
        "name": name,
        "initial-advertise-peer-urls": urls[name],
        "initial-cluster": ",".join(f"{each}={url}" for each, url in urls.items()),
        "initial-cluster-token": token,
        "unsafe-no-fsync": "true",
    } | {flag.replace("_", "-"): value for flag, value in more.items()}
    return load([f"--{flag}={value}" for flag, value in flags.items()], {})


def close(booted: Booted) -> None:
    booted.wal.close()
    booted.backend.close()
    booted.lock.release()


@contextmanager
def booted(settings: Config) -> Iterator[Booted]:
    member = boot(settings)
    try:
        yield member
    finally:
        close(member)


def put(number: int, **fields: Any) -> tuple[int, Message]:
    return Kind.PUT, rpc_pb2.PutRequest(key=b"k%03d" % (number % 40), value=b"v%d" % number, **fields)


def requests(count: int) -> list[tuple[int, Message]]:
    """A life: puts that overwrite each other, a lease, a long key, megabytes, a delete, a compaction, an alarm."""
    life: list[tuple[int, Message]] = [put(number) for number in range(count)]
    life += [
        (Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=LEASE, TTL=600)),
        (Kind.PUT, rpc_pb2.PutRequest(key=b"leased", value=b"x", lease=LEASE)),
        (Kind.PUT, rpc_pb2.PutRequest(key=b"long" * 500, value=b"y" * (3 << 20))),
        (Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k007")),
        (Kind.COMPACT, rpc_pb2.CompactionRequest(revision=5)),
        (Kind.ALARM, rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=9, alarm=rpc_pb2.NOSPACE)),
    ]
    return life


def live(
    settings: Config, life: list[tuple[int, Message]], *, applied: int | None = None, commit: int | None = None
) -> None:
    """A member whose log has an entry for each request. Of those, `applied` are in its store, and `commit` are known
    to be committed; all unless given."""
    member = boot(settings)
    base = member.applier.index
    log = [
        Entry(TERM, index, data=encode_batch(1, index, [(kind, request.SerializeToString())]))
        for index, (kind, request) in enumerate(life, base + 1)
    ]
    applied = len(log) if applied is None else applied
    commit = len(log) if commit is None else commit
    member.wal.stage(HardState(TERM, member.member_id, base + commit), log)
    member.wal.flush()
    if applied:
        member.applier.apply(log[:applied])
        member.backend.commit()
    close(member)


def dump_file(path: Path) -> Dump:
    """Of a snapshot."""
    with SavedStore(path) as store:
        return {name: list(store.txn.cursor(table)) for name, table in zip(Tables._fields, store.tables, strict=True)}


def dump_backend(backend: Backend) -> Dump:
    txn = backend.read()
    return {name: list(txn.cursor(table)) for name, table in zip(Tables._fields, backend.tables, strict=True)}

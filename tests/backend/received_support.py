"""A peer's store on its way to this member: the sender, the pieces, and a stand-in for the log that decides."""

from __future__ import annotations

import os
from pathlib import Path

from backend_support import BOOT, Stores, fill

from raftkv.backend import Backend, Expected, HotCopy, Meta, ReceivedStore, settle_received
from raftkv.backend.checkpoint import sync_directory
from raftkv.backend.schema import pack_consistent_index, pack_u64

POSITION = (100, 7)
"""(index, term) of the sender's store."""
OLD_POSITION = (40, 5)
CLUSTER_ID, SENDER_ID, OUR_ID = 0xC1, 0xA1, 0xB2
CONF_STATE = b"\x01voters"
EXPECTED = Expected(*POSITION, CLUSTER_ID, CONF_STATE, OUR_ID)

OLD = {b"%03d" % n: b"old" * 300 for n in range(60)}
OPEN = {b"open": b"not committed"}
NEW = {b"%03d" % n: b"new" * 300 for n in range(50, 90)}
AFTER = {b"after": b"1"}


def identify(backend: Backend, position: tuple[int, int], member_id: int) -> None:
    meta = {
        Meta.CONSISTENT_INDEX: pack_consistent_index(*position),
        Meta.CLUSTER_ID: pack_u64(CLUSTER_ID),
        Meta.MEMBER_ID: pack_u64(member_id),
        Meta.CONF_STATE: CONF_STATE,
    }
    for key, value in meta.items():
        backend.begin_write().put(key, value, db=backend.tables.meta)
    backend.commit()


def sender(stores: Stores, directory: Path, items: dict[bytes, bytes] = NEW, map_size_bytes: int = 16 << 20) -> Backend:
    """The store of a peer that is ahead of us. Its file has free pages as well, with the garbage of a life."""
    backend = stores.open(directory, map_size_bytes=map_size_bytes)
    fill(backend, dict.fromkeys(items, b"overwritten" * 90))
    fill(backend, items)
    identify(backend, POSITION, SENDER_ID)
    return backend


def behind(stores: Stores, directory: Path, map_size_bytes: int = 16 << 20) -> Backend:
    """Our own store: what it holds is OLD."""
    backend = stores.open(directory, map_size_bytes=map_size_bytes)
    fill(backend, OLD)
    identify(backend, OLD_POSITION, OUR_ID)
    return backend


def copied(backend: Backend) -> bytes:
    """A whole copy of a store, as it travels."""
    copy = backend.begin_copy()
    try:
        return all_of(copy)
    finally:
        copy.close()


def all_of(copy: HotCopy) -> bytes:
    pieces = bytearray()
    while piece := copy.read(len(pieces), 32 << 10):
        pieces += piece
    return bytes(pieces)


def receive(directory: Path, data: bytes, expect: Expected = EXPECTED, piece_bytes: int = 64 << 10) -> ReceivedStore:
    received = ReceivedStore(directory, len(data))
    for offset in range(0, len(data), piece_bytes):
        received.write(offset, data[offset : offset + piece_bytes])
    received.finish(expect)
    return received


# --- the log ------------------------------------------------------------------------------------------------


def decide(log: Path, position: tuple[int, int]) -> None:
    """The log restarts behind `position`, durably when this returns."""
    fd = os.open(log / "log.tmp", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, b"%d %d" % position)
    os.fsync(fd)
    os.close(fd)
    os.rename(log / "log.tmp", log / "log")
    sync_directory(log)


def read_log(log: Path) -> tuple[int, int] | None:
    """Where the log restarts, durable as read; None if it begins with the first entry."""
    sync_directory(log)
    try:
        index, term = (log / "log").read_bytes().split()
    except FileNotFoundError:
        return None
    return int(index), int(term)


def restart(member: Path, stores: Stores, boot_id: str = BOOT, map_size_bytes: int = 16 << 20) -> Backend:
    """What a process does when it starts: read the log, settle, open."""
    settle_received(member / "snap", read_log(member / "wal"))
    return stores.open(member / "snap", boot_id, map_size_bytes)

"""Maintenance.Snapshot: the store at one moment as a stream of bytes, and their SHA-256 at the end (MT-10 to MT-13).

The disk is read in a thread, a piece at a time, no faster than the client takes it; writes go on meanwhile. Holds one
piece in memory, whatever the size of the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from time import perf_counter
from typing import TYPE_CHECKING, Final

from raftkv.backend import BackendError
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.version import STORAGE_VERSION

if TYPE_CHECKING:
    from raftkv.api.context import ApiContext
    from raftkv.backend import HotCopy
    from raftkv.rpc.service import Call

_log = logging.getLogger(__name__)

PIECE_BYTES: Final = 1 << 20
"""Read and hashed at once, in the thread."""
BLOB_BYTES: Final = 32 << 10
"""Most in one message (MT-10)."""
SLOW_S: Final = 30.0


class SnapshotStream:
    """The receiver of one Snapshot call."""

    __slots__ = ("_began_s", "_call", "_context", "_copy", "_hash", "_offset", "_reading", "_waits_for_client")

    def __init__(self, context: ApiContext, call: Call) -> None:
        self._context = context
        self._call = call
        self._copy: HotCopy | None = None
        self._offset = 0
        self._hash = hashlib.sha256()
        self._reading: asyncio.Future[bytes] | None = None
        self._waits_for_client = False
        self._began_s = perf_counter()

    def on_message(self, _message: bytes) -> None:
        try:
            self._copy = self._context.node.backend.begin_copy()
        except (BackendError, OSError) as failure:
            self._call.fail(Code.INTERNAL, f"the store cannot be copied: {failure}")
            return
        self._read()

    def _read(self) -> None:
        self._reading = self._context.node.loop.run_in_executor(None, self._read_piece)
        self._reading.add_done_callback(self._on_piece)

    def _read_piece(self) -> bytes:
        """In a thread. Nobody else touches the copy or the hash until `_on_piece`."""
        assert self._copy is not None
        piece = self._copy.read(self._offset, PIECE_BYTES)
        self._hash.update(piece)
        return piece

    def _on_piece(self, reading: asyncio.Future[bytes]) -> None:
        self._reading = None
        if self._call.cancelled:
            self._close()
            return
        failure = reading.exception()
        if failure is not None:
            self._call.fail(Code.INTERNAL, f"the store cannot be read: {failure}")
            return
        piece = reading.result()
        if not piece:
            self._send_blob(self._hash.digest(), 0)
            self._note_duration(perf_counter() - self._began_s)
            self._context.node.counters.backups += 1
            self._call.finish()
        elif self._send_piece(piece):
            self._read()
        else:
            self._waits_for_client = True

    def _note_duration(self, took_s: float) -> None:
        self._context.node.durations.snapshot.observe(took_s)
        if took_s > SLOW_S:  # MT-15
            fields = {"took_s": round(took_s), "size_bytes": self._offset}
            _log.warning("a snapshot took long; its pages could not be used again meanwhile", extra={"kv": fields})

    def _send_piece(self, piece: bytes) -> bool:
        assert self._copy is not None
        room = True
        for start in range(0, len(piece), BLOB_BYTES):
            blob = piece[start : start + BLOB_BYTES]
            self._offset += len(blob)
            room = self._send_blob(blob, self._copy.size_bytes - self._offset)
        return room

    def _send_blob(self, blob: bytes, remaining_bytes: int) -> bool:
        response = rpc_pb2.SnapshotResponse(remaining_bytes=remaining_bytes, blob=blob, version=STORAGE_VERSION)
        return self._call.send(response.SerializeToString())

    def on_half_close(self) -> None: ...

    def on_writable(self) -> None:
        if self._waits_for_client:
            self._waits_for_client = False
            self._read()

    def on_closed(self) -> None:
        self._waits_for_client = False
        if self._reading is None:  # else the thread still reads; `_on_piece` closes
            self._close()

    def _close(self) -> None:
        if self._copy is not None:
            self._copy.close()
            self._copy = None

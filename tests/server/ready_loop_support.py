"""A ready loop with the real core of one member, and the test's hand on its disk, its clock and what others say."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from server_support import FakeLoop

from raftkv.apply import Kind, decode_batch
from raftkv.raft import (
    Config,
    ConfState,
    Entry,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RawNode,
    ReadState,
    Snapshot,
    SoftState,
)
from raftkv.server import ready_loop as module
from raftkv.server.proposals import Proposals
from raftkv.server.ready_loop import ReadyLoop
from raftkv.wal import FlushResult, LogPosition

ME = 1


class Flusher:
    def __init__(self, _loop: object, _wal: object, on_flushed: Any, *_: object) -> None:
        self.on_flushed = on_flushed
        self.busy = False
        self.kicks = 0
        self.syncs = 0
        """... of these, by the loop itself."""
        self.waits_for_sync = False
        self.stopped = False
        self.looks = 0

    def kick(self, *, on_loop: bool = False) -> None:
        assert not self.busy
        self.busy = True
        self.kicks += 1
        self.waits_for_sync = on_loop

    def sync(self) -> None:
        assert self.waits_for_sync
        self.busy = self.waits_for_sync = False
        self.syncs += 1
        self.on_flushed(FlushResult(100, 0.0, 0.0001))

    def look_after(self) -> None:
        self.looks += 1

    def stop(self) -> bool:
        self.stopped = True
        return True


class Scene:
    """The loop's owner, its log, and the hand on the disk."""

    def __init__(self, *others: int) -> None:
        self.loop = FakeLoop()
        self.story: list[Any] = []
        """What was staged and applied: ("stage" or "apply", the requests of these entries)."""
        self.backlogged = False
        self.preallocate_failed = False
        self.has_room = True
        """What the file system says."""
        self.flushes = 0
        self.fatal: list[Exception] = []
        self.apply_error: Exception | None = None
        self.sent: list[Message] = []
        self.unreachable: set[int] = set()
        self.installed: Callable[[], None] | None = None
        """To be called when the store is in place."""
        storage = MemoryStorage(HardState(), ConfState(voters=(ME, *others)))
        rawnode = RawNode(Config(id=ME, election_ticks=10, heartbeat_ticks=1), storage, random.Random(1))
        self.proposals = Proposals(ME, 1, lambda: 0.0)
        this: Any = self
        self.ready_loop = ReadyLoop(this.loop, rawnode, storage, this, self.proposals, this)
        self.flusher: Any = self.ready_loop._flusher

    # --- the log

    def stage(self, _hard_state: HardState | None, entries: Sequence[Entry], snapshot: LogPosition | None) -> None:
        if snapshot is not None:
            self.story.append(("restart the log", snapshot.index))
        self._note("stage", entries)

    def flush(self) -> None:
        self.flushes += 1

    def retry_preallocation(self) -> None:
        self.preallocate_failed = False

    def disk_has_room(self) -> bool:
        return self.has_room

    # --- the owner

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages
        self.story += [("send", message.type.name, message.to) for message in messages]

    def reaches(self, member_id: int) -> bool:
        return member_id not in self.unreachable

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        self.story.append(("install", snapshot.index))
        self.installed = done

    def on_soft_state(self, soft_state: SoftState) -> None: ...

    def on_committed(self, entries: Sequence[Entry]) -> None:
        if self.apply_error is not None:
            raise self.apply_error
        self._note("apply", entries)

    def on_read_states(self, states: list[ReadState]) -> None:
        self.story.append(("reads", [state.context for state in states]))

    def on_proposal_dropped(self, number: int) -> None:
        raise AssertionError(f"batch {number} was dropped")

    def on_flushed(self, result: FlushResult) -> None: ...

    def on_fatal(self, failure: Exception) -> None:
        self.fatal.append(failure)

    def _note(self, what: str, entries: Sequence[Entry]) -> None:
        requests = [[message for _, message in decode_batch(entry.data).requests] for entry in entries if entry.data]
        if requests:
            self.story.append((what, requests))

    # --- the test's hand

    def lead(self) -> None:
        self.elect()
        self.story.clear()

    def elect(self) -> None:
        """... and flush until there is nothing more to flush."""
        self.ready_loop.rawnode.campaign()
        self.ready_loop.schedule()
        self.loop.run()
        while self.flusher.busy:
            self.flushed()

    def hear(self, *messages: Message) -> None:
        """What other members say."""
        for message in messages:
            self.ready_loop.rawnode.step(message)
        self.ready_loop.schedule()
        self.loop.run()

    def said(self, kind: MessageType) -> list[Message]:
        return [message for message in self.sent if message.type is kind]

    def propose(self, *messages: bytes) -> None:
        for message in messages:
            assert self.proposals.add(Kind.PUT, message, lambda *_: None, None)
        self.ready_loop.schedule()
        self.loop.run()

    def flushed(self, sync_s: float = 10.0) -> None:
        """The flush under way has ended; by default it took longer than applying does."""
        self.flusher.busy = False
        self.flusher.on_flushed(FlushResult(100, 0.0, sync_s))
        self.loop.run()


def take_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ready loop made from now on flushes when the test says so."""
    monkeypatch.setattr(module, "Flusher", Flusher)
    monkeypatch.setattr(module, "KernelSync", SimpleNamespace(open=lambda: None))

"""A cluster of RawNodes in one process: the network and the disks are lists that the test controls.

Owns no schedule: tests (`raft_script`, `raft_simulator`) decide what is delivered, saved or lost next.
Every message crosses the wire format, so nodes share no objects, as they would not in earnest.
"""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from raftkv.raft import (
    BadConfChange,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    RawNode,
    ReadState,
    Ready,
    Snapshot,
    decode_conf_change,
)
from raftkv.wire import decode_message, encode_message

Applied = tuple[int, int, bytes]
"""(index, term, data) of one applied entry: the state machine is the list of them."""


class FixedRng:
    """Every node waits exactly election_ticks + its share, so scripts know who times out first."""

    def __init__(self, extra: int) -> None:
        self._extra = extra

    def randrange(self, lo: int, hi: int, /) -> int:
        return min(lo + self._extra, hi - 1)


class Member:
    """A RawNode with its shell: storage is the disk, `saving` what has not reached it yet."""

    def __init__(self, node_id: int, conf: ConfState, rng: Any, bootstrapped: bool, **options: Any) -> None:
        self.id = node_id
        self.options = options
        self.rng = rng
        self.storage = MemoryStorage(conf_state=conf)
        if bootstrapped and conf.voters:
            self.storage.set_hard_state(HardState(1, 0, 1))
            self.storage.apply_snapshot(Snapshot(1, 1, conf, pickle.dumps([(1, 1, b"bootstrap")])))
        else:
            self.storage.create_snapshot(0, conf, pickle.dumps([]))
        self.saving: deque[Ready] = deque()
        self.outbox: list[Message] = []
        self.reads: list[ReadState] = []
        self.up = False
        self.start()

    def start(self) -> None:
        """From disk: the newest snapshot is the checkpoint of the state machine."""
        checkpoint = self.storage.snapshot()
        self.state: list[Applied] = pickle.loads(checkpoint.data)
        self.conf = checkpoint.conf_state
        config = Config(id=self.id, applied=checkpoint.index, **self.options)
        self.node = RawNode(config, self.storage, self.rng)
        self.up = True

    def crash(self, written_saves: int = 0, torn_entries: int = 0) -> None:
        """Lose what was not saved, but for some oldest saves that nobody had been told of yet, and
        perhaps the first entries of the one after them."""
        for ready in list(self.saving)[:written_saves]:
            self._write(ready)
        if torn_entries and len(self.saving) > written_saves:
            torn = self.saving[written_saves]
            if torn.snapshot is None:
                self.storage.append(torn.entries[:torn_entries])
        self.saving.clear()
        self.outbox.clear()
        self.reads.clear()
        self.up = False

    # -- the shell's four steps ----------------------------------------------------------------

    def take_ready(self) -> Ready | None:
        """Do all of a Ready but the save."""
        if not self.node.has_ready():
            return None
        ready = self.node.ready()
        self.outbox += ready.messages
        if ready.needs_save:
            self.saving.append(ready)
        self._apply(ready.committed_entries)
        self.reads += ready.read_states
        return ready

    def finish_save(self) -> Ready:
        ready = self.saving.popleft()
        self._write(ready)
        self.node.advance_append(ready)
        self.outbox += ready.messages_after_sync
        if ready.snapshot is not None:
            self.state = pickle.loads(ready.snapshot.data)
            self.conf = ready.snapshot.conf_state
        return ready

    def _write(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)

    def _apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            assert entry.index <= self.storage.last_index(), "handed out before it was durable"
            assert entry.index == (self.state[-1][0] if self.state else 0) + 1, "an entry skipped or repeated"
            if entry.type is EntryType.CONF_CHANGE:
                try:
                    self.conf = self.node.apply_conf_change(decode_conf_change(entry.data))
                except BadConfChange:
                    pass  # refused alike by every member: the entry is a no-op
            self.state.append((entry.index, entry.term, entry.data))
            self.node.advance_apply(entry.index)
            if entry.type is EntryType.CONF_CHANGE:
                self.checkpoint()

    def checkpoint(self, keep: int = 1 << 30) -> None:
        """Make the present state the one to restart from and to send, and keep so many entries before."""
        applied = self.state[-1][0] if self.state else 0
        if applied <= self.storage.snapshot().index:
            return
        self.storage.create_snapshot(applied, self.conf, pickle.dumps(self.state))
        upto = applied - keep
        if upto >= self.storage.first_index():
            self.storage.compact(upto)

    @property
    def hard_state(self) -> HardState:
        return self.storage.initial_state()[0]


class Cluster:
    """Members and the messages between them, oldest first."""

    def __init__(
        self,
        ids: range,
        conf: ConfState,
        rng: Callable[[int], Any] | None = None,
        bootstrapped: bool = False,
        **options: Any,
    ) -> None:
        """bootstrapped: the first configuration is a snapshot at index 1, so that a member that joins
        can learn it; without, the log begins at 1 and nobody can join."""
        make_rng = rng or (lambda node_id: random.Random(node_id))
        members = conf.voters + conf.learners
        self.members = {
            node_id: Member(
                node_id,
                conf if node_id in members else ConfState(),
                make_rng(node_id),
                bootstrapped,
                **options,
            )
            for node_id in ids
        }
        self.queue: list[Message] = []

    def collect(self, member: Member) -> list[Message]:
        """Put what member wants to send on the network."""
        sent, member.outbox = member.outbox, []
        sent = [decode_message(encode_message(message)) for message in sent]
        self.queue += sent
        return sent

    def deliver(self, message: Message) -> bool:
        member = self.members.get(message.to)
        if member is None or not member.up:
            return False
        member.node.step(decode_message(encode_message(message)))
        return True

    def settle(self, limit: int = 20_000) -> None:
        """Deliver and save everything at once until nothing happens any more."""
        for _ in range(limit):
            busy = False
            for member in self.members.values():
                while member.up and (member.take_ready() is not None or member.saving):
                    busy = True
                    while member.saving:
                        member.finish_save()
                self.collect(member)
            queue, self.queue = self.queue, []
            for message in queue:
                busy = True
                self.deliver(message)
            if not busy:
                return
        raise AssertionError("the cluster does not come to rest")

    def leader(self) -> Member | None:
        """The leader of the newest term, if any."""
        leaders = [m for m in self.members.values() if m.up and m.node.is_leader]
        return max(leaders, key=lambda m: m.node.term, default=None)


def three(**options: Any) -> Cluster:
    """Voters 1, 2, 3; 1 leads in term 1 and everything is quiet."""
    return elected(3, **options)


def elected(voters: int, **options: Any) -> Cluster:
    ids = range(1, voters + 1)
    cluster = Cluster(ids, ConfState(voters=tuple(ids)), **options)
    cluster.members[1].node.campaign()
    cluster.settle()
    assert cluster.members[1].node.is_leader
    return cluster

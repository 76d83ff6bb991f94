"""A call and a node for tests of the services: no sockets, no log, no time. What is proposed is applied at once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from raftkv.api.context import ApiContext
from raftkv.apply import Alarms, Applier, Kind, encode_batch
from raftkv.auth import AuthStore
from raftkv.backend import Backend
from raftkv.lease import Lessor
from raftkv.membership import Members
from raftkv.mvcc import Store
from raftkv.mvcc.watch import WatchHub
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry
from raftkv.rpc.codes import Code
from raftkv.server.durations import Durations
from raftkv.server.list_budget import ListBudget
from raftkv.server.node import Counters
from raftkv.server.slow_requests import SlowRequests

MEMBER_ID, CLUSTER_ID, TERM = 7, 8, 3


class FakeCall:
    """Remembers how it was answered. `room`: messages that it takes before `send` says False."""

    def __init__(self, room: int | None = None, **metadata: str) -> None:
        self.room = room
        self.cancelled = False
        self.identity: Any = None
        self.tls_common_name: str | None = None
        self.replies: list[bytes] = []
        self.sent: list[bytes] = []
        self.failure: tuple[Code, str] | None = None
        self.keeps_counted = False
        """What is counted leaves when the test says so, by `lefts`; else at once."""
        self.lefts: list[Callable[[int], None]] = []
        self.on_closed: Callable[[], None] = lambda: None
        self.cuts = 0
        self._metadata = metadata

    def metadata(self, key: str) -> str | None:
        return self._metadata.get(key)

    def reply(self, message: bytes) -> None:
        self.replies.append(message)

    def reply_in_parts(self, parts: list[bytes], left: Callable[[int], None]) -> None:
        self.reply(b"".join(parts))
        self._count(sum(map(len, parts)), left)

    def fail(self, code: Code, text: str) -> None:
        self.failure = (code, text)
        self.on_closed()

    def when_closed(self, callback: Callable[[], None]) -> None:
        self.on_closed = callback

    def cancel(self) -> None:
        """The client goes."""
        self.cancelled = True
        self.on_closed()

    def cut_off(self) -> None:
        self.cuts += 1

    def send(self, message: bytes) -> bool:
        self.sent.append(message)
        return self.room is None or len(self.sent) < self.room

    def send_counted(self, message: bytes, left: Callable[[int], None]) -> bool:
        self._count(len(message), left)
        return self.send(message)

    def _count(self, size_bytes: int, left: Callable[[int], None]) -> None:
        if self.keeps_counted:
            self.lefts.append(left)
        else:
            left(size_bytes)


class FakeNode:
    """What the services ask of a node, around real state machines."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="raftkv-api-"))
        self.backend = Backend.open(self.directory, map_size_bytes=64 << 20, reserve_step_bytes=64 << 10)
        tables = self.backend.tables
        self.store, self.lessor = Store(tables), Lessor(tables)
        self.members = Members(tables)
        self.auth = AuthStore(tables)
        self.applier = Applier(self.backend, self.store, self.lessor, self.members, Alarms(tables), self.auth)
        self.applier.load()
        self.hub = WatchHub(self.store, tables)
        self.cluster_id, self.member_id, self.leader_id = CLUSTER_ID, MEMBER_ID, MEMBER_ID
        self.config = SimpleNamespace(
            max_request_bytes=1000, max_recv_bytes=300, max_txn_ops=4, election_timeout_ms=1000
        )
        self.quota = SimpleNamespace(allows=lambda _cost: True)
        self.has_room_to_delete = True
        self.space = SimpleNamespace(room_to_delete=self._room_to_delete, raise_alarm=self._raise_alarm)
        self.no_space_alarms = 0
        self.proposed: list[tuple[int, bytes]] = []
        self.slices: Any = SimpleNamespace(add=self._add_slice)
        self.tasks: list[Any] = []
        self.read_error: Exception | None = None
        self.compactor = SimpleNamespace(when_finished=self._when_finished)
        self.compaction_waiters: list[Callable[[], None]] = []
        self.durations = Durations()
        self.list_budget = ListBudget(8 << 20)
        self.counters = Counters()
        self.slow_requests = SlowRequests(0.3)
        self.clock_s = 100.0

    def now(self) -> float:
        return self.clock_s

    def _add_slice(self, task: Any) -> None:
        self.tasks.append(task)

    def _when_finished(self, callback: Callable[[], None]) -> None:
        self.compaction_waiters.append(callback)

    def propose(self, kind: int, message: bytes, finish: Callable[[Any, Any], None], context: Any) -> None:
        self.proposed.append((kind, message))
        finish(context, self.apply((kind, message))[0])

    def linearizable(self, read: Callable[[Any, Any], None], context: Any) -> None:
        read(context, self.read_error)

    def _room_to_delete(self, _key: bytes, _range_end: bytes) -> bool:
        return self.has_room_to_delete

    def _raise_alarm(self) -> None:
        self.no_space_alarms += 1

    def wake_watchers(self) -> None:
        """The test says `catch_up` when it is time."""

    def progress_interval_s(self) -> float:
        return 10.0

    # --- for the tests ------------------------------------------------------------------------------------------------

    def context(self) -> Any:
        node: Any = self
        return ApiContext(node)

    def apply(self, *requests: tuple[int, bytes]) -> list[Any]:
        """One entry; its events go to the watchers."""
        index = self.applier.index + 1
        applied, events = self.applier.apply([Entry(TERM, index, data=encode_batch(MEMBER_ID, index, requests))])
        self.hub.publish(events)
        return applied[0].results

    def put(self, *keys: bytes, value: bytes = b"v") -> None:
        """One revision each, in one entry."""
        messages = [rpc_pb2.PutRequest(key=key, value=value) for key in keys]
        self.apply(*((Kind.PUT, raw(message)) for message in messages))

    def catch_up(self) -> None:
        while self.hub.catch_up(self.backend.read(), 100):
            pass

    def run_slices(self) -> None:
        while self.tasks:
            task = self.tasks.pop(0)
            if task.step():
                self.tasks.append(task)

    def close(self) -> None:
        self.backend.close()
        shutil.rmtree(self.directory)


def raw(message: Message) -> bytes:
    return message.SerializeToString()

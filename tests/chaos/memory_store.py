"""A store in memory that answers as `chaos.client.Client` does: what workloads can be tried on without a cluster.

Every answer takes a moment, so that calls overlap. `defects` switches on what a broken store would do.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Self

from aetcd.rpc import kv_pb2, rpc_pb2

from chaos.client import Answer, UnclearError


class Kept(NamedTuple):
    value: str | None
    """None: deleted at this revision."""
    revision: int
    created: int
    version: int
    lease: int = 0


class MemoryStore:
    """Keys with all their past. One for all clients."""

    def __init__(self, *defects: str) -> None:
        self.defects = frozenset(defects)
        self.revision = 1
        self.past: dict[str, list[Kept]] = {}
        self.events: list[list[Any]] = []
        """kv_pb2.Event by revision, beginning with revision 2."""
        self.changed = asyncio.Condition()
        self.leases: dict[int, float] = {}
        self.calls = 0

    def at(self, key: str, revision: int = 0) -> Kept | None:
        """The key as it was, or is; None if there was none."""
        found = [kept for kept in self.past.get(key, []) if not revision or kept.revision <= revision]
        return found[-1] if found and found[-1].value is not None else None

    async def change(self, values: dict[str, str | None], lease: int = 0) -> int:
        """Write or delete keys in one revision."""
        self.revision += 1
        events = []
        for key, value in values.items():
            before = self.at(key)
            created = before.created if before else self.revision
            version = before.version + 1 if before else 1
            kept = Kept(value, self.revision, created, version, lease)
            self.past.setdefault(key, []).append(kept)
            events.append(_event(key, kept, before))
        self.events.append(events)
        async with self.changed:
            self.changed.notify_all()
        return self.revision

    async def expire(self, now_s: float) -> None:
        for lease in [lease for lease, until_s in self.leases.items() if until_s < now_s]:
            del self.leases[lease]
            keys = [key for key in self.past if (kept := self.at(key)) and kept.lease == lease]
            if keys:
                await self.change(dict.fromkeys(keys))


def _event(key: str, kept: Kept, before: Kept | None) -> Any:
    event = kv_pb2.Event(kv=_key_value(key, kept))
    if kept.value is None:
        event.type = kv_pb2.Event.DELETE
        event.kv.CopyFrom(kv_pb2.KeyValue(key=key.encode(), mod_revision=kept.revision))
    if before is not None:
        event.prev_kv.CopyFrom(_key_value(key, before))
    return event


def _key_value(key: str, kept: Kept) -> Any:
    return kv_pb2.KeyValue(
        key=key.encode(),
        value=(kept.value or "").encode(),
        mod_revision=kept.revision,
        create_revision=kept.created,
        version=kept.version,
        lease=kept.lease,
    )


class MemoryClient:
    """In the place of Client; `store` is set by the test."""

    store: MemoryStore

    def __init__(self, member: str, _endpoint: str, _timeout_s: float = 2.0) -> None:
        self.member = member

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def _moment(self) -> None:
        self.store.calls += 1
        await self.store.expire(asyncio.get_running_loop().time())
        await asyncio.sleep(0.001)

    def _saw(self, kept: Kept | None) -> Answer:
        return Answer(
            self.store.revision, seen=kept.value if kept else None, seen_revision=kept.revision if kept else 0
        )

    async def get(self, key: str, revision: int = 0) -> Answer:
        await self._moment()
        if "stale" in self.store.defects and not revision and self.store.calls % 10 == 0:
            older = self.store.past.get(key, [])[:-1]
            kept = older[-1] if older and older[-1].value is not None else None
            return self._saw(kept)
        return self._saw(self.store.at(key, revision))

    async def put(self, key: str, value: str, lease: int = 0) -> Answer:
        await self._moment()
        if "lossy" in self.store.defects and self.store.calls % 10 == 0:
            return Answer(self.store.revision + 1, took=True)
        revision = await self.store.change({key: value}, lease)
        await self._moment()
        if self.store.calls % 13 == 0:
            raise UnclearError("the answer was lost")
        return Answer(revision, took=True)

    async def put_if(self, key: str, value: str, mod_revision: int) -> Answer:
        await self._moment()
        kept = self.store.at(key)
        if (kept.revision if kept else 0) != mod_revision:
            return self._saw(kept)
        if "forgetful" in self.store.defects and self.store.calls % 10 == 0:
            return Answer(self.store.revision + 1, took=True)
        return Answer(await self.store.change({key: value}), took=True)

    async def delete(self, key: str) -> Answer:
        await self._moment()
        kept = self.store.at(key)
        if kept is None:
            return self._saw(None)
        return Answer(await self.store.change({key: None}), True, kept.value, kept.revision)

    async def put_all(self, pairs: dict[str, str]) -> Answer:
        await self._moment()
        return Answer(await self.store.change(dict(pairs)), took=True)

    async def list(self, prefix: str, revision: int = 0, changed_since: int = 0) -> list[Any]:
        await self._moment()
        keys = sorted(key for key in self.store.past if key.startswith(prefix))
        found = [(key, self.store.at(key, revision)) for key in keys]
        return [_key_value(key, kept) for key, kept in found if kept and kept.revision >= changed_since]

    async def grant(self, ttl_s: int) -> int:
        await self._moment()
        lease = self.store.calls
        self.store.leases[lease] = asyncio.get_running_loop().time() + ttl_s
        return lease

    async def keep_alive(self, lease: int) -> int:
        await self._moment()
        if lease not in self.store.leases:
            return 0
        if "sleepy" not in self.store.defects:
            self.store.leases[lease] = asyncio.get_running_loop().time() + LEASE_S
        return LEASE_S

    def watch(self) -> MemoryStream:
        return MemoryStream(self.store)


LEASE_S = 1


class MemoryStream:
    """A watch stream as far as the workload uses it: one watcher of a prefix, and progress requests."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._next = 0
        self._prefix = ""
        self._progress = 0

    async def write(self, request: Any) -> None:
        if request.WhichOneof("request_union") == "progress_request":
            self._progress += 1
            async with self._store.changed:
                self._store.changed.notify_all()
        else:
            self._next = max(request.create_request.start_revision, 2)
            self._prefix = request.create_request.key.decode()

    def cancel(self) -> None:
        pass

    async def __aiter__(self) -> Any:
        yield rpc_pb2.WatchResponse(created=True)
        while True:
            async with self._store.changed:
                await self._store.changed.wait_for(lambda: self._next <= self._store.revision or self._progress)
            while self._next <= self._store.revision:
                revision, self._next = self._next, self._next + 1
                events = [e for e in self._store.events[revision - 2] if e.kv.key.decode().startswith(self._prefix)]
                if events and not ("gaps" in self._store.defects and revision % 20 == 0):
                    yield rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=revision), events=events)
            if self._progress:
                self._progress = 0
                yield rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=self._store.revision), watch_id=-1)

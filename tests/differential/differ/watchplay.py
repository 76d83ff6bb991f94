"""Plays the watch operations of a script: streams in slots, and waiting until both sides have told the same.

Waiting is made certain by writing: a put and a delete of a key of every watcher, whose events must be the last that
each tells (W-54). So no comparison depends on how long something took, and a missing event is noticed as such.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from differ import normalise
from differ.client import OK
from differ.compare import ABSENT, Difference, compare_lists
from differ.ops import Call, Settle, WatchCancel, WatchCreate, WatchEmpty, WatchOpen, WatchProgress
from differ.watching import StreamHalf, Told
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from differ.runner import Runner

NOPUT, NODELETE = 0, 1
_PATIENCE_S: Final = 15.0
_CATCH_UP_S: Final = 0.3
"""etcd reads the past for its watchers every 100 ms (W-90)."""
_SETTLED: Final = b"settled"
_KEYS_PER_TXN: Final = 100
_EMPTY_RANGE: Final = {"key": b"b", "range_end": b"a"}


class Watcher:
    """A watcher that lives on both sides."""

    __slots__ = ("filters", "key", "start", "watch_id")

    def __init__(self, watch_id: int, request: Any) -> None:
        self.watch_id = watch_id
        self.key: bytes = request.key or b"\0"  # W-03
        self.start: int = request.start_revision
        self.filters = frozenset(request.filters)

    @property
    def tells_nothing(self) -> bool:
        return {NOPUT, NODELETE} <= self.filters

    def last_of(self, put: int, deleted: int) -> int | None:
        """The revision that it must tell when its key was put and then deleted at these; None if neither."""
        told = [
            revision
            for revision, kind in ((put, NOPUT), (deleted, NODELETE))
            if kind not in self.filters and revision >= self.start
        ]
        return max(told, default=None)


class Slot:
    """One stream on both sides."""

    def __init__(self, halves: tuple[StreamHalf, StreamHalf], user: str) -> None:
        self.halves = halves
        self.user = user
        self.forgot = False
        """A watcher that lives on is not looked at any more; it may keep a progress request from being answered."""
        self.watchers: dict[int, Watcher] = {}

    def told(self, watch_id: int) -> tuple[Told, Told]:
        etcd, raftkv = (half.watchers[watch_id] for half in self.halves)
        return etcd, raftkv

    async def send(self, **fields: Any) -> None:
        for half in self.halves:
            await half.send(**fields)


class WatchPlay:
    """All streams of a script."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._slots: dict[int, Slot] = {}
        self._settled_at = (-1, 0)
        self._created = 0
        self._mute_since_settled = False

    # --- operations ---------------------------------------------------------------------------------------------------

    async def open(self, op: WatchOpen) -> None:
        if op.slot in self._slots:
            await self.settle()
            await self._close(op.slot)
        user = self._runner.user_of_call(op.user)
        halves = [StreamHalf(side, op.member, user) for side in self._runner.sides]
        self._slots[op.slot] = Slot((halves[0], halves[1]), op.user)

    async def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            await self.open(WatchOpen(number))
        return self._slots[number]

    async def create(self, op: WatchCreate) -> None:
        slot = await self._slot(op.slot)
        runner = self._runner
        if slot.user and not runner.user_of_call(slot.user):
            return
        fields = {name: runner.sides[0].resolve(value, runner.moment) for name, value in op.fields.items()}
        responses = await self._ask_creation(slot, fields)
        if responses is None or any(response.canceled for response in responses):
            return
        watch_id = responses[0].watch_id
        request = _request_of(fields)
        self._created += 1
        slot.watchers[watch_id] = Watcher(watch_id, request)
        if request.start_revision and slot.watchers[watch_id].tells_nothing:
            self._mute_since_settled = True
        if 0 < request.start_revision < runner.moment.compacted:
            await self._await_compacted(slot, watch_id)

    async def _ask_creation(self, slot: Slot, fields: dict[str, Any]) -> list[Any] | None:
        """The two created responses, compared; None if they differ as is known."""
        await self._runner.catch_up()
        counts = [len(half.created) for half in slot.halves]
        request = _request_of(fields)
        for half in slot.halves:
            await half.create(request)
        await asyncio.gather(
            *(
                half.until(lambda half=half, count=count: len(half.created) > count, _PATIENCE_S)
                for half, count in zip(slot.halves, counts, strict=True)
            )
        )
        new = [half.created[count:] for half, count in zip(slot.halves, counts, strict=True)]
        for half, responses in zip(slot.halves, new, strict=True):
            for response in responses:
                normalise.tidy_header(response, half.side)
        differences = compare_lists("created", new[0], new[1], self._runner.sides)
        differences += self._compare_ends(slot)
        texts = [" ".join(str(each).split()) for each in new]
        self._runner.judge(self._runner.finding("created", differences, *texts, request=request, user=slot.user))
        if differences and new[0] and new[0][0].canceled:
            # etcd 3.5 names a refused watcher by the id it would have had; one that has that id tells nothing more.
            slot.forgot |= slot.watchers.pop(new[0][0].watch_id, None) is not None
        return None if differences or not new[0] else [new[0][0], new[1][0]]

    async def _await_compacted(self, slot: Slot, watch_id: int) -> None:
        """A watcher below the compacted revision is cancelled by the server (W-40)."""
        await self._await_cancelled(slot, watch_id)
        await self._compare_cancelled(slot, watch_id, "cancelled by compaction", exact=True)
        # etcd keeps the id until it is cancelled once more (W-43); raftkv does not answer that.
        await slot.send(cancel_request={"watch_id": watch_id})
        etcd, _raftkv = slot.told(watch_id)
        await slot.halves[0].until(lambda: etcd.released, _PATIENCE_S)

    async def cancel(self, op: WatchCancel) -> None:
        slot = await self._slot(op.slot)
        if op.settled:
            await self.settle()
        await self._runner.catch_up()
        await slot.send(cancel_request={"watch_id": op.watch_id})
        if op.watch_id in slot.watchers:
            await self._await_cancelled(slot, op.watch_id)
            await self._compare_cancelled(slot, op.watch_id, "cancelled", exact=op.settled)
        else:
            # Nothing is answered (W-31). What a following refused creation is answered with shows that.
            await self._ask_creation(slot, _EMPTY_RANGE)

    async def _await_cancelled(self, slot: Slot, watch_id: int) -> None:
        await asyncio.gather(
            *(
                half.until(lambda told=told: told.cancelled is not None, _PATIENCE_S)
                for half, told in zip(slot.halves, slot.told(watch_id), strict=True)
            )
        )

    async def _compare_cancelled(self, slot: Slot, watch_id: int, where: str, exact: bool) -> None:
        told = slot.told(watch_id)
        for half, each in zip(slot.halves, told, strict=True):
            if each.cancelled is not None:
                normalise.tidy_header(each.cancelled, half.side)
        responses = [[each.cancelled] if each.cancelled is not None else [] for each in told]
        differences = compare_lists("cancelled", *responses, self._runner.sides)
        differences += self._compare_events(slot, watch_id, exact)
        del slot.watchers[watch_id]
        texts = [" ".join(str(each).split()) for each in responses]
        self._runner.judge(self._runner.finding(where, differences, *texts))

    async def progress(self, op: WatchProgress) -> None:
        """Asked only when every watcher of the stream must be answered for (W-70)."""
        slot = await self._slot(op.slot)
        settled = await self.settle()
        now = self._runner.moment.now
        if not slot.watchers or not settled or slot.forgot or any(each.start > now for each in slot.watchers.values()):
            return
        await self._runner.catch_up()
        counts = [len(half.progress) for half in slot.halves]
        await slot.send(progress_request={})
        await asyncio.gather(
            *(
                half.until(lambda half=half, count=count: len(half.progress) > count, _PATIENCE_S)
                for half, count in zip(slot.halves, counts, strict=True)
            )
        )
        new = [half.progress[count:] for half, count in zip(slot.halves, counts, strict=True)]
        for half, responses in zip(slot.halves, new, strict=True):
            for response in responses:
                normalise.tidy_header(response, half.side)
        differences = compare_lists("progress", *new, self._runner.sides)
        self._runner.judge(self._runner.finding("progress", differences, *(str(each) for each in new)))

    async def send_empty(self, op: WatchEmpty) -> None:
        slot = await self._slot(op.slot)
        await slot.send()
        await self._ask_creation(slot, _EMPTY_RANGE)

    async def settle_op(self, _op: Settle) -> None:
        await self.settle()

    # --- settling -----------------------------------------------------------------------------------------------------

    async def settle(self) -> bool:
        """Wait until all watchers of both sides have told all there is, and compare. False if writing is refused."""
        runner = self._runner
        if self._settled_at == (runner.moment.now, self._created):
            return True
        live = [
            (slot, watcher)
            for slot in self._slots.values()
            for watcher in slot.watchers.values()
            if watcher.last_of(runner.moment.now + 2, runner.moment.now + 2) is not None
        ]
        marks = await self._mark(sorted({watcher.key for _slot, watcher in live}))
        if marks is None:
            return False
        for slot, watcher in live:
            target = watcher.last_of(*marks[watcher.key])
            if target is not None:
                await self._await_told(slot, watcher.watch_id, target)
                differences = self._compare_events(slot, watcher.watch_id, exact=True)
                self._judge_events(slot, watcher, differences)
        if self._mute_since_settled:
            # Nothing shows when one that tells nothing has read the past; until then a compaction may overtake it.
            await asyncio.sleep(_CATCH_UP_S)
            self._mute_since_settled = False
        self._settled_at = (runner.moment.now, self._created)
        return True

    async def _mark(self, keys: list[bytes]) -> dict[bytes, tuple[int, int]] | None:
        """Put every key and delete it again: key -> both revisions. None if that is refused."""
        runner = self._runner
        marks = {}
        user = await runner.as_root() if keys else ""
        for first in range(0, len(keys), _KEYS_PER_TXN):
            some = keys[first : first + _KEYS_PER_TXN]
            revisions = []
            for ops in (
                [{"request_put": {"key": key, "value": _SETTLED}} for key in some],
                [{"request_delete_range": {"key": key}} for key in some],
            ):
                answers = await runner.call(Call("KV.Txn", {"success": ops}, user=user), "settling")
                if answers[0].code != OK:
                    return None
                revisions.append(answers[0].message.header.revision)
            marks.update(dict.fromkeys(some, (revisions[0], revisions[1])))
        return marks

    async def _await_told(self, slot: Slot, watch_id: int, revision: int) -> None:
        await asyncio.gather(
            *(
                half.until(lambda told=told: told.last >= revision or told.cancelled is not None, _PATIENCE_S)
                for half, told in zip(slot.halves, slot.told(watch_id), strict=True)
            )
        )

    def _compare_events(self, slot: Slot, watch_id: int, exact: bool) -> list[Difference]:
        """Events that were not compared yet. Not exact: one side may have told more than the other."""
        told = slot.told(watch_id)
        etcd, raftkv = (each.events[each.compared :] for each in told)
        for each in told:
            each.compared = len(each.events)
        raftkv = self._runner.without_lost_tombstones(etcd, raftkv)
        if not exact:
            common = min(len(etcd), len(raftkv))
            etcd, raftkv = etcd[:common], raftkv[:common]
        differences = compare_lists("events", etcd, raftkv, self._runner.sides)
        return differences + self._compare_ends(slot) + self._broken_rules(slot)

    def _judge_events(self, slot: Slot, watcher: Watcher, differences: list[Difference]) -> None:
        texts = [
            f"watcher {watcher.watch_id}: {len(told.events)} events up to revision {told.last}"
            for told in slot.told(watcher.watch_id)
        ]
        self._runner.judge(self._runner.finding("events", differences, *texts, watcher=watcher))

    @staticmethod
    def _broken_rules(slot: Slot) -> list[Difference]:
        etcd, raftkv = (half.problems for half in slot.halves)
        differences = [Difference("rules", etcd[:3] or ABSENT, raftkv[:3] or ABSENT)] if etcd or raftkv else []
        for half in slot.halves:
            half.problems = []
        return differences

    @staticmethod
    def _compare_ends(slot: Slot) -> list[Difference]:
        etcd, raftkv = (half.ended for half in slot.halves)
        return [Difference("stream ended", etcd or ABSENT, raftkv or ABSENT)] if etcd != raftkv else []

    # --- ending -------------------------------------------------------------------------------------------------------

    async def close_all(self) -> None:
        """Settled streams are cancelled watcher by watcher or closed as they are, by turns."""
        for number, slot in list(self._slots.items()):
            for watch_id in list(slot.watchers)[:2]:
                self._runner.op = WatchCancel(number, watch_id)
                await self.cancel(self._runner.op)
            await self._close(number)

    async def abandon(self) -> None:
        for number in list(self._slots):
            await self._close(number)

    async def _close(self, number: int) -> None:
        for half in self._slots.pop(number).halves:
            await half.close()


def _request_of(fields: dict[str, Any]) -> Any:
    return rpc_pb2.WatchCreateRequest(**fields)

"""Watch streams (contract section 3)."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from differ.ops import Blob, Call, Op, Settle, WatchCancel, WatchCreate, WatchEmpty, WatchOpen, WatchProgress
from differ.strategies import common
from differ.strategies.common import Draw, chance

_slots = st.integers(0, 1)
_ids = st.sampled_from((0, 1, 2, 3, 5, 7, 2**40))
_filters = st.sampled_from(([0], [1], [0], [1], [0, 1], [1, 1], [5], [7, 0]))


def create_op(draw: Draw[Any]) -> list[Op]:
    fields = common.interval(draw)
    if chance(draw, 2):
        fields["start_revision"] = common.revision(draw)
    if chance(draw, 5):
        fields["filters"] = draw(_filters)
    if chance(draw, 2):
        fields["prev_kv"] = True
    if chance(draw, 4):
        fields["watch_id"] = draw(_ids)
    elif chance(draw, 40):
        fields["watch_id"] = -1
    if chance(draw, 6):
        fields["fragment"] = True
    if chance(draw, 10):
        fields["progress_notify"] = True
    return [WatchCreate(draw(_slots), fields)]


def control_op(draw: Draw[Any]) -> list[Op]:
    kind = draw(st.sampled_from(("cancel", "cancel", "abrupt", "progress", "progress", "settle", "open", "empty")))
    slot = draw(_slots)
    if kind in ("cancel", "abrupt"):
        return [WatchCancel(slot, draw(_ids), settled=kind == "cancel")]
    if kind == "progress":
        return [WatchProgress(slot)]
    if kind == "open":
        return [WatchOpen(slot, common.member(draw))]
    return [WatchEmpty(slot)] if kind == "empty" else [Settle()]


_blob_counts = st.integers(1, 4)


def pieces_op(draw: Draw[Any]) -> list[Op]:
    """More than 2 MiB to tell at once (W-80): large values, with what they replace, live and from history."""
    key = common.good_key(draw)
    count = draw(_blob_counts)
    live = WatchCreate(draw(_slots), {"key": key, "prev_kv": True, "fragment": True})
    puts: list[Op] = [Call("KV.Put", {"key": key, "value": Blob(1_100_000, b"%d" % number)}) for number in range(count)]
    past = common.interval(draw) | {"key": key, "start_revision": 2, "fragment": not chance(draw, 3)}
    shrink: Op = Call("KV.DeleteRange", {"key": key})
    return [live, *puts, WatchCreate(draw(_slots), past), Settle(), shrink]

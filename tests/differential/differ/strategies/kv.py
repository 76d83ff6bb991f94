"""Range, Put, DeleteRange, Txn and Compact (contract section 2)."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from differ.ops import Blob, Call, Fields, Op, Rev
from differ.strategies import common
from differ.strategies.common import BIG, Draw, chance

_FILTERS: Final = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
_filter_sets = st.lists(st.sampled_from(_FILTERS), min_size=1, max_size=2, unique=True)
_filter_bounds = st.sampled_from(
    [Rev("now", 0), Rev("now", -2), Rev("now", -5), Rev("now", -9), Rev("start", 2), Rev("now", 1), 1, -1, BIG]
)
_orders = st.sampled_from((0, 0, 1, 1, 2, 2, 1, 2, 0, 3, -1))
_targets = st.sampled_from((0, 1, 2, 3, 4) * 3 + (5, 99))
_limits = st.sampled_from((1, 1, 2, 2, 3, 5, 10, 0, -1, BIG))
_blob_sizes = st.sampled_from((5_000, 70_000, 1_400_000, 1_600_000, 2_200_000))
_compact_revisions = st.sampled_from(
    [Rev("now", offset) for offset in (0, 0, -1, -2, -4, -6, -10, 1, 3)]
    + [Rev("compacted", offset) for offset in (-1, 0, 1, 2)]
    + [Rev("start", 2), 0, 1, -1, -4, BIG, -BIG]
)

# Field 2, encoded although it is empty: range_end of Range (KV-21), value of Put. Not with DeleteRange, where etcd
# deletes all keys from here on.
_EMPTY_END: Final = b"\x12\x00"
_UNKNOWN_FIELD: Final = b"\xa2\x1f\x03abc"


def range_fields(draw: Draw[Any], in_txn: bool = False) -> Fields:
    fields = common.interval(draw)
    if chance(draw, 3):
        fields["revision"] = common.revision(draw)
    if chance(draw, 4):
        fields["limit"] = draw(_limits)
    if chance(draw, 4):
        fields["sort_order"] = draw(_orders)
        fields["sort_target"] = draw(_targets)
    elif chance(draw, 8):
        fields["sort_target"] = draw(_targets)
    if chance(draw, 6):
        fields["keys_only"] = True
    if chance(draw, 8):
        fields["count_only"] = True
    if chance(draw, 5):
        fields |= {name: draw(_filter_bounds) for name in draw(_filter_sets)}
    if not in_txn and chance(draw, 6):
        fields["serializable"] = True
    return fields


def put_fields(draw: Draw[Any]) -> Fields:
    fields: Fields = {"key": common.key(draw), "value": common.value(draw)}
    if chance(draw, 5):
        fields["lease"] = common.lease(draw)
    if chance(draw, 4):
        fields["prev_kv"] = True
    if chance(draw, 9):
        fields["ignore_value"] = True
        if not chance(draw, 4):
            del fields["value"]
    if chance(draw, 9):
        fields["ignore_lease"] = True
        if not chance(draw, 4):
            fields.pop("lease", None)
    return fields


def delete_fields(draw: Draw[Any]) -> Fields:
    fields = common.interval(draw, single_one_in=2)
    if fields.get("range_end") == b"\0" and not chance(draw, 3):
        del fields["range_end"]  # emptying the store too often would leave nothing to compare
    if chance(draw, 3):
        fields["prev_kv"] = True
    return fields


def range_op(draw: Draw[Any]) -> list[Op]:
    tail = _EMPTY_END if chance(draw, 25) else _UNKNOWN_FIELD if chance(draw, 40) else b""
    return [Call("KV.Range", range_fields(draw), common.member(draw), tail=tail)]


def put_op(draw: Draw[Any]) -> list[Op]:
    fields, tail = put_fields(draw), b""
    if chance(draw, 60):
        fields["value"] = Blob(draw(_blob_sizes))
    elif chance(draw, 40):
        tail = _EMPTY_END
    return [Call("KV.Put", fields, common.member(draw), tail=tail)]


def delete_op(draw: Draw[Any]) -> list[Op]:
    return [Call("KV.DeleteRange", delete_fields(draw), common.member(draw))]


def compact_op(draw: Draw[Any]) -> list[Op]:
    fields = {"revision": draw(_compact_revisions), "physical": chance(draw, 2)}
    return [Call("KV.Compact", fields, common.member(draw))]


# --- transactions -----------------------------------------------------------------------------------------------------

_union_members = ("version", "create_revision", "mod_revision", "value", "lease")
_union = st.sampled_from(_union_members)
_compare_targets = st.sampled_from((0, 1, 2, 3, 4) * 5 + (5, 77))
_compare_results = st.sampled_from((0, 1, 2, 3) * 5 + (4, -1))
_numbers = st.sampled_from([0, 0, 1, 2, 3, -1, BIG, Rev("now", 0), Rev("now", -1), Rev("now", -3), Rev("start", 1)])


def compare(draw: Draw[Any]) -> Fields:
    target = draw(_compare_targets)
    fields = common.interval(draw) if chance(draw, 3) else {"key": common.key(draw)}
    fields |= {"target": target, "result": draw(_compare_results)}
    if not chance(draw, 15):
        name = draw(_union) if chance(draw, 15) or target >= len(_union_members) else _union_members[target]
        fields[name] = {"value": common.value, "lease": common.lease}.get(name, lambda draw: draw(_numbers))(draw)
    return fields


_kinds = st.sampled_from(("range", "put", "put", "put", "delete", "delete", "txn", "nothing"))


def txn_op_fields(draw: Draw[Any], depth: int) -> Fields:
    kind = draw(_kinds)
    if kind == "range":
        return {"request_range": range_fields(draw, in_txn=True)}
    if kind == "put":
        return {"request_put": put_fields(draw)}
    if kind == "delete":
        return {"request_delete_range": delete_fields(draw)}
    if kind == "txn" and depth < 3:
        return {"request_txn": txn_fields(draw, depth + 1)}
    return {} if chance(draw, 6) else {"request_put": put_fields(draw)}


_op_counts = st.sampled_from((0, 1, 1, 1, 2, 2, 3, 4))
_compare_counts = st.sampled_from((0, 0, 1, 1, 1, 2, 3))


def txn_fields(draw: Draw[Any], depth: int = 0) -> Fields:
    fields: Fields = {}
    compares = [compare(draw) for _ in range(draw(_compare_counts))]
    if compares:
        fields["compare"] = compares
    for branch in ("success", "failure"):
        ops = [txn_op_fields(draw, depth) for _ in range(draw(_op_counts))]
        if ops:
            fields[branch] = ops
    return fields


_read_counts = st.integers(1, 3)
_limit_counts = st.sampled_from((127, 128, 129, 130))


def _many(draw: Draw[Any]) -> Fields:
    """At the limit of operations, or beyond; at this level or in a nested transaction (TXN-10, TXN-11)."""
    count = draw(_limit_counts)
    ops = [{"request_put": {"key": b"many/%03d" % number, "value": b"m"}} for number in range(count)]
    fields = {"success": ops} if chance(draw, 2) else {"failure": ops, "compare": [{"key": b"a", "version": -1}]}
    if chance(draw, 4):
        fields = {"compare": [{"key": b"no", "version": 0}] * count}
    return {"success": [{"request_txn": fields}]} if chance(draw, 2) else fields


def txn_op(draw: Draw[Any]) -> list[Op]:
    if chance(draw, 40):
        fields = _many(draw)
    elif chance(draw, 6):  # read-only (TXN-60)
        fields = {"success": [{"request_range": range_fields(draw)} for _ in range(draw(_read_counts))]}
        fields |= {"compare": [compare(draw)]} if chance(draw, 2) else {}
    else:
        fields = txn_fields(draw)
    return [Call("KV.Txn", fields, common.member(draw))]


def optimistic_op(draw: Draw[Any]) -> list[Op]:
    """The transactions that most clients send: create, update or delete if unchanged, else get."""
    key = common.good_key(draw)
    condition = {"key": key, "target": 2, "mod_revision": draw(_numbers)}
    change: Fields = {"request_put": put_fields(draw) | {"key": key}}
    if chance(draw, 3):
        change = {"request_delete_range": {"key": key, "prev_kv": True}}
    fields = {"compare": [condition], "success": [change], "failure": [{"request_range": {"key": key}}]}
    return [Call("KV.Txn", fields, common.member(draw))]

"""What the rows of the table of known differences look at: predicates over findings and over operations.

Owns no reason and no version; those stand beside the names of these in `known`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from differ.client import Moment
from differ.compare import ABSENT, Difference, Finding
from differ.ops import Call, Fields, Op, Rev, WatchCreate
from raftkv.pb import rpc_pb2


def _request(finding: Finding) -> Any:
    return finding.facts.get("request")


def _messages(finding: Finding) -> tuple[Any, Any]:
    etcd, raftkv = finding.facts["answers"]
    return etcd.message, raftkv.message


def _is(finding: Finding, *methods: str) -> bool:
    return finding.facts.get("method") in methods


EMPTY_RANGE_END: Final = b"\x12\x00"
"""Field 2 of RangeRequest and DeleteRangeRequest, encoded with no bytes in it."""
_REFUSAL: Final = ("code", "text")


def newer_status_field(finding: Finding, difference: Difference) -> bool:
    newer = difference.path.split(".")[0] in ("storageVersion", "dbSizeQuota", "downgradeInfo")
    return _is(finding, "Maintenance.Status") and newer and difference.etcd == ABSENT


def newer_hash_field(finding: Finding, difference: Difference) -> bool:
    return _is(finding, "Maintenance.HashKV") and difference.path == "hash_revision" and difference.etcd == ABSENT


_CHECKED_IN_TXN: Final = frozenset(
    {
        "etcdserver: requested lease not found",
        "etcdserver: key not found",
        "etcdserver: mvcc: required revision is a future revision",
        "etcdserver: mvcc: required revision has been compacted",
    }
)


def other_check_first(finding: Finding, difference: Difference) -> bool:
    """Both refuse, for two of the reasons that are looked for one after the other."""
    texts = {each.etcd for each in finding.differences if each.path == "text"}
    texts |= {each.raftkv for each in finding.differences if each.path == "text"}
    return _is(finding, "KV.Txn") and difference.path in _REFUSAL and len(texts) == 2 and texts <= _CHECKED_IN_TXN


def nested_puts_under_nospace(finding: Finding, difference: Difference) -> bool:
    texts = [each.raftkv for each in finding.differences if each.path == "text"]
    if not _is(finding, "KV.Txn") or difference.path not in _REFUSAL:
        return False
    request = _request(finding)
    flat_put = any(op.HasField("request_put") for op in (*request.success, *request.failure))
    nests = any(op.HasField("request_txn") for op in (*request.success, *request.failure))
    return texts == ["etcdserver: mvcc: database space exceeded"] and nests and not flat_put


_NOT_TO_BE_PROMOTED: Final = ("etcdserver: member not found", "etcdserver: can only promote a learner member")
_DEADLINE_EXCEEDED: Final = 4


def promotion_by_a_follower(finding: Finding, difference: Difference) -> bool:
    texts = [(each.etcd, each.raftkv) for each in finding.differences if each.path == "text"]
    expected = ([("etcdserver: request timed out", reason)] for reason in _NOT_TO_BE_PROMOTED)
    is_forwarded = _is(finding, "Cluster.MemberPromote") and finding.facts["members"] > 1
    return is_forwarded and difference.path in _REFUSAL and texts in expected


def lost_member_change(finding: Finding, difference: Difference) -> bool:
    changes = (f"Cluster.Member{change}" for change in ("Add", "Remove", "Update", "Promote"))
    if not _is(finding, *changes) or difference.path not in _REFUSAL:
        return False
    answer = finding.facts["answers"][0]
    return answer.code == _DEADLINE_EXCEEDED or answer.text == "etcdserver: request timed out"


def always(_finding: Finding) -> bool:
    return True


def rights_on_no_keys(finding: Finding, difference: Difference) -> bool:
    if not _is(finding, "KV.Range", "KV.DeleteRange", "KV.Txn") or difference.path not in _REFUSAL:
        return False
    texts = [each.etcd for each in finding.differences if each.path == "text"]
    return _is_denial(texts) and any(map(_has_no_keys, _intervals(_request(finding))))


def _has_no_keys(interval: tuple[bytes, bytes]) -> bool:
    key, range_end = interval
    return range_end not in (b"", b"\0") and range_end <= key


def _intervals(request: Any) -> Iterator[tuple[bytes, bytes]]:
    """All that a request reads or deletes, as (key, range_end)."""
    if isinstance(request, rpc_pb2.TxnRequest):
        yield from ((each.key, each.range_end) for each in request.compare)
        for op in (*request.success, *request.failure):
            yield from _intervals(getattr(op, op.WhichOneof("request") or "request_put"))
    elif not isinstance(request, rpc_pb2.PutRequest):
        yield request.key, request.range_end


def watch_without_end(finding: Finding, difference: Difference) -> bool:
    reasons = [each.raftkv for each in finding.differences if each.path == "created[0].cancel_reason"]
    is_denied = len(reasons) == 1 and str(reasons[0]).endswith("etcdserver: permission denied")
    asks = finding.where == "created" and _request(finding).range_end == b"\0"
    return asks and is_denied and difference.path.startswith("created[0].")


def granted_twice(finding: Finding, difference: Difference) -> bool:
    """The same intervals on both sides, some of them more than once at etcd."""
    if not _is(finding, "Auth.RoleGet") or not difference.path.startswith("perm["):
        return False
    etcd, raftkv = ([(perm.key, perm.range_end) for perm in message.perm] for message in _messages(finding))
    return len(etcd) > len(raftkv) == len(set(raftkv)) and set(etcd) == set(raftkv)


def rights_in_txn(finding: Finding, difference: Difference) -> bool:
    texts = [each.raftkv for each in finding.differences if each.path == "text"]
    if not _is(finding, "KV.Txn") or difference.path not in _REFUSAL or not _is_denial(texts):
        return False
    request = _request(finding)
    return any(map(_needs_more_than_its_keys, (*request.success, *request.failure)))


def _is_denial(texts: list[Any]) -> bool:
    return texts in (["etcdserver: permission denied"], ["etcdserver: user name is empty"])


def _needs_more_than_its_keys(op: rpc_pb2.RequestOp) -> bool:
    put = op.request_put
    return op.HasField("request_txn") or put.prev_kv or bool(put.lease) or op.request_delete_range.prev_kv


def etcd_wrote(finding: Finding) -> bool:
    etcd, _raftkv = _messages(finding)
    return etcd is not None and etcd.header.revision > finding.facts["now"]


def natural_code(finding: Finding, difference: Difference) -> bool:
    """Only the code differs: UNKNOWN at etcd."""
    is_claim = str(finding.facts.get("method", "")).startswith(("Lock.", "Election."))
    return is_claim and difference.path == "code" and difference.etcd == 2 and len(finding.differences) == 1


def refused_watch(finding: Finding, difference: Difference) -> bool:
    is_reason = difference.path == "created[0].cancel_reason" and "PermissionDenied" in str(difference.etcd)
    is_id = difference.path == "created[0].watch_id" and difference.raftkv == -1
    others = {each.path for each in finding.differences} - {"created[0].cancel_reason", "created[0].watch_id"}
    has_identity = bool(finding.facts["auth_on"] or finding.facts.get("user"))
    return finding.where == "created" and has_identity and not others and (is_reason or is_id)


def not_enough_started(finding: Finding, difference: Difference) -> bool:
    is_member_call = str(finding.facts.get("method", "")).startswith("Cluster.Member")
    only_code = is_member_call and difference.path == "code" and len(finding.differences) == 1
    text = finding.facts["answers"][0].text if only_code else ""
    return difference.etcd == 2 and text == "etcdserver: re-configuration failed due to not enough started members"


def nothing_to_cancel(finding: Finding, difference: Difference) -> bool:
    texts = [each.etcd for each in finding.differences if each.path == "text"]
    cancels = _is(finding, "Maintenance.Downgrade") and _request(finding).action == 2
    return cancels and difference.path in _REFUSAL and texts == ["etcdserver: no inflight downgrade job"]


def stored_root_role(finding: Finding, difference: Difference) -> bool:
    is_perm = _is(finding, "Auth.RoleGet") and difference.path.startswith("perm[0]")
    return is_perm and _request(finding).role == "root" and difference.etcd == ABSENT


def empty_range_end(finding: Finding, _difference: Difference) -> bool:
    return isinstance(finding.op, Call) and finding.op.method == "KV.Range" and finding.op.tail == EMPTY_RANGE_END


def hash_at_the_compacted(finding: Finding, difference: Difference) -> bool:
    if not _is(finding, "Maintenance.HashKV") or difference.path not in _REFUSAL:
        return False
    _etcd, raftkv = _messages(finding)
    texts = [each.etcd for each in finding.differences if each.path == "text"]
    at_the_compacted = raftkv is not None and raftkv.hash_revision == raftkv.compact_revision
    return at_the_compacted and texts == ["etcdserver: mvcc: required revision has been compacted"]


def hash_of_a_compaction(finding: Finding, difference: Difference) -> bool:
    if not _is(finding, "Maintenance.HashKV") or difference.path not in ("hash", "compact_revision", "hash_revision"):
        return False
    etcd, raftkv = _messages(finding)
    asked = _request(finding).revision
    is_right = raftkv.hash_revision == (asked or raftkv.header.revision)
    is_noted = etcd.hash_revision != raftkv.hash_revision or etcd.hash_revision == raftkv.compact_revision
    return asked >= 0 and is_right and is_noted


def negative_revision_in_txn(finding: Finding, difference: Difference) -> bool:
    if not _is(finding, "KV.Txn") or difference.path not in _REFUSAL:
        return False
    request = _request(finding)
    texts = [each.etcd for each in finding.differences if each.path == "text"]
    return texts == ["etcdserver: mvcc: required revision has been compacted"] and any(
        each.revision < 0 for each in ranges_of(request)
    )


def raftkv_wrote(finding: Finding) -> bool:
    _etcd, raftkv = _messages(finding)
    return raftkv is not None and raftkv.header.revision > finding.facts["now"]


def ranges_of(txn: Any) -> Iterator[Any]:
    """All ranges of a transaction, nested ones too."""
    for op in (*txn.success, *txn.failure):
        if op.HasField("request_range"):
            yield op.request_range
        elif op.HasField("request_txn"):
            yield from ranges_of(op.request_txn)


def unknown_sort(finding: Finding, difference: Difference) -> bool:
    """Whatever etcd answered: it does not look at the order before the revision and the key."""
    texts = [each.raftkv for each in finding.differences if each.path == "text"]
    return _is(finding, "KV.Range") and texts == ["etcdserver: invalid sort option"] and difference.path in _REFUSAL


def negative_watch_id(finding: Finding, difference: Difference) -> bool:
    request = _request(finding)
    return finding.where == "created" and request.watch_id < 0 and difference.path.startswith("created[0].")


# --- of what is left out ---------------------------------------------------------------------------------------------


def unknown_alarm_action(op: Op, _moment: Moment) -> bool:
    return isinstance(op, Call) and op.method == "Maintenance.Alarm" and op.fields.get("action", 0) > 2


def unknown_target(op: Op, _moment: Moment) -> bool:
    return isinstance(op, Call) and op.method == "KV.Range" and not 0 <= op.fields.get("sort_target", 0) <= 4


def unknown_sort_in_txn(op: Op, _moment: Moment) -> bool:
    return isinstance(op, Call) and op.method == "KV.Txn" and any(map(_sorts_oddly, _range_fields(op.fields)))


def _sorts_oddly(fields: Fields) -> bool:
    return not (0 <= fields.get("sort_order", 0) <= 2 and 0 <= fields.get("sort_target", 0) <= 4)


def _range_fields(txn: Fields) -> Iterator[Fields]:
    return (leaf["request_range"] for leaf in _leaf_ops(txn) if "request_range" in leaf)


def starts_below_zero(op: Op, moment: Moment) -> bool:
    start = op.fields.get("start_revision", 0) if isinstance(op, WatchCreate) else 0
    return _number(start, moment) < 0


def open_ended_delete_with_keeping_put(op: Op, _moment: Moment) -> bool:
    if not isinstance(op, Call) or op.method != "KV.Txn":
        return False
    leaves = list(_leaf_ops(op.fields))
    puts = [leaf["request_put"] for leaf in leaves if "request_put" in leaf]
    return any(put.get("ignore_value") or put.get("ignore_lease") for put in puts) and any(
        leaf.get("request_delete_range", {}).get("range_end") == b"\0" for leaf in leaves
    )


def _leaf_ops(txn: Fields) -> Iterator[Fields]:
    for op in (*txn.get("success", ()), *txn.get("failure", ())):
        if "request_txn" in op:
            yield from _leaf_ops(op["request_txn"])
        else:
            yield op


def writes_and_reads_what_cannot_be_read(op: Op, moment: Moment) -> bool:
    if not isinstance(op, Call) or op.method != "KV.Txn":
        return False
    leaves = list(_leaf_ops(op.fields))
    writes = any("request_put" in leaf or "request_delete_range" in leaf for leaf in leaves)
    return writes and any(
        not moment.compacted <= _number(leaf["request_range"].get("revision", 0), moment) <= moment.now
        for leaf in leaves
        if leaf.get("request_range", {}).get("revision")
    )


def _number(revision: Any, moment: Moment) -> int:
    return moment.revision(revision) if isinstance(revision, Rev) else int(revision)


def alarm_with_rights(op: Op, moment: Moment) -> bool:
    if not isinstance(op, Call):
        return False
    raises = op.method == "Maintenance.Alarm" and op.fields.get("action") == 1
    return (raises and moment.auth_on) or (op.method == "Auth.AuthEnable" and moment.alarmed)


def adds_hashed_password(op: Op, _moment: Moment) -> bool:
    return isinstance(op, Call) and op.method == "Auth.UserAdd" and "hashedPassword" in op.fields


def grants_empty_interval(op: Op, _moment: Moment) -> bool:
    """Any that AU-32 refuses."""
    if not isinstance(op, Call) or op.method != "Auth.RoleGrantPermission" or "perm" not in op.fields:
        return False
    key, end = op.fields["perm"].get("key", b""), op.fields["perm"].get("range_end", b"")
    return not key or (end not in (b"", b"\0") and key >= end)

"""The comparer: what it forgives, and what it must never forgive. Sides without a connection, messages made by hand."""

from typing import Any

import pytest
from differ import known
from differ.client import OK, Answer, Moment, Side
from differ.compare import Difference, Finding, compare_answers, compare_lists
from differ.ops import Blob, Call, GrantedLease, LeaseKey, MemberId, Rev, WatchCreate, describe

from raftkv.pb import auth_pb2, kv_pb2, rpc_pb2

OLD, NEW = (3, 5, 1), (3, 6, 14)


def _side(name: str, number: int) -> Side:
    side = Side.__new__(Side)  # without channels
    side.name = name
    side._endpoints = [f"127.0.0.1:{number}000"]
    side._peer_urls = [f"http://127.0.0.1:{number}001"]
    side._order = [0]
    side.cluster_id = number * 1_000_003
    side.member_ids = [number * 7_000_003]
    side.names = ["m0"]
    side.version = f"3.{number}.0"
    side.leases, side.tokens, side.added = {}, {}, {}
    side.cluster_version = (3, number)
    side.begin_script()
    return side


@pytest.fixture
def sides() -> tuple[Side, Side]:
    return _side("etcd", 5), _side("raftkv", 6)


def _header(side: Side, revision: int = 7, **fields: Any) -> rpc_pb2.ResponseHeader:
    ids = {"cluster_id": side.cluster_id, "member_id": side.member_ids[0], "raft_term": side.cluster_version[1]}
    return rpc_pb2.ResponseHeader(**(ids | {"revision": revision} | fields))


def _compare(method: str, request: Any, etcd: Any, raftkv: Any, sides: tuple[Side, Side]) -> list[Difference]:
    answers = [each if isinstance(each, Answer) else Answer(OK, "", each) for each in (etcd, raftkv)]
    return compare_answers(method, (request, request), (answers[0], answers[1]), sides)


def _ranges(sides: tuple[Side, Side], *kvs: list[dict[str, Any]], **fields: Any) -> list[Any]:
    return [
        rpc_pb2.RangeResponse(header=_header(side), kvs=each, **fields) for side, each in zip(sides, kvs, strict=True)
    ]


def test_ids_and_terms_are_forgiven(sides: tuple[Side, Side]) -> None:
    etcd, raftkv = _ranges(sides, [{"key": b"a"}], [{"key": b"a"}])
    assert _compare("KV.Range", rpc_pb2.RangeRequest(key=b"a"), etcd, raftkv, sides) == []


@pytest.mark.parametrize(
    "change",
    [
        {"revision": 8},
        {"member_id": 99},
        {"member_id": 0},
        {"cluster_id": 99},
        {"raft_term": 0},
    ],
)
def test_a_wrong_header_is_seen(sides: tuple[Side, Side], change: dict[str, int]) -> None:
    etcd = rpc_pb2.PutResponse(header=_header(sides[0]))
    raftkv = rpc_pb2.PutResponse(header=_header(sides[1], **change))
    (difference,) = _compare("KV.Put", rpc_pb2.PutRequest(key=b"a"), etcd, raftkv, sides)
    assert difference.path == f"header.{next(iter(change))}"


def test_a_missing_header_is_seen(sides: tuple[Side, Side]) -> None:
    """TXN-52, TXN-53: that a header is there at all is compared, also where it is empty."""
    put = rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader()))
    bare = rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse())
    etcd, raftkv = (
        rpc_pb2.TxnResponse(header=_header(side), responses=[op]) for side, op in zip(sides, (put, bare), strict=True)
    )
    (difference,) = _compare("KV.Txn", rpc_pb2.TxnRequest(), etcd, raftkv, sides)
    assert difference.path == "responses[0].response_put.header"


@pytest.mark.parametrize(
    ("field", "value"),
    [("key", b"b"), ("value", b"w"), ("version", 2), ("create_revision", 3), ("mod_revision", 9), ("lease", 5)],
)
def test_every_field_of_a_key_is_seen(sides: tuple[Side, Side], field: str, value: Any) -> None:
    kv = {"key": b"a", "value": b"v", "version": 1, "create_revision": 2, "mod_revision": 2, "lease": 4}
    etcd, raftkv = _ranges(sides, [kv], [kv | {field: value}])
    (difference,) = _compare("KV.Range", rpc_pb2.RangeRequest(key=b"a"), etcd, raftkv, sides)
    assert difference == (f"kvs[0].{field}", kv[field], value)


def test_codes_and_texts_are_seen(sides: tuple[Side, Side]) -> None:
    refusals = Answer(3, "one", None), Answer(11, "other", None)
    differences = _compare("KV.Range", rpc_pb2.RangeRequest(), *refusals, sides)
    assert differences == [("code", 3, 11), ("text", "one", "other")]
    fine = rpc_pb2.PutResponse(header=_header(sides[1]))
    assert _compare("KV.Put", rpc_pb2.PutRequest(), Answer(3, "no", None), fine, sides)[0] == ("code", 3, 0)


def test_order_is_seen_unless_keys_sort_alike(sides: tuple[Side, Side]) -> None:
    """RNG-16: only ties may stand in any order."""
    one, two = {"key": b"a", "version": 1}, {"key": b"b", "version": 1}
    by_key = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
    by_version = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", sort_order=1, sort_target=1)
    assert _compare("KV.Range", by_key, *_ranges(sides, [one, two], [two, one]), sides)
    assert not _compare("KV.Range", by_version, *_ranges(sides, [one, two], [two, one]), sides)
    later = {"key": b"c", "version": 2}
    assert _compare("KV.Range", by_version, *_ranges(sides, [one, later], [later, one]), sides)


def test_a_tie_that_the_limit_cuts(sides: tuple[Side, Side]) -> None:
    by_version = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", sort_order=1, sort_target=1, limit=2)
    first, one, other = ({"key": key, "version": n} for key, n in ((b"a", 1), (b"b", 2), (b"c", 2)))
    assert not _compare("KV.Range", by_version, *_ranges(sides, [first, one], [first, other], more=True), sides)
    assert _compare("KV.Range", by_version, *_ranges(sides, [first, one], [first, other]), sides)
    wrong = {"key": b"d", "version": 3}
    assert _compare("KV.Range", by_version, *_ranges(sides, [first, one], [first, wrong], more=True), sides)


def test_leases_that_the_server_chose_are_words(sides: tuple[Side, Side]) -> None:
    sides[0].leases[0xABC], sides[1].leases[0xDEF] = 0, 0
    kvs = [{"key": b"lock/abc", "lease": 0xABC}], [{"key": b"lock/def", "lease": 0xDEF}]
    request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
    assert _compare("KV.Range", request, *_ranges(sides, *kvs), sides) == []
    kvs = [{"key": b"lock/abc", "lease": 0xABC}], [{"key": b"lock/def", "lease": 0xABC}]
    assert [each.path for each in _compare("KV.Range", request, *_ranges(sides, *kvs), sides)] == ["kvs[0].lease"]


def test_three_seconds_of_a_lease_are_forgiven(sides: tuple[Side, Side]) -> None:
    def differences(ttl: int) -> list[Difference]:
        etcd, raftkv = (
            rpc_pb2.LeaseTimeToLiveResponse(header=_header(side), ID=1, TTL=left, grantedTTL=60, keys=keys)
            for side, left, keys in zip(sides, (60, ttl), ([b"a", b"b"], [b"b", b"a"]), strict=True)
        )
        return _compare("Lease.LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=1), etcd, raftkv, sides)

    assert differences(57) == []
    assert [each.path for each in differences(56)] == ["TTL"]
    assert [each.path for each in differences(61)] == ["TTL"]


def test_lists_of_events_may_not_end_early(sides: tuple[Side, Side]) -> None:
    events = [kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"a", mod_revision=n)) for n in (2, 3)]
    assert compare_lists("events", events, events, sides) == []
    (difference,) = compare_lists("events", events, events[:1], sides)
    assert difference.path == "events[1]"
    (difference,) = compare_lists("events", events[:1], events, sides)
    assert difference.raftkv != "(absent)"


# --- the table of known differences -----------------------------------------------------------------------------------


def _finding(*differences: Difference, method: str, request: Any = None, where: str = "answer") -> Finding:
    answers = Answer(OK, "", rpc_pb2.StatusResponse()), Answer(OK, "", rpc_pb2.StatusResponse())
    facts = {"method": method, "request": request, "answers": answers, "auth_on": False, "now": 1}
    return Finding(Call(method), 0, where, list(differences), facts=facts)


def test_a_known_difference_is_known_only_where_it_belongs() -> None:
    difference = Difference("storageVersion", "(absent)", "3.6.0")
    status = _finding(difference, method="Maintenance.Status")
    assert known.explain(status, OLD).rows == ["status-fields"]
    assert known.explain(status, NEW).unexplained == [difference]
    assert known.explain(_finding(difference, method="KV.Range"), OLD).unexplained == [difference]
    wrong = Difference("storageVersion", "3.6.0", "(absent)")
    assert known.explain(_finding(wrong, method="Maintenance.Status"), OLD).unexplained == [wrong]


def test_one_known_difference_hides_no_other() -> None:
    fine, bad = Difference("dbSizeQuota", "(absent)", 1), Difference("isLearner", "(absent)", True)
    verdict = known.explain(_finding(fine, bad, method="Maintenance.Status"), OLD)
    assert (verdict.rows, verdict.unexplained) == (["status-fields"], [bad])


def _refused(etcd: str, method: str, request: Any) -> Finding:
    return _finding(Difference("code", 7, 0), Difference("text", etcd, ""), method=method, request=request)


_DENIED = "etcdserver: permission denied"


@pytest.mark.parametrize(
    ("request_", "rows"),
    [
        (rpc_pb2.RangeRequest(key=b"c", range_end=b"a"), ["rights-on-no-keys"]),
        (rpc_pb2.RangeRequest(key=b"a", range_end=b"c"), []),
        (rpc_pb2.RangeRequest(key=b"c", range_end=b"\0"), []),
        (rpc_pb2.RangeRequest(key=b"c"), []),
    ],
)
def test_only_on_intervals_without_keys_rights_may_differ(request_: rpc_pb2.RangeRequest, rows: list[str]) -> None:
    """AU-70."""
    assert known.explain(_refused(_DENIED, "KV.Range", request_), NEW).rows == rows
    assert known.explain(_refused("etcdserver: key not found", "KV.Range", request_), NEW).rows == []
    nested = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_range=request_)])
    request = rpc_pb2.TxnRequest(failure=[rpc_pb2.RequestOp(request_txn=nested), rpc_pb2.RequestOp()])
    assert known.explain(_refused(_DENIED, "KV.Txn", request), NEW).rows == rows


def test_a_role_may_show_a_permission_twice_at_etcd_and_nothing_else() -> None:
    """AU-32."""
    one, two = ({"key": b"a", "range_end": b"b"}, {"key": b"a", "permType": 2})
    differences = [Difference("perm[2]", "(there)", "(absent)")]
    for etcd, raftkv, rows in (
        ([one, two, two], [one, two], ["granted-twice"]),
        ([one, two], [one, two, two], []),
        ([one, one], [one, two], []),
        ([one, one, {"key": b"c"}], [one], []),
    ):
        finding = _finding(*differences, method="Auth.RoleGet")
        finding.facts["answers"] = tuple(
            Answer(OK, "", rpc_pb2.AuthRoleGetResponse(perm=[auth_pb2.Permission(**each) for each in perms]))
            for perms in (etcd, raftkv)
        )
        assert known.explain(finding, NEW).rows == rows


def test_a_change_of_members_may_be_lost_by_etcd_only() -> None:
    in_vain, too_late = (4, "Deadline Exceeded"), (14, "etcdserver: request timed out")
    done, other = (0, ""), (14, "etcdserver: unhealthy cluster")
    known_as = ["lost-member-change"]
    for etcd, raftkv, rows in (
        (in_vain, done, known_as),
        (too_late, done, known_as),
        (done, in_vain, []),
        (other, done, []),
    ):
        finding = _finding(Difference("code", etcd[0], raftkv[0]), method="Cluster.MemberUpdate")
        finding.facts["answers"] = tuple(Answer(*answer, None) for answer in (etcd, raftkv))
        verdict = known.explain(finding, NEW)
        assert (verdict.rows, verdict.diverges) == (rows, bool(rows))


def test_every_row_can_look_at_what_is_no_call() -> None:
    """Findings about streams and about the final state have no answers and no request."""
    bare = Finding(WatchCreate(0, {}), 0, "events", [Difference("text", 1, 2)], facts={"auth_on": True, "members": 3})
    assert known.explain(bare, OLD).rows == known.explain(bare, NEW).rows == []


def test_only_a_watcher_without_an_end_may_be_denied_here_and_not_there() -> None:
    """AU-71."""
    denial = Difference("created[0].cancel_reason", "(absent)", f"rpc error: code = PermissionDenied desc = {_DENIED}")
    for range_end, version, rows in ((b"\0", OLD, ["watch-without-end"]), (b"\0", NEW, []), (b"z", OLD, [])):
        request = rpc_pb2.WatchCreateRequest(key=b"a", range_end=range_end)
        finding = _finding(denial, method="", request=request, where="created")
        assert known.explain(finding, version).rows == rows


def test_rows_have_names_of_their_own_and_reasons() -> None:
    rows = (*known.TABLE, *known.AVOIDED, known.TOMBSTONE_ROW)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.reason and row.rule for row in rows)


def test_only_a_tombstone_at_the_compacted_revision_may_be_lost() -> None:
    """CMP-07."""
    gone, kept = (
        kv_pb2.Event(type=1, kv=kv_pb2.KeyValue(key=b"a", mod_revision=5)),
        kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"a", mod_revision=6)),
    )
    assert known.without_lost_tombstones([kept], [gone, kept], 5, OLD) == [kept]
    assert known.without_lost_tombstones([kept], [gone, kept], 5, NEW) == [gone, kept]
    assert known.without_lost_tombstones([kept], [gone, kept], 4, OLD) == [gone, kept]
    assert known.without_lost_tombstones([gone, kept], [gone, kept], 5, OLD) == [gone, kept]


def test_what_would_end_etcd_is_left_out() -> None:
    moment = Moment()
    assert known.avoided(Call("Maintenance.Alarm", {"action": 3}), NEW, moment) == "alarm-action"
    assert known.avoided(Call("Maintenance.Alarm", {"action": 2}), NEW, moment) is None
    assert known.avoided(Call("KV.Range", {"sort_target": 9}), OLD, moment) == "sort-target"
    assert known.avoided(Call("KV.Range", {"sort_target": 9}), NEW, moment) is None
    below = WatchCreate(0, {"start_revision": Rev("now", -3)})
    assert known.avoided(below, OLD, moment) == "watch-below-zero"
    moment.now = 3
    assert known.avoided(below, OLD, moment) is None


# --- stand-ins --------------------------------------------------------------------------------------------------------


def test_stand_ins_mean_what_each_side_has(sides: tuple[Side, Side]) -> None:
    sides[0].leases[0xABC], sides[1].leases[0xDEF] = 0, 0
    moment = Moment()
    moment.now, moment.start, moment.compacted = 20, 10, 5
    value = {"a": [Rev("now", -1), Rev("start", 2), Rev("compacted", 0)], "b": Blob(3), "c": LeaseKey(b"l", -5)}
    assert sides[0].resolve(value, moment) == {"a": [19, 12, 5], "b": b"xxx", "c": b"l/-5"}
    for side, lease in zip(sides, (0xABC, 0xDEF), strict=True):
        assert side.resolve(GrantedLease(0), moment) == lease
        assert side.resolve(LeaseKey(b"l", GrantedLease(0)), moment) == b"l/%x" % lease
        assert side.resolve(MemberId(0), moment) == side.member_ids[0]
    assert sides[0].resolve(GrantedLease(1), moment) == sides[1].resolve(GrantedLease(1), moment)


def test_operations_are_printed_so_that_they_can_be_read() -> None:
    op = Call("KV.Put", {"key": b"a", "lease": GrantedLease(0), "value": Blob(5000)}, member=2, user="alice")
    assert describe(op) == "KV.Put(key=b'a', lease=<lease 0>, value=<5000 x b'x'>) as alice on member 2"
    assert "start_revision=<now-3>" in describe(WatchCreate(1, {"start_revision": Rev("now", -3)}))

"""The calls that kube-apiserver makes on its store, in exactly its forms (contract section 14.1).

Owns the requests, and the checks that every single reply must pass whatever was written before. Knows no history:
whether a reply is true, and not only well formed, is judged in kube_replay.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import grpc
from helpers.grpc_calls import CHANNEL_OPTIONS, Calls
from helpers.member_client import Code, refusal_of

from raftkv.pb import kv_pb2, rpc_pb2

COMPACT_KEY: Final = b"compact_rev_key"
HEALTH_KEY: Final = b"/registry/health"
HEALTH_LIMIT_S: Final = 2.0
STATUS_LIMIT_S: Final = 2.0
CALL_LIMIT_S: Final = 20.0

COMPACTED: Final = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
"""K8-06: the apiserver compares the text, and answers 410 Expired."""
FUTURE: Final = (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
"""K8-07: "Too large resource version"."""
DROPPED: Final = (Code.UNKNOWN, "raft proposal dropped")
"""G-54: the leader is handing over. Nothing was done."""
LEASE_NOT_FOUND: Final = (Code.NOT_FOUND, "etcdserver: requested lease not found")
UNKNOWN_OUTCOME: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})

_SEMVER: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")


class Answer(NamedTuple):
    """What an optimistic transaction gave."""

    succeeded: bool
    revision: int
    """Of the header the apiserver takes: the new mod_revision, or the deletion's, or the store's on failure."""
    kv: kv_pb2.KeyValue | None
    """What the Else branch read; None also if it found nothing."""


class Page(NamedTuple):
    """One page of a list."""

    kvs: list[kv_pb2.KeyValue]
    total: int
    """Keys from the page's start key to the end of the prefix, at the page's revision (RNG-07)."""
    more: bool
    revision: int
    """header.revision: of the first page, the list's resourceVersion."""


def prefix_end(prefix: bytes) -> bytes:
    """The key behind all keys with this prefix, which does not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch). Raises AssertionError for what a semver parser would refuse (K8-13)."""
    match = _SEMVER.fullmatch(text)
    assert match, f"Status.version {text!r} is not a semantic version; the apiserver turns the feature off"
    return int(match[1]), int(match[2]), int(match[3])


def serves_progress_requests(version: tuple[int, int, int]) -> bool:
    """Whether an apiserver would send progress requests to an endpoint of this version (K8-13)."""
    return (3, 4, 31) <= version < (3, 5, 0) or version >= (3, 5, 13)


class KubeStore:
    """One apiserver's client: a channel that goes round robin over the endpoints (K8-20), and nothing remembered."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        target = "ipv4:" + ",".join(endpoints)
        options = (*CHANNEL_OPTIONS, ("grpc.lb_policy_name", "round_robin"))
        self.channel = grpc.insecure_channel(target, options=options)
        self.calls = Calls(self.channel)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> KubeStore:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # reads

    def get(self, key: bytes, revision: int = 0, limit: int = 0, limit_s: float = CALL_LIMIT_S) -> Page:
        """One key; the page has one KeyValue or none."""
        page = self._range(limit_s, key=key, revision=revision, limit=limit)
        assert [kv.key for kv in page.kvs] in ([], [key])
        assert (page.more, page.total) == (False, len(page.kvs))
        return page

    def page(self, prefix: bytes, limit: int, revision: int = 0, continue_key: bytes = b"") -> Page:
        """One page of a list: from the prefix or from a continue key on (K8-04). limit 0: everything."""
        start = continue_key or prefix
        page = self._range(CALL_LIMIT_S, key=start, range_end=prefix_end(prefix), limit=limit, revision=revision)
        keys = [kv.key for kv in page.kvs]
        assert keys == sorted(set(keys))
        assert not limit or len(keys) <= limit
        assert page.more == (page.total > len(keys)), "more and count must say the same"
        assert not page.more or len(keys) == limit, "a page is full unless it is the last"
        return page

    def count(self, prefix: bytes) -> Page:
        """How many keys there are; kvs are empty."""
        page = self._range(CALL_LIMIT_S, key=prefix, range_end=prefix_end(prefix), count_only=True)
        assert (page.kvs, page.more) == ([], False)
        return page

    def health(self) -> None:
        """The request behind livez and readyz of an apiserver. Raises grpc.RpcError."""
        self.get(HEALTH_KEY, limit_s=HEALTH_LIMIT_S)

    def status(self) -> rpc_pb2.StatusResponse:
        """Size metric and feature check (K8-13, K8-14, K8-23)."""
        status = self.calls.Maintenance.Status(rpc_pb2.StatusRequest(), timeout=STATUS_LIMIT_S)
        assert isinstance(status, rpc_pb2.StatusResponse)
        assert status.dbSize > 0
        parse_version(status.version)
        return status

    # optimistic transactions

    def create(self, key: bytes, value: bytes, lease: int = 0) -> Answer:
        return self.put(key, value, 0, lease)

    def put(self, key: bytes, value: bytes, expected: int, lease: int = 0, get_on_failure: bool = True) -> Answer:
        """If mod_revision(key) == expected, put; else get it, or nothing (K8-26). expected 0: create."""
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))
        return self._optimistic(key, expected, put, get_on_failure)

    def delete(self, key: bytes, expected: int, get_on_failure: bool = True) -> Answer:
        delete = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
        return self._optimistic(key, expected, delete, get_on_failure)

    # leases and compaction

    def grant(self, ttl_s: int) -> int:
        """A new lease's id."""
        granted = self.calls.Lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl_s), timeout=CALL_LIMIT_S)
        assert isinstance(granted, rpc_pb2.LeaseGrantResponse)
        assert granted.ID > 0
        assert ttl_s <= granted.TTL
        return granted.ID

    def compact_turn(self, turn: int, revision: int) -> tuple[bool, int, int]:
        """The compactor's transaction (K8-18): (whether this apiserver compacts, the next turn, current revision)."""
        compare = rpc_pb2.Compare(key=COMPACT_KEY, target=rpc_pb2.Compare.VERSION, version=turn)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=COMPACT_KEY, value=b"%d" % revision))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=COMPACT_KEY))
        request = rpc_pb2.TxnRequest(compare=[compare], success=[put], failure=[get])
        answer = self._txn(request)
        if answer.succeeded:
            assert answer.responses[0].HasField("response_put")
            return True, turn + 1, answer.header.revision
        (kv,) = answer.responses[0].response_range.kvs
        assert kv.version != turn
        int(kv.value)
        return False, kv.version, answer.header.revision

    def compact(self, revision: int) -> None:
        """Compact without waiting for the deletion. Raises grpc.RpcError."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=False)
        answer = self.calls.KV.Compact(request, timeout=CALL_LIMIT_S)
        assert answer.header.revision >= revision

    def _range(self, limit_s: float, **fields: Any) -> Page:
        answer = self.calls.KV.Range(rpc_pb2.RangeRequest(**fields), timeout=limit_s)
        assert answer.HasField("header"), "K8-02: the apiserver takes the revision from the header"
        assert answer.header.revision > 0
        return Page(list(answer.kvs), answer.count, answer.more, answer.header.revision)

    def _txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        answer = self.calls.KV.Txn(request, timeout=CALL_LIMIT_S)
        assert isinstance(answer, rpc_pb2.TxnResponse)
        assert answer.HasField("header")
        return answer

    def _optimistic(self, key: bytes, expected: int, change: rpc_pb2.RequestOp, get_on_failure: bool) -> Answer:
        compare = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.MOD, mod_revision=expected)
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
        request = rpc_pb2.TxnRequest(compare=[compare], success=[change], failure=[get] if get_on_failure else [])
        answer = self._txn(request)
        if answer.succeeded:
            return _done(answer, change)
        if not get_on_failure:
            assert not answer.responses, "K8-26: without a get the else branch is empty, and so is its answer"
            return Answer(False, answer.header.revision, None)
        return _lost(answer, key, expected)


def _done(answer: rpc_pb2.TxnResponse, change: rpc_pb2.RequestOp) -> Answer:
    """K8-08, K8-09: one response, of the change's own kind, with a header of the same revision as the answer's."""
    (response,) = answer.responses
    if change.HasField("request_put"):
        assert response.HasField("response_put")
        header = response.response_put.header
        assert response.response_put.HasField("header")
    else:
        assert response.HasField("response_delete_range")
        assert response.response_delete_range.HasField("header")
        assert response.response_delete_range.deleted == 1
        header = response.response_delete_range.header
    assert header.revision == answer.header.revision > 0
    return Answer(True, header.revision, None)


def _lost(answer: rpc_pb2.TxnResponse, key: bytes, expected: int) -> Answer:
    """K8-08: the range of the Else branch, with the one key or without it."""
    (response,) = answer.responses
    assert response.HasField("response_range")
    assert response.response_range.HasField("header")
    kvs = response.response_range.kvs
    assert len(kvs) <= 1
    if not kvs:
        assert expected != 0, "a key that is not there has mod_revision 0: the comparison had to succeed"
        return Answer(False, answer.header.revision, None)
    assert kvs[0].key == key
    assert kvs[0].mod_revision != expected
    assert kvs[0].mod_revision <= answer.header.revision
    return Answer(False, answer.header.revision, kvs[0])


def is_unknown(error: grpc.RpcError) -> bool:
    """Whether a write that ended so may have been done all the same: the member died, or lost its leader."""
    return refusal_of(error)[0] in UNKNOWN_OUTCOME

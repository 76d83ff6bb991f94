"""Logs of random entries, of all kinds that there are, for tests that apply them in more than one way."""

from __future__ import annotations

from apply_support import (
    MEMBER_ID,
    TERM,
    Change,
    Request,
    change_entry,
    compact,
    delete,
    disarm,
    entry,
    grant,
    leave_entry,
    publish,
    put,
    raise_alarm,
    revoke,
    txn,
    update_member,
)
from hypothesis import strategies as st

from raftkv.apply import CORRUPT, NOSPACE
from raftkv.pb import rpc_pb2
from raftkv.raft import ConfChangeTransition, Entry

KEYS = st.sampled_from([b"a", b"b", b"b\x00", b"c", b"l" * 600 + b"1", b"l" * 600 + b"2"])
ENDS = st.sampled_from([b"", b"", b"\x00", b"b", b"m"])
LEASES = st.integers(0, 3)
MEMBERS = st.sampled_from([MEMBER_ID, 8, 9])
URLS = st.sampled_from(["http://127.0.0.1:2380", "http://eight:2380", "http://nine:2380"])

PUTS = st.builds(
    lambda key, value, lease, prev_kv: put(key, value, lease=lease, prev_kv=prev_kv),
    KEYS,
    st.binary(max_size=3),
    LEASES,
    st.booleans(),
)
DELETES = st.builds(lambda key, end, prev_kv: delete(key, end, prev_kv=prev_kv), KEYS, ENDS, st.booleans())


def _move(source: bytes, target: bytes, end: bytes) -> Request:
    """If the source is there, put the target under its own value, and delete an interval behind a nested compare."""
    exists = rpc_pb2.Compare(key=source, target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.GREATER)
    delete_ = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=source, range_end=end))
    keep_value = rpc_pb2.PutRequest(key=target, ignore_value=True)
    nested = rpc_pb2.TxnRequest(compare=[exists], success=[delete_])
    return txn(
        rpc_pb2.TxnRequest(
            compare=[exists],
            success=[
                rpc_pb2.RequestOp(request_put=keep_value),
                rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00")),
            ],
            failure=[rpc_pb2.RequestOp(request_txn=nested), delete_],
        )
    )


REQUESTS = st.one_of(
    PUTS,
    PUTS,
    DELETES,
    st.builds(_move, KEYS, KEYS, ENDS),
    st.builds(compact, st.integers(1, 12)),
    st.builds(grant, st.integers(1, 3), st.integers(0, 99)),
    st.builds(revoke, st.integers(1, 3)),
    st.builds(raise_alarm, st.sampled_from([NOSPACE, CORRUPT]), MEMBERS),
    st.builds(disarm, st.sampled_from([NOSPACE, CORRUPT]), MEMBERS),
    st.builds(disarm, st.sampled_from([NOSPACE, CORRUPT]), MEMBERS),
    st.builds(
        lambda member_id, name, data_id: publish(member_id, name, data_id=data_id),
        MEMBERS,
        st.text(max_size=2),
        st.integers(0, 2),
    ),
    st.builds(update_member, MEMBERS, URLS, URLS),
)

CHANGES = st.one_of(
    st.tuples(st.sampled_from([Change.ADD, Change.ADD_LEARNER]), MEMBERS, URLS),
    st.tuples(st.sampled_from([Change.REMOVE, Change.PROMOTE]), MEMBERS),
)
TRANSITIONS = st.sampled_from([ConfChangeTransition.AUTO] * 3 + [ConfChangeTransition.JOINT_IMPLICIT])


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A few entries, the first of which makes the leases."""
    first = entry(1, [grant(1), grant(2), put(b"a", lease=1)])
    return [first, *(draw(_entries(index)) for index in range(2, draw(st.integers(2, 9))))]


def _entries(index: int) -> st.SearchStrategy[Entry]:
    batch = st.lists(REQUESTS, max_size=5).map(lambda requests: entry(index, requests))
    change = st.builds(
        lambda change, transition: change_entry(index, *change, transition=transition), CHANGES, TRANSITIONS
    )
    return st.one_of(batch, batch, batch, change, change, st.just(leave_entry(index)), st.just(Entry(TERM, index)))

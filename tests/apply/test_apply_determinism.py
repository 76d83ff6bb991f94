"""Same entries, same state and same results: however they are batched, and wherever the process dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from apply_support import (
    MEMBER_ID,
    Machine,
    Request,
    compact,
    delete,
    disarm,
    entry,
    grant,
    plain,
    put,
    raise_alarm,
    raw,
    revoke,
    txn,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.apply import CORRUPT, NOSPACE, Applied, Kind
from raftkv.pb import rpc_pb2
from raftkv.raft import Entry

KEYS = st.sampled_from([b"a", b"b", b"b\x00", b"c", b"l" * 600 + b"1", b"l" * 600 + b"2"])
ENDS = st.sampled_from([b"", b"", b"\x00", b"b", b"m"])
LEASES = st.integers(0, 3)
MEMBERS = st.sampled_from([MEMBER_ID, 8])

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
    st.builds(lambda id_, name: (Kind.PUBLISH, raw(rpc_pb2.Member(ID=id_, name=name))), MEMBERS, st.text(max_size=2)),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A few entries, the first of which makes the leases."""
    batches = [[grant(1), grant(2), put(b"a", lease=1)], *draw(st.lists(st.lists(REQUESTS, max_size=5), max_size=7))]
    return [entry(index, batch) for index, batch in enumerate(batches, 1)]


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    made = [Machine() for _ in range(count)]
    yield made
    for each in made:
        each.close()


def apply_one_by_one(machine: Machine, entries: Sequence[Entry], commits: set[int]) -> list[Applied]:
    """Commits after the entries with these indexes."""
    applied: list[Applied] = []
    for each in entries:
        applied += machine.applier.apply([each])[0]
        if each.index in commits:
            machine.backend.commit()
    return applied


def assert_same_state(one: Machine, other: Machine) -> None:
    assert one.content() == other.content()
    assert one.hash() == other.hash()
    assert one.store.current_revision == other.store.current_revision
    assert list(one.members) == list(other.members)
    assert one.alarms.active() == other.alarms.active()


@settings(max_examples=30, deadline=None)
@given(entries=logs(), commits=st.sets(st.integers(1, 8)))
def test_batches_and_commits_do_not_show(entries: list[Entry], commits: set[int]) -> None:
    """RF-52: two members see the same log cut into turns at different places."""
    with machines(2) as (one, other):
        in_one_go, _ = one.applier.apply(entries)
        one_by_one = apply_one_by_one(other, entries, commits)
        assert plain(in_one_go) == plain(one_by_one)
        assert_same_state(one, other)


@settings(max_examples=30, deadline=None)
@given(entries=logs(), commits=st.sets(st.integers(1, 8)), died_after=st.integers(0, 8), data=st.data())
def test_a_death_at_any_moment_does_not_show_after_replay(
    entries: list[Entry], commits: set[int], died_after: int, data: st.DataObject
) -> None:
    """RF-50: the log is replayed from its beginning; what was committed is skipped, what was open is done again."""
    with machines(2) as (steady, mortal):
        expected = apply_one_by_one(steady, entries, commits)
        before = apply_one_by_one(mortal, entries[:died_after], commits)
        mortal.die()
        survived = mortal.applier.index
        assert survived == max((index for index in commits if index <= len(before)), default=0)

        replayed, _ = mortal.applier.apply(entries[data.draw(st.integers(0, survived)) :])

        assert plain(before) == plain(expected[: len(before)])
        assert plain(replayed) == plain(expected[survived:])
        assert_same_state(steady, mortal)

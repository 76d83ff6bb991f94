"""Hash over everything: in slices, the same for the same history, another for another (MT-25)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw

from raftkv.api.hash import Hashes
from raftkv.apply import Kind, store_hash
from raftkv.backend import Meta
from raftkv.backend.schema import pack_u64
from raftkv.pb import auth_pb2, rpc_pb2

LONG = b"long" * 400


def history(node: FakeNode) -> None:
    node.put(b"a", b"b", LONG, LONG + b"2", b"a")
    node.apply(
        (Kind.LEASE_GRANT, raw(rpc_pb2.LeaseGrantRequest(ID=5, TTL=60))),
        (Kind.PUT, raw(rpc_pb2.PutRequest(key=b"leased", lease=5))),
        (Kind.DELETE_RANGE, raw(rpc_pb2.DeleteRangeRequest(key=b"b"))),
        (Kind.CLUSTER_VERSION, b"3.6.0"),
    )


@pytest.fixture
def twin() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


def ask(node: FakeNode) -> Any:
    call: Any = FakeCall()
    Hashes(node.context()).hash(call, raw(rpc_pb2.HashRequest()))
    return call


def hash_of(node: FakeNode) -> int:
    call = ask(node)
    node.run_slices()
    assert node.backend.pin_count == 0
    response = rpc_pb2.HashResponse.FromString(call.replies[0])
    assert response.header.revision == node.store.current_revision
    return response.hash


def test_the_same_history_gives_the_same_number(
    fake_node: FakeNode, twin: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut into commits and slices."""
    history(fake_node)
    hash_of(fake_node)  # commits
    fake_node.put(b"more")
    history(twin)
    twin.put(b"more")
    expected = hash_of(twin)
    assert hash_of(fake_node) == expected
    for name, size in (("SLICE_RECORDS", 1), ("SLICE_RECORDS", 3), ("SLICE_BYTES", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(store_hash, name, size)
            assert hash_of(fake_node) == expected


def _put(table: str, key: bytes, value: bytes) -> Callable[[FakeNode], None]:
    def change(node: FakeNode) -> None:
        node.backend.begin_write().put(key, value, db=getattr(node.backend.tables, table))

    return change


ENTRIES: dict[str, Callable[[FakeNode], None]] = {
    "a key": lambda node: node.put(b"z"),
    "a long key": lambda node: node.put(LONG + b"3"),
    "a lease": lambda node: node.apply((Kind.LEASE_GRANT, raw(rpc_pb2.LeaseGrantRequest(ID=6, TTL=60)))) and None,
    "a compaction": lambda node: node.apply((Kind.COMPACT, raw(rpc_pb2.CompactionRequest(revision=2)))) and None,
    "a version": lambda node: node.apply((Kind.CLUSTER_VERSION, b"3.7.0")) and None,
    "a user": _put("auth_users", b"u", auth_pb2.User(name=b"u").SerializeToString()),
    "a role": _put("auth_roles", b"r", b""),
    "a member that is gone": _put("members_removed", pack_u64(9), b""),
    "a member": _put("members", pack_u64(9), b""),
    "an alarm": _put("alarms", pack_u64(9) + b"\0\0\0\1", b""),
    "an event that rots": _put("events", b"\0" * 7 + b"\2" + b"\0" * 4, b"rotten"),
    "a key that rots": _put("current", b"a", bytes(60)),
    "auth": _put("meta", Meta.AUTH_ENABLED, b"\1"),
}


@pytest.mark.parametrize("change", ENTRIES.values(), ids=ENTRIES)
def test_everything_counts(fake_node: FakeNode, change: Callable[[FakeNode], None]) -> None:
    history(fake_node)
    before = hash_of(fake_node)
    change(fake_node)
    assert hash_of(fake_node) != before


@pytest.mark.parametrize("key", [Meta.STORAGE_VERSION, Meta.MEMBER_ID, Meta.LOG_CREATED], ids=bytes.decode)
def test_what_is_a_members_own_does_not(fake_node: FakeNode, key: bytes) -> None:
    """MT-25. Nor how far the log got: alarms that are read are entries too."""
    history(fake_node)
    before = hash_of(fake_node)
    _put("meta", key, pack_u64(77))(fake_node)
    fake_node.apply((Kind.ALARM, raw(rpc_pb2.AlarmRequest())))
    assert hash_of(fake_node) == before


def test_nobody_waits_for_it_any_more(fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_hash, "SLICE_RECORDS", 2)
    history(fake_node)
    call = ask(fake_node)
    assert fake_node.backend.pin_count == 1
    call.cancelled = True
    fake_node.run_slices()
    assert (call.replies, fake_node.backend.pin_count) == ([], 0)

"""HashKV over the whole store, in slices on a snapshot that is let go of in every case."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw

from raftkv.api.hash import Hashes
from raftkv.backend.backend import MAX_PINS
from raftkv.mvcc import hashkv
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code


def ask(node: FakeNode, revision: int = 0) -> Any:
    call: Any = FakeCall()
    Hashes(node.context()).hash_kv(call, raw(rpc_pb2.HashKVRequest(revision=revision)))
    return call


@pytest.fixture(autouse=True)
def small_slices(fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashkv, "SLICE_EVENTS", 2)
    fake_node.put(*(b"%d" % digit for digit in range(9)))


def test_what_is_written_meanwhile_is_not_hashed(fake_node: FakeNode) -> None:
    """MT-20."""
    quiet = ask(fake_node)
    fake_node.run_slices()
    disturbed = ask(fake_node)
    assert fake_node.backend.pin_count == 1
    fake_node.put(b"later")
    fake_node.run_slices()
    first, second = (rpc_pb2.HashKVResponse.FromString(call.replies[0]) for call in (quiet, disturbed))
    assert first == second
    assert (second.hash_revision, second.compact_revision, second.header.revision) == (10, -1, 10)
    assert fake_node.backend.pin_count == 0


def test_nobody_waits_for_it_any_more(fake_node: FakeNode) -> None:
    call = ask(fake_node)
    call.cancelled = True
    fake_node.run_slices()
    assert (call.replies, fake_node.backend.pin_count) == ([], 0)


def test_a_revision_to_come_is_refused(fake_node: FakeNode) -> None:
    assert ask(fake_node, revision=99).failure[0] is Code.OUT_OF_RANGE
    assert (fake_node.backend.pin_count, fake_node.tasks) == (0, [])


def test_too_many_snapshots_are_an_answer_and_no_mistake_of_ours(fake_node: FakeNode) -> None:
    pins = [fake_node.backend.pin() for _ in range(MAX_PINS)]
    assert ask(fake_node).failure[0] is Code.RESOURCE_EXHAUSTED
    for pin in pins:
        pin.close()

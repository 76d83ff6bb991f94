"""HashKV: against the full list of writes in test_mvcc_model, here against fixed facts and the real etcd."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import google_crc32c
import pytest
from mvcc_support import Disk

from raftkv.mvcc import CompactedError, FutureRevisionError
from raftkv.pb import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from helpers.processes import Server


def test_mt22_and_mt23_the_bytes_that_are_hashed(disk: Disk) -> None:
    disk.put(b"k", b"v", lease=3)
    disk.delete(b"k")
    kv = kv_pb2.KeyValue(key=b"k", create_revision=2, mod_revision=2, version=1, value=b"v", lease=3)
    tombstone = kv_pb2.KeyValue(key=b"k")
    hashed = b"key" + bytes(7) + b"\x02_" + bytes(8) + kv.SerializeToString()
    hashed += bytes(7) + b"\x03_" + bytes(8) + b"t" + tombstone.SerializeToString()
    assert disk.hash() == (google_crc32c.value(hashed), -1, 3)


def test_mt20_readable_revisions(disk: Disk) -> None:
    for _ in range(4):
        disk.put(b"k")
    disk.compact(3)
    disk.hash(3)
    with pytest.raises(CompactedError):
        disk.hash(2)
    with pytest.raises(FutureRevisionError):
        disk.hash(6)
    assert disk.hash(-1) == (google_crc32c.value(b"key"), 3, -1)  # as old as nothing is


def test_mt21_independent_of_physical_progress(disk: Disk) -> None:
    rng = random.Random(5)
    for _ in range(40):
        key = b"k%d" % rng.randrange(6)
        if rng.random() < 0.3:
            disk.delete(key)
        else:
            disk.put(key)
    current = disk.store.current_revision
    disk.compact(current - 7, finish=False)
    at_start = [disk.hash(revision) for revision in range(current - 7, current + 1)]
    while not disk.compact_step(3):
        assert [disk.hash(revision) for revision in range(current - 7, current + 1)] == at_start
    assert [disk.hash(revision) for revision in range(current - 7, current + 1)] == at_start


@pytest.mark.differential
def test_equal_to_the_real_etcd(disk: Disk, etcd_server: Server) -> None:
    """The same puts, deletes, transactions and compactions in both: the same number after each of them
    (MT-21)."""
    grpc = pytest.importorskip("grpc")
    from helpers.grpc_calls import Calls

    rng = random.Random(11)
    with grpc.insecure_channel(etcd_server.endpoint) as channel:
        calls = Calls(channel)

        def compare() -> None:
            theirs = calls.Maintenance.HashKV(rpc_pb2.HashKVRequest(), timeout=10)
            ours = disk.hash()
            assert ours == (theirs.hash, theirs.compact_revision or -1, theirs.header.revision)

        for _ in range(12):
            for _ in range(rng.randrange(1, 9)):
                _write_both(rng, disk, calls)
            compare()
            current = disk.store.current_revision
            revision = rng.randrange(max(disk.store.compacted_revision, 1), current) + 1
            if rng.random() < 0.5 and disk.store.compacted_revision < revision <= current:
                calls.KV.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=10)
                disk.compact(revision, finish=rng.random() < 0.5)
                compare()
        # Nothing alive: etcd's filter is off.
        calls.KV.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"\x00", range_end=b"\x00"), timeout=10)
        disk.delete(b"\x00", b"\x00")
        compare()
        current = disk.store.current_revision
        calls.KV.Compact(rpc_pb2.CompactionRequest(revision=current, physical=True), timeout=10)
        disk.compact(current)
        compare()


def _write_both(rng: random.Random, disk: Disk, calls: object) -> None:
    """One random request, as a Txn there and as one request here."""
    request = rpc_pb2.TxnRequest()
    with disk.batch() as writer:
        writer.begin()
        start = rng.randrange(6)
        if rng.random() < 0.3:
            key, range_end = b"k%d" % start, b"k%d" % (start + 2)
            request.success.add().request_delete_range.CopyFrom(
                rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end)
            )
            writer.delete_range(key, range_end)
        for number in rng.sample(range(8), rng.randrange(1, 4)):
            if start <= number < start + 2:
                continue
            key, value = b"k%d" % number + b"x" * rng.choice([0, 600]), rng.randbytes(rng.randrange(4))
            request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=key, value=value))
            writer.put(key, value)
        revision = writer.end()
    if request.success:
        assert calls.KV.Txn(request, timeout=10).header.revision == revision  # type: ignore[attr-defined]

"""Requests that must be refused: message, status code and exit code beside the real etcd (section 9)."""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Rpc, Scenario

from raftkv.pb import lock_pb2, rpc_pb2

pytestmark = pytest.mark.differential

_LIMIT_BYTES = 1_572_864  # LIM-01
_FAR = 1 << 40

SCENARIOS = (
    Scenario(
        "error-empty-key",  # KV-20
        (
            Ctl("put '' v"),
            Ctl("get ''"),
            Ctl("del ''"),
            Rpc("KV.Put", rpc_pb2.PutRequest()),
            Rpc("KV.Range", rpc_pb2.RangeRequest()),
            Rpc("KV.Range", rpc_pb2.RangeRequest(range_end=b"z")),
            Rpc("KV.DeleteRange", rpc_pb2.DeleteRangeRequest()),
        ),
    ),
    Scenario(
        "error-too-large-request",  # LIM-01, LIM-03, LIM-05
        (
            Ctl("put fits", stdin=b"x" * (_LIMIT_BYTES - 1000)),
            Ctl("get fits --keys-only -w json"),
            Ctl("put over", stdin=b"x" * _LIMIT_BYTES),
            Ctl("put over", stdin=b"x" * (_LIMIT_BYTES + 100_000)),
            Ctl("put over", stdin=b"x" * (_LIMIT_BYTES + 600_000)),
            Ctl("get over -w json"),
        ),
    ),
    Scenario(
        "error-value-or-lease-provided",  # PUT-01, PUT-03
        (
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k", value=b"v", ignore_value=True)),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k", lease=5, ignore_lease=True)),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k", ignore_value=True)),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k", ignore_lease=True)),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k", lease=5)),
            Rpc("KV.Put", rpc_pb2.PutRequest(value=b"v", ignore_value=True)),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "error-revisions",  # RNG-04, CMP-02, MT-20
        (
            Rpc("KV.Range", rpc_pb2.RangeRequest(key=b"k", revision=_FAR)),
            Rpc("KV.Range", rpc_pb2.RangeRequest(key=b"k", revision=_FAR, serializable=True)),
            Rpc("KV.Compact", rpc_pb2.CompactionRequest(revision=_FAR)),
            Rpc("Maintenance.HashKV", rpc_pb2.HashKVRequest(revision=_FAR)),
            Rpc("KV.Compact", lambda side: rpc_pb2.CompactionRequest(revision=side.revision(0))),
            Rpc("KV.Range", lambda side: rpc_pb2.RangeRequest(key=b"k", revision=side.revision(-2))),
            Rpc("Maintenance.HashKV", lambda side: rpc_pb2.HashKVRequest(revision=side.revision(-2))),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "error-lock-service",  # LK-01, LK-09
        (
            Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0xABC, TTL=600)),
            Rpc("Lock.Lock", lock_pb2.LockRequest(name=b"gate", lease=0xABC)),
            Rpc("Lock.Lock", lock_pb2.LockRequest(name=b"gate", lease=0xABC)),
            Ctl("get --prefix gate -w json"),
            Rpc("Lock.Unlock", lock_pb2.UnlockRequest(key=b"gate/abc")),
            Rpc("Lock.Unlock", lock_pb2.UnlockRequest(key=b"gate/abc")),
            Ctl("get --prefix gate -w json"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "error-endpoint-that-nobody-serves",
        (
            Ctl("get k --endpoints=127.0.0.1:1 --dial-timeout=200ms --command-timeout=400ms"),
            Ctl("endpoint health --endpoints=127.0.0.1:1 --dial-timeout=200ms --command-timeout=400ms"),
        ),
        tools=("3.5.1",),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

"""etcdctl's lock and elect against clients of the Lock and Election services, beside the real etcd (EL-09).

etcdctl makes its claims by its own transactions. What a service's call waits for is a lock that etcdctl holds for as
long as its command runs.
"""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Ends, Interrupt, Poll, Rpc, Scenario, Start, Until

from raftkv.pb import election_pb2, lock_pb2, rpc_pb2

pytestmark = pytest.mark.differential

_LEASE, _OTHER = 0xABC, 0xDEF
_LEADER = election_pb2.LeaderKey(name=b"seat", key=b"seat/abc", lease=_LEASE)


def _leader_since(revision: int) -> election_pb2.LeaderKey:
    leader = election_pb2.LeaderKey()
    leader.CopyFrom(_LEADER)
    leader.rev = revision
    return leader


def _granted(lease: int) -> Rpc:
    return Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=lease, TTL=600))


def _lock(lease: int) -> Rpc:
    return Rpc("Lock.Lock", lock_pb2.LockRequest(name=b"gate", lease=lease))


def _campaign(value: bytes) -> Rpc:
    return Rpc("Election.Campaign", election_pb2.CampaignRequest(name=b"seat", lease=_LEASE, value=value))


SCENARIOS = (
    Scenario(
        "lock-etcdctl-waits-for-the-service",  # LK-01, LK-04, LK-09, EL-09
        (
            _granted(_LEASE),
            _lock(_LEASE),
            Start("lock gate"),
            Poll("get --prefix gate/ --keys-only", r"(?s)gate/.*gate/"),
            _lock(_LEASE),
            Rpc("Lock.Unlock", lock_pb2.UnlockRequest(key=b"gate/abc")),
            Until("^gate/"),
            Interrupt(),
            Ctl("get --prefix gate/ -w json"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "lock-the-service-waits-for-etcdctl",  # LK-04, LK-08, EL-09
        (
            _granted(_LEASE),
            Start("lock gate -- sh -c 'echo held; sleep 1'"),
            Until("^held$"),
            _lock(_LEASE),
            Ends(),
            Ctl("get --prefix gate/ --keys-only"),
            Rpc("Lock.Unlock", lock_pb2.UnlockRequest(key=b"gate/abc")),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "lock-both-kinds-take-turns",  # LK-04, LK-11, EL-09
        (
            _granted(_LEASE),
            _granted(_OTHER),
            _lock(_LEASE),
            Start("lock gate -- sh -c 'echo held; sleep 1'"),
            Poll("get --prefix gate/ --keys-only", r"(?s)gate/.*gate/"),
            Ctl("lease revoke abc"),
            Until("^held$"),
            _lock(_OTHER),
            Ends(),
            Ctl("get --prefix gate/ --keys-only"),
            Ctl("lease revoke def"),
            Ctl("lock gate -- echo free"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "elect-etcdctl-follows-the-service",  # EL-01, EL-04, EL-06, EL-07, EL-09
        (
            Start("elect -l seat", job="observer"),
            _granted(_LEASE),
            _campaign(b"served"),
            Until("^served$", job="observer"),
            Start("elect seat own"),
            Poll("get --prefix seat/ --keys-only", r"(?s)seat/.*seat/"),
            Rpc(
                "Election.Proclaim",
                lambda side: election_pb2.ProclaimRequest(leader=_leader_since(side.revision(1)), value=b"more"),
            ),
            Until("^more$", job="observer"),
            _campaign(b"again"),
            Until("^again$", job="observer"),
            Rpc("Election.Resign", lambda side: election_pb2.ResignRequest(leader=_leader_since(side.revision(1)))),
            Until("^own$"),
            Until("^own$", job="observer"),
            Interrupt(),
            Interrupt(job="observer", stdout_only=True),
            Rpc("Election.Leader", election_pb2.LeaderRequest(name=b"seat")),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "elect-the-service-waits-for-etcdctl",  # EL-01, EL-05, EL-09
        (
            _granted(_LEASE),
            Ctl("put seat/1 own"),
            Rpc("Election.Leader", election_pb2.LeaderRequest(name=b"seat")),
            Start("lock seat -- sh -c 'echo held; sleep 1'"),
            Poll("get --prefix seat/ --keys-only", r"(?s)seat/.*seat/"),
            Ctl("del seat/1"),
            Until("^held$"),
            _campaign(b"served"),
            Ends(),
            Rpc("Election.Leader", election_pb2.LeaderRequest(name=b"seat")),
        ),
        tools=("3.5.1",),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

"""lease commands, and lock and elect which are built on them, beside the real etcd (L, LK, EL rules)."""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Ends, Interrupt, Poll, Rpc, Scenario, Start, Until

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.differential

_GRANTED = ("lease", r"lease (\S+) granted")


def _grant(lease_id: int, ttl_s: int = 600) -> Rpc:
    return Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl_s))


SCENARIOS = (
    Scenario(
        "lease-grant-use-revoke",  # L-05, L-11, L-12, L-31
        (
            Ctl("lease grant 600", save=_GRANTED),
            Ctl("put a 1 --lease={lease}"),
            Ctl("put b 2 --lease={lease}"),
            Ctl("put c 3"),
            Ctl("get a -w json"),
            Ctl("get a -w fields"),
            Ctl("lease timetolive {lease}"),
            Ctl("lease timetolive {lease} --keys"),
            Ctl("lease timetolive {lease} --keys -w json"),
            Ctl("lease timetolive {lease} --keys -w fields"),
            Ctl("lease list"),
            Ctl("lease list -w json"),
            Ctl("lease list -w fields"),
            Ctl("put b 2"),
            Ctl("lease timetolive {lease} --keys"),
            Ctl("lease revoke {lease}"),
            Ctl("get --prefix '' -w json"),
            Ctl("lease timetolive {lease}"),
            Ctl("lease timetolive {lease} -w json"),
            Ctl("lease list"),
            Ctl("lease revoke {lease}"),
        ),
    ),
    Scenario(
        "lease-grant-formats",
        (
            Ctl("lease grant 500 -w json"),
            Ctl("lease grant 500 -w fields"),
            Ctl("lease grant 500"),
            Ctl("lease list"),
        ),
    ),
    Scenario(
        "lease-with-an-id-of-ones-own",  # L-01..L-04
        (
            _grant(0x1234),
            _grant(0x1234),
            _grant(7, ttl_s=0),
            _grant(8, ttl_s=-5),
            _grant(9, ttl_s=9_000_000_000),
            _grant(10, ttl_s=9_000_000_001),
            _grant(-3),
            Ctl("put a v --lease=1234"),
            Ctl("get a -w json"),
            Ctl("lease timetolive 1234 --keys"),
            Ctl("lease timetolive 9"),
            Rpc("Lease.LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=-3)),
            Rpc("Lease.LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=0)),
            Ctl("lease revoke 1234"),
            Ctl("get a -w json"),
        ),
    ),
    Scenario(
        "lease-unknown-or-wrong",  # L-10, L-30
        (
            Ctl("lease revoke 1234"),
            Ctl("lease timetolive 1234"),
            Ctl("lease timetolive 1234 --keys -w json"),
            Ctl("lease timetolive 1234 --keys -w fields"),
            Ctl("lease keep-alive 1234 --once"),
            Ctl("lease keep-alive 1234"),
            Ctl("lease revoke zzz"),
            Ctl("lease grant"),
            Ctl("lease grant many"),
            Ctl("lease grant -- -1"),
            Ctl("lease revoke"),
            Ctl("lease list"),
        ),
    ),
    Scenario(
        "lease-keep-alive-once",  # L-20
        (
            Ctl("lease grant 300", save=_GRANTED),
            Ctl("lease keep-alive {lease} --once"),
            Ctl("lease keep-alive {lease} --once -w json"),
            Ctl("lease timetolive {lease}"),
            Ctl("lease revoke {lease}"),
            Ctl("lease keep-alive {lease} --once"),
        ),
    ),
    Scenario(
        "lease-keep-alive-outlives-the-ttl",  # L-20, L-29
        (
            Ctl("lease grant 2", save=_GRANTED),
            Ctl("put k v --lease={lease}"),
            Start("lease keep-alive {lease}"),
            Until("keepalived", 5),
            Ctl("get k"),
            Interrupt(keep_lines=5),
        ),
    ),
    Scenario(
        "lease-keep-alive-ends-with-the-lease",  # L-21
        (
            Ctl("lease grant 3", save=_GRANTED),
            Start("lease keep-alive {lease}"),
            Until("keepalived"),
            Ctl("lease revoke {lease}"),
            Ends(),
        ),
    ),
    Scenario(
        "lease-expires",  # L-14, L-16
        (
            Ctl("lease grant 1", save=_GRANTED),
            Ctl("put k v --lease={lease}"),
            Ctl("put k2 v --lease={lease}"),
            Poll("lease timetolive {lease}", "already expired"),
            Ctl("get --prefix k -w json"),
            Ctl("lease revoke {lease}"),
            Ctl("lease list"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "lock",  # EL-09
        (
            Start("lock building", job="first"),
            Until("^building/", job="first"),
            Start("lock building", job="second"),
            Poll("get --prefix building/ --keys-only", r"(?s)building/.*building/"),
            Interrupt(job="first"),
            Until("^building/", job="second"),
            Interrupt(job="second"),
            Ctl("lock building -- sh -c 'env | grep -c ^ETCD_LOCK'"),
            Ctl("lock building --ttl=30 -- sh -c 'exit 3'"),
            Ctl("get --prefix building/ -w json"),
            Ctl("lock"),
        ),
    ),
    Scenario(
        "elect",  # EL-06, EL-09
        (
            Start("elect -l seat", job="observer"),
            Start("elect seat one", job="one"),
            Until("^one$", job="one"),
            Until("^one$", job="observer"),
            Start("elect seat two", job="two"),
            Poll("get --prefix seat/ --keys-only", r"(?s)seat/.*seat/"),
            Interrupt(job="one"),
            Until("^two$", job="two"),
            Until("^two$", job="observer"),
            Interrupt(job="two"),
            Interrupt(job="observer", stdout_only=True),
            Ctl("elect"),
            Ctl("elect -l"),
        ),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

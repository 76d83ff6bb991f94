"""endpoint, member, alarm, defrag, move-leader, make-mirror, snapshot, check perf (MT, CL, AL, CT rules)."""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Interrupt, Poll, Rpc, Scenario, Side, Start

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.differential

_FORMATS = ("simple", "json", "fields", "table")


def _raise_alarm(kind: rpc_pb2.AlarmType.ValueType) -> Rpc:
    def request(side: Side) -> rpc_pb2.AlarmRequest:
        return rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE,
            memberID=side.member_id,
            alarm=kind,
        )

    return Rpc("Maintenance.Alarm", request)


# A history with every kind of change: overwrites, an ended lifetime, several changes in one revision, leases.
_HISTORY = (
    Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0x1234, TTL=6000)),
    Ctl("put a 1"),
    Ctl("put b 2 --lease=1234"),
    Ctl("put a 3"),
    Ctl("del b"),
    Ctl("txn", stdin=b"\nput c 4\ndel a\nput d 5\n\n\n"),
    Ctl("put b 6"),
    Ctl("put empty ''"),
    Ctl("put a 7 --lease=1234"),
    Ctl("put a 8"),
)

SCENARIOS = (
    Scenario(
        "endpoint-status",
        (
            Ctl("put k v"),
            *(Ctl(f"endpoint status -w {fmt}") for fmt in _FORMATS),
            Ctl("endpoint status --cluster"),
        ),
    ),
    Scenario(
        "endpoint-health",
        (
            *(Ctl(f"endpoint health -w {fmt}") for fmt in ("simple", "json", "table")),
            Ctl("endpoint health --cluster"),
        ),
    ),
    Scenario(
        "endpoint-hashkv",  # MT-20..MT-24: the number itself must be equal
        (
            Ctl("endpoint hashkv"),
            *_HISTORY,
            *(Ctl(f"endpoint hashkv -w {fmt}") for fmt in _FORMATS),
            *(Ctl(f"endpoint hashkv --rev={{+{n}}}") for n in range(1, 10)),
            Ctl("endpoint hashkv --rev={+10}"),
            Ctl("compaction --physical {+3}"),
            Ctl("endpoint hashkv -w json"),
            Ctl("endpoint hashkv --rev={+2}"),
            # Not at the compacted revision itself: 3.5 refuses it, 3.6 answers (MT-20).
            *(Ctl(f"endpoint hashkv --rev={{+{n}}}") for n in range(4, 10)),
            Ctl("compaction --physical {+8}"),
            Ctl("endpoint hashkv -w json"),
            Ctl("put after compaction"),
            Ctl("lease revoke 1234"),
            Ctl("endpoint hashkv -w json"),
        ),
        fresh=True,
    ),
    Scenario(
        "member-list",  # CL rules; CT-01
        (*(Ctl(f"member list -w {fmt}") for fmt in _FORMATS), Ctl("member list --hex -w json")),
    ),
    Scenario(
        "member-errors",
        (
            Ctl("member remove 1234"),
            Ctl("member promote 1234"),
            Ctl("member promote {member}"),
            Ctl("member update 1234 --peer-urls=http://127.0.0.1:1"),
            Ctl("member update {member}"),
            Ctl("member add twin"),
            Ctl("member add twin --peer-urls=not-a-url"),
            Ctl("member remove zzz"),
            Ctl("member list"),
        ),
    ),
    Scenario(
        "alarm-list-and-disarm",  # AL-02..AL-04, AL-25, AL-26; CT-04
        (
            Ctl("alarm list"),
            Ctl("alarm disarm"),
            Ctl("put k v"),
            _raise_alarm(rpc_pb2.NOSPACE),
            _raise_alarm(rpc_pb2.NOSPACE),
            Ctl("alarm list"),
            Ctl("alarm list -w json"),
            Ctl("put k refused"),
            Ctl("txn", stdin=b"\nput k refused\n\n\n"),
            Ctl("txn", stdin=b"\nget k\n\n\n"),
            Ctl("lease grant 60"),
            Ctl("get k"),
            Ctl("del k"),
            Ctl("endpoint health"),
            Ctl("endpoint status"),
            Ctl("endpoint status -w json"),
            Ctl("endpoint status -w fields"),
            Ctl("alarm disarm"),
            Ctl("alarm list"),
            Ctl("put k v"),
            Ctl("get k -w json"),
        ),
    ),
    Scenario(
        "alarm-corrupt",  # AL-10
        (
            Ctl("put k v"),
            _raise_alarm(rpc_pb2.CORRUPT),
            Ctl("alarm list"),
            Ctl("put k refused"),
            Ctl("del k"),
            Ctl("txn", stdin=b"\ndel k\n\n\n"),
            Ctl("compaction {+1}"),
            Ctl("lease grant 60"),
            Ctl("get k"),
            Ctl("endpoint health"),
            Ctl("alarm disarm"),
            Ctl("del k"),
        ),
    ),
    Scenario("defrag", (Ctl("put k v"), Ctl("defrag"), Ctl("defrag --cluster"), Ctl("get k -w json"))),
    Scenario(
        "move-leader-errors",  # MT-41
        (
            Ctl("move-leader 1234"),
            Ctl("move-leader zzz"),
            Ctl("move-leader"),
            Rpc("Maintenance.MoveLeader", rpc_pb2.MoveLeaderRequest(targetID=0)),
            Rpc("Maintenance.MoveLeader", rpc_pb2.MoveLeaderRequest(targetID=99)),
            Ctl("move-leader {member}"),
        ),
    ),
    Scenario(
        "make-mirror",
        (
            *(Ctl(f"put from/{n} v{n}") for n in range(5)),
            Start("make-mirror --prefix=from/ --dest-prefix=to/ {endpoint}"),
            Poll("get --prefix to/", "^to/4$"),
            Ctl("put from/new v"),
            Ctl("del from/0"),
            Ctl("put from/1 changed"),
            Poll("get to/1", "^changed$"),
            Ctl("get --prefix to/"),
            Interrupt(),
        ),
    ),
    Scenario(
        "snapshot-save",  # MT-10, MT-11
        (
            Ctl("put k v"),
            Ctl("snapshot save {dir}/snapshot.db", unordered_stderr=True),
            Ctl("snapshot save"),
        ),
    ),
    Scenario(
        "check-perf",
        (
            Ctl("check perf --load=s", only=r"^(PASS|FAIL)", timeout_s=120),
            Ctl("get --prefix /etcdctl-check-perf/ --keys-only"),
        ),
        slow=True,
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

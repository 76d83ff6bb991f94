"""watch in all its forms, with a scripted writer, compared with the real etcd (W rules).

A fresh watch is known to be registered when its stream answers a progress request (W-70), which interactive
mode can send; the other scenarios name a start revision, so it does not matter when they register.
"""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Ends, Interrupt, Rpc, Scenario, Start, Step, Type, Until

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.differential

_HISTORY: tuple[Step, ...] = (
    Ctl("put w/a 1"),
    Ctl("put w/b 2"),
    Ctl("put x other"),
    Ctl("put w/a 3"),
    Ctl("txn", stdin=b"\nput w/c 4\ndel w/b\nput x 5\n\n\n"),
    Ctl("put w/a ''"),
    Ctl("del --prefix w/"),
)

# Every history ends with this put, so that a wait for it shows that all before it has been printed.
_END: tuple[Step, ...] = (Ctl("put w/end end"), Until("^end$"), Interrupt())


def _live(command: str, *writes: Step) -> tuple[Step, ...]:
    """A watch without start revision, typed into interactive mode; writes begin when it is registered."""
    return (Start("watch -i"), Type(f"{command}\nprogress\n"), Until("^progress notify"), *writes, *_END)


SCENARIOS = (
    Scenario("watch-live-prefix", _live("watch w/ --prefix", *_HISTORY)),
    Scenario("watch-live-one-key", _live("watch w/end", *_HISTORY)),
    Scenario("watch-live-prev-kv", _live("watch w/ --prefix --prev-kv", *_HISTORY)),
    Scenario("watch-live-range", _live("watch w/b w/z", *_HISTORY)),
    Scenario(
        "watch-live-lease-expiry-by-revoke",  # W-59
        _live(
            "watch w/ --prefix --prev-kv",
            Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0x77, TTL=600)),
            Ctl("put w/2 b --lease=77"),
            Ctl("put w/1 a --lease=77"),
            Ctl("put w/3 c --lease=77"),
            Ctl("lease revoke 77"),
        ),
    ),
    Scenario(
        "watch-several-on-one-stream-and-progress",  # W-13, W-70, W-72
        (
            Start("watch -i"),
            # etcdctl prints an answer once for each of the three watchers.
            Type("watch w/ --prefix\nwatch x\nwatch w/a --prev-kv\nprogress\n"),
            Until("^progress notify", 3),
            Ctl("put x 1"),
            Until("^PUT"),
            Ctl("put w/b 2"),
            Until("^PUT", 2),
            Type("progress\n"),
            Until("^progress notify", 6),
            Ctl("put unwatched 1"),
            Type("progress\n"),
            Until("^progress notify", 9),
            Interrupt(),
        ),
    ),
    Scenario(
        "watch-from-a-revision",  # W-10
        (
            *_HISTORY,
            Ctl("put w/end end"),
            *(
                step
                for command in (
                    "watch w/ --prefix --rev={+1}",
                    "watch w/ --prefix --rev={+5} --prev-kv",
                    "watch --rev={+3} w/a w/end0",
                    "watch --prefix --rev={+1} ''",
                    "watch --hex --prefix w/ --rev={+4}",
                )
                for step in (Start(command), Until(r"^(end|\\x65\\x6e\\x64)$"), Interrupt())
            ),
        ),
    ),
    Scenario(
        "watch-history-in-every-format",  # W-50..W-54
        (
            *_HISTORY,
            Ctl("put w/end end"),
            *(
                step
                for fmt, last in (("json", "dy9lbmQ="), ("fields", '"end"\n"Lease" : 0'))
                for step in (
                    Start(f"watch w/ --prefix --rev={{+1}} --prev-kv -w {fmt}"),
                    Until(last),
                    Interrupt(),
                )
            ),
        ),
    ),
    Scenario(
        "watch-from-a-future-revision",  # W-11
        (
            Start("watch w/ --prefix --rev={+4}"),
            *(Ctl(f"put w/{n} {n}") for n in range(1, 7)),
            *_END,
        ),
    ),
    Scenario(
        "watch-from-a-compacted-revision",  # W-12, W-40
        (
            *_HISTORY,
            Ctl("compaction --physical {+4}"),
            Start("watch w/ --prefix --rev={+3}"),
            Ends(),
            Start("watch w/ --prefix --rev={+1} -w json"),
            Ends(),
            Start("watch w/ --prefix --rev={+5} --prev-kv"),
            *_END,
        ),
    ),
    Scenario(
        "watch-prev-kv-that-is-compacted",  # W-53
        (
            Ctl("put w/a 1"),
            Ctl("put w/a 2"),
            Ctl("put w/a 3"),
            Ctl("compaction --physical {+2}"),
            Start("watch w/ --prefix --rev={+2} --prev-kv"),
            *_END,
        ),
    ),
    Scenario(
        "watch-runs-a-command",
        (
            Ctl("put w/end end"),
            Start("watch w/end --rev={+1} -- sh -c 'env | grep ^ETCD_WATCH | sort; echo done'"),
            Until("^done$"),
            Interrupt(),
        ),
    ),
    Scenario(
        "watch-progress-notify",  # W-73
        (
            Ctl("put w/end end"),
            Start("watch w/ --prefix --rev={+1} --progress-notify"),
            Until("^progress notify", 2),
            Interrupt(keep_lines=5),
        ),
        flags=("--experimental-watch-progress-notify-interval=300ms",),
        tools=("3.5.1",),
    ),
    Scenario(
        "watch-bad-requests",
        (
            Ctl("watch"),
            Ctl("watch z a --prefix"),
            Ctl("watch z a"),
            Ctl("watch k --rev=x"),
            Ctl("watch -i", stdin=b"watc k\n"),
            Ctl("watch -i", stdin=b""),
        ),
    ),
    Scenario(
        "watch-many-revisions-from-history",  # W-57: more than one batch of the real server
        (
            *(
                Rpc(
                    "KV.Txn",
                    rpc_pb2.TxnRequest(
                        success=[
                            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"w/%d" % n, value=b"%d" % turn))
                            for n in range(100)
                        ]
                    ),
                )
                for turn in range(20)
            ),
            Start("watch w/ --prefix --rev={+1}"),
            *_END,
        ),
        tools=("3.5.1",),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

"""put, get, del and compaction with every flag of etcdctl (RNG, PUT, DEL, CMP rules)."""

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Rpc, Scenario, Side

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.differential

# Keys whose order differs by key, create, mod and value. Their versions have ties, whose order nobody
# promises (RNG-16), so VERSION has a scenario of its own.
_SORTABLE = (
    Ctl("put b 5"),
    Ctl("put a 3"),
    Ctl("put d 1"),
    Ctl("put c 4"),
    Ctl("put a 2"),
    Ctl("put a 2"),
    Ctl("put d 1"),
    Ctl("put e 9"),
    Ctl("del e"),
)

_FORMATS = ("simple", "json", "fields")


def _sorts() -> tuple[Ctl, ...]:
    return tuple(
        Ctl(f"get --prefix '' --sort-by={target} {order} {limit} -w json")
        for target in ("CREATE", "KEY", "MODIFY", "VALUE")
        for order in ("", "--order=ASCEND", "--order=DESCEND")
        for limit in ("", "--limit=2")
    )


def _modified_between(low: int, high: int, limit: int = 0) -> Rpc:
    """All keys, filtered by bounds that count from the scenario's start."""

    def request(side: Side) -> rpc_pb2.RangeRequest:
        return rpc_pb2.RangeRequest(
            key=b"\0",
            range_end=b"\0",
            min_mod_revision=side.revision(low),
            max_mod_revision=side.revision(high),
            limit=limit,
        )

    return Rpc("KV.Range", request)


SCENARIOS = (
    Scenario(
        "put-and-get-in-every-format",
        (
            Ctl("put key value"),
            Ctl("put key other --prev-kv"),
            *(Ctl(f"get key -w {fmt}") for fmt in _FORMATS),
            Ctl("get key -w protobuf", decode=rpc_pb2.RangeResponse),
            Ctl("get key --hex"),
            Ctl("get key --hex -w fields"),
            *(Ctl(f"put key third --prev-kv -w {fmt}") for fmt in _FORMATS),
            Ctl("put key fourth --prev-kv -w protobuf", decode=rpc_pb2.PutResponse),
            Ctl("put new value --prev-kv -w json"),
            Ctl("get no-such-key"),
            Ctl("get no-such-key -w json"),
            Ctl("get no-such-key -w fields"),
        ),
    ),
    Scenario(
        "put-value-from-stdin-and-binary",
        (
            Ctl("put stdin", stdin=b"from stdin\nwith two lines\n"),
            Ctl("get stdin"),
            Ctl("put binary", stdin=bytes(range(256))),
            Ctl("get binary --hex"),
            Ctl("get binary -w json"),
            Ctl("put empty ''"),
            Ctl("get empty -w json"),
            Ctl("get empty -w fields"),
            Ctl("put -- -dash --value"),
            Ctl("get -- -dash"),
            Ctl("put 'with space' 'and ünïcode ✓'"),
            Ctl("get 'with space'"),
        ),
    ),
    Scenario(
        "put-same-value-makes-a-new-version",  # KV-05, KV-06
        (
            Ctl("put k same -w json"),
            Ctl("put k same -w json"),
            Ctl("get k -w json"),
            Ctl("del k -w json"),
            Ctl("put k same"),
            Ctl("get k -w json"),
        ),
    ),
    Scenario(
        "put-ignore-value-and-ignore-lease",  # PUT-01..PUT-07
        (
            Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0x1234, TTL=600)),
            Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0x5678, TTL=600)),
            Ctl("put k v --lease=1234"),
            Ctl("get k -w json"),
            Ctl("put k v2 --ignore-lease"),
            Ctl("get k -w json"),
            Ctl("put k --ignore-value --lease=5678 --prev-kv"),
            Ctl("get k -w json"),
            Ctl("put k --ignore-value --ignore-lease"),
            Ctl("get k -w json"),
            Ctl("put k --ignore-value"),
            Ctl("get k -w json"),
            Ctl("put missing --ignore-value"),
            Ctl("put missing v --ignore-lease"),
            Ctl("put k v --ignore-lease --lease=1234"),
            Ctl("put k v --ignore-value"),
            Ctl("put k v --lease=77777"),
            Ctl("put k v --lease=not-hex"),
            Ctl("get k -w json"),
        ),
    ),
    Scenario(
        "get-range-prefix-from-key-limit",  # RNG-06, RNG-07, RNG-12
        (
            *(Ctl(f"put {key} v-{key}") for key in ("a", "a/1", "a/2", "a0", "b", "zz")),
            Ctl("get a b"),
            Ctl("get a b -w json"),
            Ctl("get b a -w json"),
            Ctl("get a a -w json"),
            Ctl("get --prefix a/"),
            Ctl("get --prefix '' -w json"),
            Ctl("get --from-key a0"),
            Ctl("get --from-key '' --keys-only"),
            Ctl("get --prefix a --limit=2 -w json"),
            Ctl("get --prefix a --limit=4 -w json"),
            Ctl("get --prefix a --limit=4 -w fields"),
            Ctl("get --prefix a --limit=-1 --keys-only"),
            Ctl("get --prefix a -w protobuf", decode=rpc_pb2.RangeResponse),
            Ctl("get --prefix a --print-value-only"),
            Ctl("get --prefix a --keys-only"),
            Ctl("get --prefix a --keys-only -w json"),
            Ctl("get --prefix a --hex"),
            Ctl("get --prefix a --consistency=s"),
            Ctl("get --prefix a --consistency=l"),
            Ctl("get --prefix nothing-here -w json"),
        ),
    ),
    Scenario(
        "get-count-only",  # RNG-08
        (
            Ctl("put a 1"),
            Ctl("put b 1"),
            Ctl("put c 1"),
            Ctl("get --prefix '' --count-only -w fields"),
            Ctl("get --prefix '' --count-only -w json"),
            Ctl("get --prefix '' --count-only --limit=1 -w json"),
            Ctl("get --prefix '' --count-only --rev={+2} -w json"),
            Ctl("get x --count-only -w json"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "get-at-a-revision",  # RNG-04, RNG-05, RNG-T3
        (
            Ctl("put a 1"),
            Ctl("put b 2"),
            Ctl("put a 3"),
            Ctl("del b"),
            Ctl("put b 4"),
            Ctl("del a"),
            *(Ctl(f"get --prefix '' --rev={{+{n}}} -w json") for n in range(1, 7)),
            *(Ctl(f"get a --rev={{+{n}}} -w json") for n in range(1, 7)),
            Ctl("get --prefix '' --rev={+3} --limit=1 -w json"),
            Ctl("get --prefix '' --rev={+5} --sort-by=MODIFY --order=DESCEND -w json"),
            Ctl("get --prefix '' --rev={+7}"),
            Ctl("get --prefix '' --rev=-1 -w json"),
        ),
    ),
    Scenario("get-every-sort", (*_SORTABLE, *_sorts())),
    Scenario(
        "get-sort-by-version",
        (
            *(Ctl(f"put k{n} v") for n in range(4) for _ in range(4 - n)),
            Ctl("get --prefix k --sort-by=VERSION -w json"),
            Ctl("get --prefix k --sort-by=VERSION --order=ASCEND --limit=3 -w json"),
            Ctl("get --prefix k --sort-by=VERSION --order=DESCEND --limit=3 -w json"),
            Ctl("get --prefix k --order=DESCEND --keys-only"),
            Ctl("get --prefix k --order=ASCEND --keys-only"),
        ),
    ),
    Scenario(
        "get-revision-filters",  # RNG-10, RNG-12, RNG-T2: etcdctl has no flags for these
        (
            *(Ctl(f"put {key} v") for key in "abcde"),
            Ctl("put a again"),
            _modified_between(2, 4),
            _modified_between(2, 4, limit=2),
            _modified_between(6, 6),
            _modified_between(1, 1),
            Rpc(
                "KV.Range",
                lambda side: rpc_pb2.RangeRequest(
                    key=b"a",
                    range_end=b"z",
                    min_create_revision=side.revision(2),
                    max_create_revision=side.revision(4),
                    keys_only=True,
                ),
            ),
        ),
    ),
    Scenario(
        "del-every-flag",  # DEL-01..DEL-03
        (
            *(Ctl(f"put {key} v-{key}") for key in ("a", "a/1", "a/2", "b", "c", "d", "e", "f", "g")),
            Ctl("del a"),
            Ctl("del a"),
            Ctl("del --prefix a/ --prev-kv"),
            Ctl("del b d --prev-kv -w json"),
            Ctl("del d -w fields"),
            Ctl("del --from-key f --prev-kv"),
            Ctl("del e --prev-kv -w protobuf", decode=rpc_pb2.DeleteRangeResponse),
            Ctl("del nothing -w json"),
            Ctl("put last 1"),
            Ctl("del --prefix '' -w json"),
            Ctl("get --prefix '' -w json"),
        ),
    ),
    Scenario(
        "keys-of-odd-shapes",
        (
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"\0", value=b"zero")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"\0\0", value=b"two zeros")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"\xff", value=b"top")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"\xff\xff", value=b"higher")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k" * 600, value=b"long")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k" * 599 + b"j", value=b"long before")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k" * 511, value=b"limit of the engine")),
            Rpc("KV.Put", rpc_pb2.PutRequest(key=b"k" * 20_000, value=b"very long")),
            Ctl("get --from-key '' --keys-only -w json"),
            Ctl("get --prefix kkkk --keys-only -w json"),
            Rpc("KV.Range", rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")),
            Rpc("KV.Range", rpc_pb2.RangeRequest(key=b"\xff", range_end=b"\0")),
            Rpc("KV.Range", rpc_pb2.RangeRequest(key=b"k" * 599, range_end=b"k" * 600)),
            Rpc("KV.DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"k" * 600, range_end=b"l", prev_kv=True)),
            Ctl("get --from-key '' --keys-only -w json"),
        ),
    ),
    Scenario(
        "compaction",  # CMP-01, CMP-02
        (
            *(Ctl(f"put k {n}") for n in range(5)),
            Ctl("put gone 1"),
            Ctl("del gone"),
            Ctl("put k last"),
            Ctl("compaction {+3}"),
            Ctl("get k --rev={+2}"),
            Ctl("get k --rev={+3} -w json"),
            Ctl("get k --rev={+4} -w json"),
            Ctl("get k -w json"),
            Ctl("compaction {+3}"),
            Ctl("compaction {+2}"),
            Ctl("compaction {+99}"),
            Ctl("compaction --physical {+6}"),
            Ctl("get gone --rev={+6} -w json"),
            Ctl("get --prefix '' --rev={+7} -w json"),
            Ctl("compaction --physical {+8}"),
            Ctl("get --prefix '' -w json"),
            Ctl("put k after -w json"),
            Ctl("compaction"),
            Ctl("compaction not-a-number"),
            Ctl("compaction -- -5"),
        ),
    ),
    Scenario(
        "compaction-of-a-store-never-compacted",  # CMP-03
        (
            Ctl("put k 1"),
            Ctl("compaction -- -1"),
            Ctl("compaction 0"),
            Ctl("compaction 0"),
            Ctl("compaction 2"),
            Ctl("get k -w json"),
        ),
        fresh=True,
        tools=("3.5.1",),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

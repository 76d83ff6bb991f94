"""Transactions typed into etcdctl, beside the real etcd (TXN rules); etcdctl cannot nest, so gRPC does."""

from collections.abc import Sequence

import pytest
from helpers.comparison import Compare, cases
from helpers.ctl_steps import Ctl, Rpc, Scenario

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.differential


Op = rpc_pb2.RequestOp
Compared = rpc_pb2.Compare


def typed(compares: Sequence[str], success: Sequence[str] = (), failure: Sequence[str] = ()) -> bytes:
    """What a user types: three lists, each ended by an empty line."""
    return "".join(f"{line}\n" for part in (compares, success, failure) for line in (*part, "")).encode()


def put(key: bytes, value: bytes = b"v") -> Op:
    return Op(request_put=rpc_pb2.PutRequest(key=key, value=value))


def get(key: bytes, range_end: bytes = b"", revision: int = 0) -> Op:
    return Op(request_range=rpc_pb2.RangeRequest(key=key, range_end=range_end, revision=revision))


def delete(key: bytes, range_end: bytes = b"") -> Op:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=True))


def txn(compare: Sequence[Compared] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)


def nested(compare: Sequence[Compared] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()) -> Op:
    return Op(request_txn=txn(compare, success, failure))


def nested_compares_see_the_state_before() -> tuple[Rpc, ...]:
    """TXN-40, TXN-41, TXN-53."""
    inner = nested(
        [Compared(key=b"n", target=Compared.VERSION, version=0)],
        [put(b"seen", b"before")],
        [put(b"seen", b"after")],
    )
    return (
        Rpc("KV.Txn", txn([], [put(b"n"), inner, get(b"n"), get(b"seen")])),
        Rpc("KV.Txn", txn([], [delete(b"n"), nested([], [get(b"n"), get(b"seen")]), delete(b"n"), put(b"m")])),
    )


# etcdctl of both releases panics on a lease compare: those are in txn-lease-compares.
_EVERY_COMPARE = (
    'version("k") = "2"',
    'ver("k") > "1"',
    'version("k") < "2"',
    'version("k") != "3"',
    'create("k") = "{+1}"',
    'c("k") > "{+1}"',
    'mod("k") = "{+2}"',
    'm("k") < "{+2}"',
    'value("k") = "v2"',
    'val("k") > "v1"',
    'value("k") < "v1"',
    'value("k") != "v2"',
    'version("missing") = "0"',
    'create("missing") = "0"',
    'mod("missing") > "0"',
    'value("missing") = ""',
    'value("missing") != "x"',
)

SCENARIOS = (
    Scenario(
        "txn-every-compare",  # TXN-30..TXN-34
        (
            Ctl("put k v1"),
            Ctl("put k v2"),
            *(Ctl("txn", stdin=typed([line], ["get k"], ["get missing"])) for line in _EVERY_COMPARE),
            *(Ctl("txn -w json", stdin=typed([line], ["put yes 1"], ["put no 1"])) for line in _EVERY_COMPARE[::4]),
        ),
    ),
    Scenario(
        "txn-interactive",
        (
            Ctl("put k v"),
            Ctl(
                "txn -i",
                stdin=typed(['value("k") = "v"', 'mod("k") > "0"'], ["put k v2", "get k"], ["get k"]),
            ),
            Ctl("txn --interactive", stdin=typed(['value("k") = "v"'], ["put k v3"], ["get k", "del k"])),
            Ctl("txn -i", stdin=typed([], ["put a 1", "put b 2", 'get --prefix ""', "del a", "get a b"])),
            Ctl("txn -i", stdin=typed([])),
            Ctl("txn -i", stdin=typed([], [], ["put never x"])),
            Ctl("get --prefix '' -w json"),
        ),
    ),
    Scenario(
        "txn-in-every-format",  # TXN-50..TXN-52
        (
            *(Ctl(f"put {key} v-{key}") for key in "abc"),
            *(
                Ctl(
                    f"txn -w {fmt}",
                    stdin=typed(
                        [],
                        ["get a", "put a new --prev-kv", "del b c --prev-kv", 'get --prefix ""', "del none"],
                    ),
                )
                for fmt in ("simple", "json", "fields")
            ),
            Ctl(
                "txn -w protobuf",
                stdin=typed(['version("a") > "100"'], [], ["get a", "put z 1", "get z"]),
                decode=rpc_pb2.TxnResponse,
            ),
            Ctl("txn", stdin=typed([], ['get --prefix "" --keys-only', "get a --print-value-only"])),
        ),
    ),
    Scenario(
        "txn-that-changes-nothing",  # TXN-46, TXN-50, TXN-60..TXN-63
        (
            Ctl("put k v"),
            Ctl("txn -w json", stdin=typed([], ["get k"])),
            Ctl("txn -w json", stdin=typed([], ["del none"])),
            Ctl("txn -w json", stdin=typed(['version("k") = "9"'], ["put k x"], [])),
            Ctl("txn -w json", stdin=typed(['version("k") = "1"'])),
            Ctl("txn -w json", stdin=typed(['version("k") = "2"'])),
            Ctl("txn -w json", stdin=typed([], ["del k", "del k", "get k"])),
            Ctl("get k -w json"),
        ),
    ),
    Scenario(
        "txn-errors",  # TXN-10, TXN-20..TXN-26, TXN-42
        (
            Ctl("put k v"),
            Ctl("txn", stdin=typed([], ["put k 1", "put k 2"])),
            Ctl("txn", stdin=typed([], ["put k 1", "del k"])),
            Ctl("txn", stdin=typed([], ["del a z", "put k 1"])),
            Ctl("txn", stdin=typed([], ["put k 1"], ["put k 1", "put k 2"])),
            Ctl("txn", stdin=typed([], ["del k", "del k", "del a z"])),
            Ctl("txn", stdin=typed([], ['put "" v'])),
            Ctl("txn", stdin=typed(['version("") = "0"'], ["put a v"])),
            Ctl("txn", stdin=typed([], [f"put key{n} v" for n in range(128)])),
            Ctl("txn", stdin=typed([], [f"put key{n} v" for n in range(129)])),
            Ctl("txn", stdin=typed([f'version("k{n}") = "0"' for n in range(129)])),
            Ctl("txn", stdin=typed([], ["put k v --lease=77777"])),
            Ctl("txn", stdin=typed([], ["put missing --ignore-value", "put b v"])),
            Ctl("txn", stdin=typed([], ["get k --rev={+999}", "put b v"])),
            Ctl("txn", stdin=typed([], ["put b v"], ["get k --rev={+999}", "put k v --lease=77777"])),
            Ctl("txn", stdin=typed(["nonsense"], [])),
            Ctl("txn", stdin=typed(['version("k") = "one"'], [])),
            Ctl("txn", stdin=typed([], ["fly away"])),
            Ctl("get --prefix '' --keys-only -w json"),
        ),
    ),
    Scenario(
        "txn-lease-compares",
        (
            Rpc("Lease.LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=0x1234, TTL=600)),
            Ctl("put k v --lease=1234"),
            *(
                Rpc(
                    "KV.Txn",
                    txn([Compared(key=key, target=Compared.LEASE, result=result, lease=lease)], [get(key)]),
                )
                for key, result, lease in (
                    (b"k", Compared.EQUAL, 0x1234),
                    (b"k", Compared.EQUAL, 0),
                    (b"k", Compared.GREATER, 0),
                    (b"k", Compared.NOT_EQUAL, 0x1235),
                    (b"missing", Compared.EQUAL, 0),
                    (b"missing", Compared.LESS, 1),
                )
            ),
        ),
        tools=("3.5.1",),
    ),
    Scenario("txn-nested-compares", nested_compares_see_the_state_before()),
    Scenario(
        "txn-nested-limits-and-duplicates",  # TXN-02, TXN-11, TXN-22..TXN-25
        (
            Rpc("KV.Txn", txn([], [nested([], [put(b"%d" % n) for n in range(127)])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"%d" % n) for n in range(128)])])),
            Rpc("KV.Txn", txn([], [nested([], [nested([], [put(b"%d" % n) for n in range(127)])])])),
            Rpc("KV.Txn", txn([], [Op()])),
            Rpc("KV.Txn", txn([], [put(b"a"), nested([], [put(b"a")])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"a")], [put(b"a")])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"a")]), nested([], [], [put(b"a")])])),
            Rpc("KV.Txn", txn([], [delete(b"a", b"z"), nested([], [put(b"b")])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"b")]), delete(b"a", b"z")])),
            Rpc("KV.Txn", txn([], [nested([], [delete(b"a", b"z")]), nested([], [put(b"b")])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"b")]), nested([], [delete(b"a", b"z")])])),
            Rpc("KV.Txn", txn([], [nested([], [put(b"")])])),
            Ctl("get --prefix '' --count-only -w json"),
        ),
        tools=("3.5.1",),
    ),
    Scenario(
        "txn-ranged-compares",  # TXN-31..TXN-33
        (
            *(Ctl(f"put r/{n} same") for n in range(3)),
            *(
                Rpc(
                    "KV.Txn",
                    txn(
                        [Compared(key=key, range_end=end, target=target, result=result, **operand)],
                        [get(b"x")],
                    ),
                )
                for key, end, target, result, operand in (
                    (b"r/", b"r0", Compared.VALUE, Compared.EQUAL, {"value": b"same"}),
                    (b"r/", b"r0", Compared.VALUE, Compared.NOT_EQUAL, {"value": b"same"}),
                    (b"r/", b"r0", Compared.VERSION, Compared.EQUAL, {"version": 1}),
                    (b"r/", b"r0", Compared.MOD, Compared.GREATER, {"mod_revision": 0}),
                    (b"r/", b"r0", Compared.LEASE, Compared.EQUAL, {"lease": 0}),
                    (b"r/", b"\0", Compared.CREATE, Compared.LESS, {"create_revision": 1 << 40}),
                    (b"s/", b"s0", Compared.VERSION, Compared.EQUAL, {"version": 0}),
                    (b"s/", b"s0", Compared.VALUE, Compared.NOT_EQUAL, {"value": b"x"}),
                    (b"s/", b"s0", Compared.VALUE, Compared.EQUAL, {"value": b""}),
                    (b"r0", b"r/", Compared.VERSION, Compared.EQUAL, {"version": 0}),
                )
            ),
        ),
        tools=("3.5.1",),
    ),
)


@pytest.mark.parametrize(("tool_version", "scenario"), cases(SCENARIOS))
def test_same_output_as_etcd(compare_with_etcd: Compare, tool_version: str, scenario: Scenario) -> None:
    compare_with_etcd(tool_version, scenario)

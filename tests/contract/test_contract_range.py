"""Range: past and present, limits, filters, order (contract section 2.3)."""

from typing import Any

import pytest
from contract_support import COMPACTED, FUTURE, Client, Code, prefix_end, refused

from raftkv.pb import rpc_pb2

_Range = rpc_pb2.RangeRequest
_SORT_OPTION = (Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")


def _fill(client: Client, prefix: bytes, letters: bytes) -> int:
    """Put these one-letter keys, a revision each; the revision before the first."""
    before = client.revision()
    for letter in letters:
        client.put(prefix + bytes([letter]))
    return before


def _letters(answer: rpc_pb2.RangeResponse) -> bytes:
    return b"".join(kv.key[-1:] for kv in answer.kvs)


def _all(client: Client, prefix: bytes, **fields: Any) -> rpc_pb2.RangeResponse:
    return client.range(prefix, prefix_end(prefix), **fields)


# --- the vectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "order", "limit", "letters", "more"),
    [
        pytest.param(_Range.CREATE, _Range.NONE, 10, b"bacd", False, id="RNG-T1, RNG-14: implicit ascend"),
        pytest.param(_Range.MOD, _Range.DESCEND, 1, b"c", True, id="RNG-T1: last changed"),
        pytest.param(_Range.KEY, _Range.DESCEND, 1, b"d", True, id="RNG-T1: last key"),
        pytest.param(_Range.KEY, _Range.NONE, 0, b"abcd", False, id="RNG-13: none"),
        pytest.param(_Range.KEY, _Range.ASCEND, 0, b"abcd", False, id="RNG-13: ascend"),
        pytest.param(_Range.CREATE, _Range.ASCEND, 0, b"bacd", False, id="RNG-17: create"),
        pytest.param(_Range.CREATE, _Range.DESCEND, 2, b"dc", True, id="RNG-16: create descending"),
        pytest.param(_Range.MOD, _Range.ASCEND, 0, b"badc", False, id="RNG-17: mod"),
        pytest.param(_Range.VERSION, _Range.DESCEND, 1, b"c", True, id="RNG-17: version"),
        pytest.param(_Range.CREATE, _Range.NONE, 1, b"b", True, id="RNG-15: limit, then implicit sort"),
        pytest.param(_Range.MOD, _Range.NONE, 2, b"ba", True, id="RNG-15: limit + 1 keys are sorted"),
        pytest.param(_Range.MOD, _Range.ASCEND, 2, b"ba", True, id="RNG-15: explicit sorts all"),
    ],
)
def test_t1_order(
    client: Client, prefix: bytes, target: Any, order: Any, limit: int, letters: bytes, more: bool
) -> None:
    """RNG-T1 and its neighbours: put b, a, c, d, c."""
    _fill(client, prefix, b"bacdc")
    answer = _all(client, prefix, sort_target=target, sort_order=order, limit=limit)
    assert (_letters(answer), answer.more, answer.count) == (letters, more, 4)


def test_implicit_order_sorts_only_what_the_limit_left(client: Client, prefix: bytes) -> None:
    """RNG-15: the first limit + 1 keys, a and b, are sorted by creation; d, the oldest, is never seen."""
    _fill(client, prefix, b"dcba")
    implicit = _all(client, prefix, sort_target=_Range.CREATE, limit=1)
    assert (_letters(implicit), implicit.more, implicit.count) == (b"b", True, 4)
    explicit = _all(client, prefix, sort_target=_Range.CREATE, sort_order=_Range.ASCEND, limit=1)
    assert (_letters(explicit), explicit.more, explicit.count) == (b"d", True, 4)


@pytest.mark.parametrize(
    ("bounds", "letters"),
    [
        pytest.param({"min_mod_revision": 2, "max_mod_revision": 4}, b"bcd", id="RNG-T2"),
        pytest.param({"min_mod_revision": 5}, b"e", id="lower"),
        pytest.param({"max_mod_revision": 1}, b"a", id="upper"),
        pytest.param({"min_create_revision": 4, "max_create_revision": 4}, b"d", id="create: inclusive"),
        pytest.param({"min_create_revision": 2, "max_mod_revision": 3}, b"bc", id="all must hold"),
        pytest.param({"min_mod_revision": 6}, b"", id="none left"),
    ],
)
def test_t2_filters(client: Client, prefix: bytes, bounds: dict[str, int], letters: bytes) -> None:
    """RNG-T2, RNG-10, RNG-12: filters leave the count alone."""
    base = _fill(client, prefix, b"abcde")
    answer = _all(client, prefix, **{name: base + bound for name, bound in bounds.items()})
    assert (_letters(answer), answer.count, answer.more) == (letters, 5, False)


def test_filters_come_before_the_limit(client: Client, prefix: bytes) -> None:
    """RNG-11, RNG-12."""
    base = _fill(client, prefix, b"abcde")
    answer = _all(client, prefix, min_mod_revision=base + 3, limit=2)
    assert (_letters(answer), answer.count, answer.more) == (b"cd", 5, True)
    answer = _all(client, prefix, min_mod_revision=base + 3, limit=3)
    assert (_letters(answer), answer.count, answer.more) == (b"cde", 5, False)


def test_filters_look_at_the_read_revision(client: Client, prefix: bytes) -> None:
    """RNG-10."""
    base = _fill(client, prefix, b"aba")
    assert _letters(_all(client, prefix, revision=base + 2, max_mod_revision=base + 1)) == b"a"
    assert _letters(_all(client, prefix, max_mod_revision=base + 1)) == b""


@pytest.mark.parametrize(("ahead", "letters"), [(0, b""), (1, b"a"), (2, b"ab"), (5, b"abcde")])
def test_t3_the_past(client: Client, prefix: bytes, ahead: int, letters: bytes) -> None:
    """RNG-T3, G-13."""
    base = _fill(client, prefix, b"abcde")
    answer = _all(client, prefix, revision=base + ahead)
    assert (_letters(answer), answer.count, answer.header.revision) == (letters, len(letters), base + 5)


@pytest.mark.parametrize(
    ("limit", "letters", "more"), [(1, b"a", True), (2, b"ab", True), (3, b"abc", False), (0, b"abc", False)]
)
def test_t4_limit(client: Client, prefix: bytes, limit: int, letters: bytes, more: bool) -> None:
    """RNG-T4, RNG-07."""
    _fill(client, prefix, b"abc")
    answer = _all(client, prefix, limit=limit)
    assert (_letters(answer), answer.more, answer.count) == (letters, more, 3)


# --- revisions ----------------------------------------------------------------------------------------------


def test_the_past_is_shown_as_it_was(client: Client, prefix: bytes) -> None:
    """RNG-05."""
    lease = client.grant(60).ID
    created = client.put(prefix, b"1", lease=lease).header.revision
    client.put(prefix, b"2")
    client.delete(prefix)
    client.put(prefix, b"3")
    seen = [client.range(prefix, revision=revision).kvs for revision in range(created - 1, created + 4)]
    assert [[(kv.value, kv.version, kv.create_revision, kv.mod_revision, kv.lease) for kv in kvs] for kvs in seen] == [
        [],
        [(b"1", 1, created, created, lease)],
        [(b"2", 2, created, created + 1, 0)],
        [],
        [(b"3", 1, created + 3, created + 3, 0)],
    ]
    client.revoke(lease)


@pytest.mark.parametrize("revision", [0, -1, -5])
def test_no_revision_means_now(client: Client, prefix: bytes, revision: int) -> None:
    """RNG-04."""
    client.put(prefix)
    assert client.range(prefix, revision=revision).count == 1


def test_future_and_compacted_revisions(client: Client, prefix: bytes) -> None:
    """RNG-04."""
    for value in (b"1", b"2", b"3"):
        client.put(prefix, value)
    now = client.revision()
    with refused(FUTURE):
        client.range(prefix, revision=now + 1)
    client.compact(now - 1)
    assert client.only(prefix, revision=now - 1).value == b"2"
    with refused(COMPACTED):
        client.range(prefix, revision=now - 2)
    with refused(COMPACTED):
        _all(client, prefix, revision=1, count_only=True)


@pytest.mark.parametrize("limit", [-1, -(2**63)])
def test_a_negative_limit_is_none(client: Client, prefix: bytes, limit: int) -> None:
    """RNG-06."""
    _fill(client, prefix, b"abc")
    answer = _all(client, prefix, limit=limit)
    assert (_letters(answer), answer.more) == (b"abc", False)


# --- what comes back ----------------------------------------------------------------------------------------


def test_count_only(client: Client, prefix: bytes) -> None:
    """RNG-08."""
    _fill(client, prefix, b"abc")
    answer = _all(client, prefix, count_only=True, limit=1, min_mod_revision=2**60, sort_order=_Range.DESCEND)
    assert (len(answer.kvs), answer.more, answer.count) == (0, False, 3)


def test_keys_only_blanks_after_sorting(client: Client, prefix: bytes) -> None:
    """RNG-09, RNG-11, RNG-17."""
    for key, value in ((b"a", b"2"), (b"b", b"3"), (b"c", b"1")):
        client.put(prefix + key, value)
    answer = _all(client, prefix, keys_only=True, sort_target=_Range.VALUE, sort_order=_Range.DESCEND)
    assert _letters(answer) == b"bac"
    assert {kv.value for kv in answer.kvs} == {b""}
    assert all(kv.version == 1 and kv.create_revision == kv.mod_revision > 1 for kv in answer.kvs)


def test_values_sort_as_bytes(client: Client, prefix: bytes) -> None:
    """RNG-17."""
    for key, value in ((b"a", b"\x80"), (b"b", b"10"), (b"c", b"9"), (b"d", b"")):
        client.put(prefix + key, value)
    assert _letters(_all(client, prefix, sort_target=_Range.VALUE)) == b"dbca"


def test_paging(client: Client, prefix: bytes) -> None:
    """RNG-19: pages at one revision, while others write."""
    _fill(client, prefix, b"abcdefg")
    start, revision, found = prefix, 0, []
    while True:
        page = client.range(start, prefix_end(prefix), limit=3, revision=revision)
        revision = revision or page.header.revision
        found.append((_letters(page), page.count))
        if not page.more:
            break
        start = page.kvs[-1].key + b"\x00"
        client.put(prefix + b"zz")
        client.delete(prefix + b"d")
    assert found == [(b"abc", 7), (b"def", 4), (b"g", 1)]


def test_serializable(client: Client, prefix: bytes) -> None:
    """RNG-03."""
    client.put(prefix, b"1")
    assert client.only(prefix, serializable=True).value == b"1"


@pytest.mark.beyond_etcd("RNG-01 is new in 3.6")
@pytest.mark.parametrize("fields", [{"sort_order": 3}, {"sort_order": -1}, {"sort_target": 5}])
def test_unknown_sort_options(client: Client, prefix: bytes, fields: dict[str, Any]) -> None:
    """RNG-01."""
    with refused(_SORT_OPTION):
        client.range(prefix, **fields)


def test_a_response_above_the_receive_limit(client: Client, prefix: bytes) -> None:
    """LIM-04, RNG-07: a response far above the receive limit is sent whole, and counted."""
    value = bytes(20_000)
    for number in range(150):
        client.put(prefix + b"%04d" % number, value)
    answer = _all(client, prefix)
    assert (len(answer.kvs), answer.count) == (150, 150)
    assert sum(len(kv.value) for kv in answer.kvs) == 3_000_000
    client.delete(prefix, prefix_end(prefix))

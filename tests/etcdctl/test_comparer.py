"""The comparison itself: what it forgives and what it must never forgive."""

from pathlib import Path

import pytest
from helpers.comparison import Pair, cases, compare, difference, make_level
from helpers.ctl_steps import Ctl, Scenario
from helpers.etcd_tools import Tool
from helpers.normalise import Normaliser

_PORT, _OTHER_PORT = 20001, 20002


def _normaliser(member: int, port: int) -> Normaliser:
    return Normaliser({str(member): "<member>", f"{member:x}": "<member>", f"127.0.0.1:{port}": "<endpoint>"})


def _one_side(template: str, **values: object) -> str:
    member = values["member"]
    assert isinstance(member, int)
    port = values["port"]
    assert isinstance(port, int)
    normaliser = _normaliser(member, port)
    output = template.format(hex=f"{member:x}", **values)
    normaliser.learn_leases(output)
    return normaliser.text(output)


@pytest.mark.parametrize(
    "template",
    [
        '{{"member_id":{member},"revision":7,"raft_term":{small}}}',
        "127.0.0.1:{port}, {hex}, 3.5.{small}, {small} kB, true, false, {small}, 1{small}, {small}, ",
        "http://127.0.0.1:{port}, {hex}, 3.5.{small}, {small}.1 MB, true, false, {small}, 1, {small}, ",
        "127.0.0.1:{port} is healthy: successfully committed proposal: took = {small}.42ms",
        '{{"level":"warn","ts":"2026-01-0{small}","target":"endpoint://{port}","error":"same"}}',
        "lease 12c8a20747f4341{small} granted with TTL(60s)\nlease 12c8a20747f4341{small} revoked",
        "lease 000000000000ab10 granted with TTL(60s), remaining(5{small}s)",
        '{{"ID":135350984018049129{small},"TTL":10}}\n{{"kvs":[{{"lease":135350984018049129{small}}}]}}',
        "| 127.0.0.1:{port} | {hex} | 3.5.{small} | {small} kB | true | false | {small} | 1 | {small} | |",
        "building/12c8a20747f4341{small}",
    ],
)
def test_forgives_what_two_servers_cannot_share(template: str) -> None:
    one = _one_side(template, member=0x667880157B8812C8, port=_PORT, small=8)
    other = _one_side(template, member=0x8E9E05C52164694D, port=_OTHER_PORT, small=9)
    assert one == other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"revision":7}', '{"revision":8}'),
        ('{"count":1}', '{"count":2}'),
        ('{"version":1,"value":"YQ=="}', '{"version":2,"value":"YQ=="}'),
        ("127.0.0.1:1, 3518614561", "127.0.0.1:1, 3518614562"),
        ("Error: etcdserver: key not found", "Error: etcdserver: key is not provided"),
        (
            "lease 000000000000ab10 granted with TTL(60s), remaining(59s)",
            "lease 000000000000ab10 granted with TTL(60s), remaining(20s)",
        ),
        ("a\nb", "b\na"),
        ("lease 12c8a20747f43411 revoked", "lease 12c8a20747f43412 revoked"),
    ],
)
def test_never_forgives_a_difference_that_a_user_sees(one: str, other: str) -> None:
    assert _normaliser(1, _PORT).text(one) != _normaliser(1, _PORT).text(other)


def test_leases_are_told_apart_by_the_order_of_their_grants() -> None:
    normaliser = _normaliser(1, _PORT)
    normaliser.learn_leases("lease 00000000000000ff granted with TTL(5s)")
    normaliser.learn_leases('{"ID":4096,"TTL":5}')
    assert normaliser.text("00000000000000ff 4096 255") == "<lease1> <lease2> <lease1>"


def test_a_difference_is_shown_as_a_unified_diff() -> None:
    text = difference(["$ etcdctl get k", "  v1", "  = 0"], ["$ etcdctl get k", "  v2", "  = 0"])
    assert "-  v1\n+  v2" in text


def test_two_scenarios_may_not_share_a_name() -> None:
    with pytest.raises(AssertionError, match="one name"):
        cases([Scenario("same", ()), Scenario("same", ())])


@pytest.mark.differential
def test_servers_that_drifted_apart_are_made_level(shared_pair: Pair) -> None:
    for _ in range(3):
        shared_pair.subject.put(b"drift")
    make_level(shared_pair)
    assert shared_pair.etcd.put(b"k") == shared_pair.subject.put(b"k")


@pytest.mark.differential
def test_a_different_answer_fails_the_comparison(shared_pair: Pair, tmp_path: Path) -> None:
    make_level(shared_pair)
    shared_pair.subject.put(b"only-here")
    tool = Tool("echo", Path("/bin/echo"))
    compare(shared_pair, tool, Scenario("the same words", (Ctl("same words"),)), tmp_path)
    with pytest.raises(AssertionError, match="the outputs differ"):
        compare(shared_pair, tool, Scenario("another revision", (Ctl("{base}"),)), tmp_path / "again")

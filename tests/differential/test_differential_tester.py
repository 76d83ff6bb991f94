"""The tester can fail: shrinking, scripts from seeds, and a subject with a planted fault, which must be found."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from differ.campaign import Minimal, Options, Played, Player, Tally, play_many, shrink_script
from differ.cli import EXIT_CANNOT_RUN, EXIT_USAGE, main
from differ.client import ranked
from differ.ops import Call, Op, Script, WatchCreate
from differ.pair import PairOptions, start_clusters
from differ.shrink import shrink
from differ.strategies.script import LEAST_OPS, UnknownFamilyError, chosen, script_of
from differ.watching import StreamHalf
from helpers.cluster import Cluster
from helpers.processes import Program

from raftkv.pb import rpc_pb2

_FAULTY = Path(__file__).with_name("faulty_raftkv.py")


# --- ranks of members -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", [(1,), (2,), (2, 2), (1, 2, 1), (2, 1, 0, 2)])
def test_a_member_keeps_the_same_rank_on_both_sides_when_leadership_moves(moves: tuple[int, ...]) -> None:
    """Else the header of a watcher's response, whose stream stays where it is, names another rank on one side."""
    etcd, raftkv = ranked([0, 1, 2], 2), ranked([0, 1, 2], 0)
    same = dict(zip(etcd, raftkv, strict=True))
    for rank in moves:
        etcd, raftkv = ranked(etcd, etcd[rank]), ranked(raftkv, raftkv[rank])
        assert [same[place] for place in etcd] == raftkv


# --- shrinking --------------------------------------------------------------------------------------------------------


def _puts(count: int) -> tuple[Op, ...]:
    return tuple(Call("KV.Put", {"key": b"%d" % n, "value": b"v", "prev_kv": True}) for n in range(count))


def test_shrinking_leaves_the_operations_that_matter() -> None:
    """Two that must come in this order, of sixty; and of their fields only the keys."""
    tries = 0

    async def fails(script: Script) -> bool:
        nonlocal tries
        tries += 1
        keys = [op.fields.get("key") for op in script.ops if isinstance(op, Call)]
        return b"17" in keys and b"41" in keys[keys.index(b"17") :]

    smallest = asyncio.run(shrink(Script(1, _puts(60)), fails))
    assert smallest.ops == (Call("KV.Put", {"key": b"17"}), Call("KV.Put", {"key": b"41"}))
    assert tries <= 250


def test_shrinking_works_inside_nested_requests() -> None:
    ops = [{"request_put": {"key": b"%d" % n}} for n in range(40)]
    script = Script(1, (Call("KV.Txn", {"success": [{"request_txn": {"failure": ops}}], "compare": [{"key": b"a"}]}),))

    async def fails(candidate: Script) -> bool:
        return any("31" in str(op) for op in candidate.ops)

    (op,) = asyncio.run(shrink(script, fails)).ops
    assert isinstance(op, Call)
    assert op.fields == {"success": [{"request_txn": {"failure": [{"request_put": {"key": b"31"}}]}}]}


def test_shrinking_stops_when_its_tries_are_spent() -> None:
    tries = 0

    async def fails(_script: Script) -> bool:
        nonlocal tries
        tries += 1
        return False

    script = Script(1, _puts(60))
    assert asyncio.run(shrink(script, fails, max_tries=7)) == script
    assert tries == 7


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_a_seed_is_a_script() -> None:
    families = chosen(None, frozenset())
    assert script_of(5, families) == script_of(5, families)
    assert script_of(5, families) != replace(script_of(6, families), seed=5)


def test_scripts_are_long_and_of_many_kinds() -> None:
    families = chosen(None, frozenset())
    scripts = [script_of(seed, families) for seed in range(40)]
    assert all(len(script.ops) >= LEAST_OPS for script in scripts)
    kinds = {getattr(op, "method", type(op).__name__) for script in scripts for op in script.ops}
    assert {"KV.Range", "KV.Txn", "KV.Compact", "WatchCreate", "KeepAlive", "Lock.Lock", "Auth.AuthEnable"} <= kinds
    fields = {name for script in scripts for op in script.ops if isinstance(op, WatchCreate) for name in op.fields}
    assert {"start_revision", "filters", "prev_kv", "watch_id", "fragment"} <= fields


def test_families_can_be_chosen_and_must_be_there() -> None:
    assert [family.name for family in chosen(["kv", "txn"], frozenset())] == ["kv", "txn"]
    assert "auth" not in [family.name for family in chosen(None, frozenset({"Auth.UserAdd"}))]
    with pytest.raises(UnknownFamilyError, match="no family 'kw'"):
        chosen(["kw"], frozenset())


# --- what a stream must keep to ---------------------------------------------------------------------------------------


def _half() -> StreamHalf:
    half = StreamHalf.__new__(StreamHalf)  # without a call
    half.created, half.progress, half.watchers, half.problems = [], [], {}, []
    half.ended = None
    half._fragmented, half._next_is_fragmented = set(), False
    half.take(rpc_pb2.WatchResponse(watch_id=3, created=True))
    return half


def _events(*revisions: int, watch_id: int = 3, header: int = 0, fragment: bool = False) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(
        header=rpc_pb2.ResponseHeader(revision=header or max(revisions)),
        watch_id=watch_id,
        fragment=fragment,
        events=[{"kv": {"key": b"a", "mod_revision": revision}} for revision in revisions],
    )


def test_a_stream_in_order_has_no_problem() -> None:
    half = _half()
    for response in (_events(2), _events(3, 3, 5), _events(6, header=9), rpc_pb2.WatchResponse(watch_id=-1)):
        half.take(response)
    half.take(rpc_pb2.WatchResponse(watch_id=3, canceled=True))
    assert half.problems == []
    assert [event.kv.mod_revision for event in half.watchers[3].events] == [2, 3, 3, 5, 6]


@pytest.mark.parametrize(
    ("rule", "responses"),
    [
        ("W-54", [_events(3), _events(2)]),
        ("W-54", [_events(5, 4, header=5)]),
        ("W-55", [_events(3), _events(3)]),
        ("W-56", [_events(4, header=3)]),
        ("W-08", [_events(4, watch_id=9)]),
        ("W-30", [rpc_pb2.WatchResponse(watch_id=3, canceled=True), _events(4)]),
        ("W-82", [_events(4, fragment=True)]),
    ],
)
def test_a_stream_that_breaks_a_rule_is_noticed(rule: str, responses: list[rpc_pb2.WatchResponse]) -> None:
    half = _half()
    for response in responses:
        half.take(response)
    assert len(half.problems) == 1
    assert rule in half.problems[0]


# --- the command line -------------------------------------------------------------------------------------------------


def test_wrong_usage_and_a_missing_etcd(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--families", "kw"]) == EXIT_USAGE
    assert "no family 'kw'" in capsys.readouterr().out
    assert main(["--etcd", "/nowhere/etcd"]) == EXIT_CANNOT_RUN
    assert "/nowhere/etcd" in capsys.readouterr().out


def test_a_script_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--print", "--families", "kv"]) == 0
    assert capsys.readouterr().out.count("KV.") >= LEAST_OPS


# --- a subject that is wrong ------------------------------------------------------------------------------------------


def _faulty(etcd: Program, fault: str) -> Options:
    """raftkv with one planted fault (see faulty_raftkv.py)."""
    program = Program("raftkv", (sys.executable, str(_FAULTY), fault, "serve"))
    return Options(PairOptions(etcd=Path(etcd.command[0]), raftkv=program), ("kv", "watch"), jobs=1)


def _first_difference(options: Options) -> Played:
    tally = Tally()
    results = play_many(options, range(1, 40))
    for played in results:
        tally.add(played)
        if not tally.passed:
            break
    results.close()
    assert not tally.broken, tally.broken[0].broken
    (failed,) = tally.first.values()
    return failed


@pytest.mark.differential
def test_who_is_told_to_end_while_servers_start_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etcd_program: Program
) -> None:
    started: list[Cluster] = []
    submit = ThreadPoolExecutor.submit

    def interrupted(pool: ThreadPoolExecutor, start: Callable[[], Cluster]) -> None:
        started.append(start.__self__)  # type: ignore[attr-defined]
        submit(pool, start)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_clusters(tmp_path, PairOptions(etcd=Path(etcd_program.command[0])))
    assert [member.is_running() for cluster in started for member in cluster.members] == [False]


@pytest.mark.differential
@pytest.mark.parametrize(("fault", "shown"), [("text", "is not provided"), ("event", "W-54")])
def test_a_planted_fault_is_found(etcd_program: Program, fault: str, shown: str) -> None:
    failed = _first_difference(_faulty(etcd_program, fault))
    assert any(shown in line for line in failed.lines), failed.lines


@pytest.mark.differential
def test_a_planted_fault_is_made_small(etcd_program: Program) -> None:
    """An empty value is stored as another one: a put and a range that shows it, out of what else there is."""
    ops: list[Op] = [Call("KV.Put", {"key": b"%d" % n, "value": b"v"}) for n in range(4)]
    ops += [Call("KV.Put", {"key": b"bad", "value": b"", "prev_kv": True}), Call("KV.DeleteRange", {"key": b"1"})]
    ops += [Call("KV.Range", {"key": b"bad", "limit": 3}), Call("KV.Range", {"key": b"2"})]
    script = Script(1, tuple(ops))

    async def make_small() -> Minimal | None:
        player = Player(_faulty(etcd_program, "value"))
        try:
            played = await player.play_script(script)
            assert "kvs[].value missing at etcd" in played.signature
            return await shrink_script(player, script, played.signature, max_s=60)
        finally:
            await player.drop_pair()

    minimal = asyncio.run(make_small())
    assert minimal is not None
    assert minimal.ops == ("KV.Put(key=b'bad')", "KV.Range(key=b'bad')")
    assert "  kvs[0].value: etcd '(absent)', raftkv b'?'" in minimal.lines

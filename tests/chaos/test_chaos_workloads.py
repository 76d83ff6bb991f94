"""Workloads with their checkers, from the first call to the verdict, on a store in memory: sound, and with defects."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from time import monotonic

import pytest
from memory_store import LEASE_S, MemoryClient, MemoryStore

from chaos.checkers import revisions
from chaos.checkers.verdict import Result
from chaos.workloads import WORKLOADS, Workload, World, append, base, lease, register, watch

ENDPOINTS = {"m1": "x:1", "m2": "x:2", "m3": "x:3"}
LASTS_S = 0.6


@pytest.fixture(autouse=True)
def _fast_and_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, lease):
        monkeypatch.setattr(module, "Client", MemoryClient)
    monkeypatch.setattr(base, "THINK_S", (0.0, 0.004))
    monkeypatch.setattr(base, "AFTER_FAILURE_S", 0.01)
    monkeypatch.setattr(watch, "AFTER_FAILURE_S", 0.01)
    monkeypatch.setattr(watch, "STAY_S", (0.05, 0.2))
    monkeypatch.setattr(watch, "CATCH_UP_S", 2.0)
    monkeypatch.setattr(watch, "PROGRESS_EVERY_S", 0.03)
    monkeypatch.setattr(register, "GROUP_CALLS", 60)
    monkeypatch.setattr(append, "LIST_APPENDS", 20)
    for kind in (lease.Lease, lease.ShortLease):
        monkeypatch.setattr(kind, "ttl_s", LEASE_S)
    monkeypatch.setattr(lease, "RENEWALS", (3, 4))
    monkeypatch.setattr(lease, "BETWEEN_S", (0.3, 0.4))
    monkeypatch.setattr(lease, "GONE_WITHIN_S", 3.0)


def worked(name: str, *defects: str, lasts_s: float = LASTS_S) -> Workload:
    """The workload after its whole life."""

    async def story() -> Workload:
        MemoryClient.store = MemoryStore(*defects)
        began = monotonic()
        stopping = asyncio.Event()
        workload = WORKLOADS[name](World(ENDPOINTS, 7, lambda: monotonic() - began, stopping))
        running = asyncio.create_task(workload.run())
        await asyncio.sleep(lasts_s)
        stopping.set()
        await running
        await workload.finish(tuple(ENDPOINTS))
        return workload

    return asyncio.run(story())


def results(workload: Workload) -> dict[str, Result]:
    found = {each.law: each.result for each in workload.verdicts(math.inf)}
    found["clock"] = revisions.check("all", workload.ops()).result
    return found


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_sound_store_passes(name: str, tmp_path: Path) -> None:
    workload = worked(name)
    assert set(results(workload).values()) == {Result.PASSED}
    assert workload.counts().ok > 5
    workload.write(tmp_path)
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    assert len(lines) == sum(workload.counts())
    assert {json.loads(line)["workload"] for line in lines} == {name}


@pytest.mark.parametrize(
    ("name", "defect", "law"),
    [
        ("register", "stale", "every key is linearizable"),
        ("register", "lossy", "every key is linearizable"),
        ("register", "lossy", "clock"),
        ("append", "stale", "every key is linearizable"),
        ("append", "forgetful", "every acknowledged append is there, once"),
        ("watch", "gaps", "events in order, once, no gap"),
        ("watch", "gaps", "events are what was written"),
        ("watch", "lossy", "events are what was written"),
    ],
)
def test_a_defect_is_found_by_the_law_that_it_breaks(name: str, defect: str, law: str) -> None:
    assert results(worked(name, defect))[law] is Result.FAILED


def test_renewals_that_do_nothing_are_found() -> None:
    """Longer than a TTL: a lease that is not renewed must have run out while it should not have."""
    found = results(worked("lease", "sleepy", lasts_s=1.5))
    assert found["no leased key gone early, none left over"] is Result.FAILED


def test_the_seed_decides_what_a_client_asks() -> None:
    world = World(ENDPOINTS, 7, monotonic, asyncio.Event())
    first, second = world.rng("register-m1-0"), world.rng("register-m1-0")
    assert [first.random() for _ in range(5)] == [second.random() for _ in range(5)]
    assert world.rng("register-m1-0").random() != world.rng("register-m1-1").random()
    assert world.rng("register-m1-0").random() != world._replace(seed=8).rng("register-m1-0").random()


def test_registers_use_every_kind_of_call_and_several_groups_of_keys() -> None:
    ops = worked("register").ops()
    assert {op.kind for op in ops} == set(dict(register.KINDS))
    assert len({op.key.rpartition("/")[0] for op in ops}) > 1


def test_watchers_move_and_all_revisions_are_read_back() -> None:
    workload = worked("watch")
    assert isinstance(workload, watch.Watch)
    moves = workload.verdicts(math.inf)[-1].checked
    assert int(moves.split()[0]) >= 3
    checked = next(each.checked for each in workload.verdicts(math.inf) if each.law == "events are what was written")
    assert int(checked.split(", ")[1].split()[0]) > 20

"""Seeds of the simulator. A failing one is run again with RAFTKV_SIM_SEED=<seed>."""

from __future__ import annotations

import os

import pytest
from raft_simulator import Simulator

SEEDS_PER_BLOCK = 20
BLOCKS = 20


def _run(seed: int, steps: int = 900) -> Simulator:
    simulator = Simulator(seed)
    try:
        simulator.run(steps)
        simulator.heal_and_demand_progress()
    except Exception as e:
        e.add_note(f"seed {seed}: {simulator.options}")
        raise
    return simulator


@pytest.mark.parametrize("block", range(BLOCKS))
def test_safety_and_liveness_hold_under_every_seed(block: int) -> None:
    for seed in range(block * SEEDS_PER_BLOCK, (block + 1) * SEEDS_PER_BLOCK):
        _run(seed)


def test_a_seed_of_your_choice() -> None:
    _run(int(os.environ.get("RAFTKV_SIM_SEED", "4711")), steps=3000)


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = _run(7), _run(7)
    for node_id, member in first.cluster.members.items():
        assert member.state == second.cluster.members[node_id].state
        assert member.node.status() == second.cluster.members[node_id].node.status()


def test_the_simulator_is_not_idle() -> None:
    """Guards the guard: seeds elect several leaders, apply entries and answer reads."""
    runs = [_run(seed) for seed in range(6)]
    assert sum(len(run.laws.leaders) for run in runs) > 6
    assert sum(len(run.laws.applied) for run in runs) > 200
    assert sum(run.laws.reads_answered for run in runs) > 50

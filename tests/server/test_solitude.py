"""When a client is known to write alone, and by what it is known not to be."""

from __future__ import annotations

import pytest

from raftkv.server.solitude import ALONE, LOOK_EVERY, QUICK_S, Solitude


def alone(flushes: int = ALONE) -> Solitude:
    solitude = Solitude()
    for _ in range(flushes):
        solitude.on_batch(1)
        solitude.on_flushed(QUICK_S / 2, others=False)
    return solitude


def test_it_takes_many_flushes_without_a_sign_of_anybody_else() -> None:
    assert not Solitude().is_proven
    assert not alone(ALONE - 1).is_proven
    assert alone(ALONE).is_proven


def test_now_and_then_the_loop_looks_whether_it_still_lasts() -> None:
    solitude, syncs = alone(), []
    for _ in range(4 * LOOK_EVERY):
        syncs.append(solitude.may_sync)
        solitude.on_flushed(0.0, others=False)
    assert syncs.count(False) == 4
    assert solitude.is_proven


@pytest.mark.parametrize(
    "happens",
    [
        lambda solitude: solitude.on_batch(2),
        lambda solitude: solitude.on_flushed(QUICK_S / 2, others=True),
        lambda solitude: solitude.on_flushed(2 * QUICK_S, others=False),
    ],
    ids=["two came together", "one came during a flush", "the disk is slow"],
)
def test_any_sign_ends_it(happens) -> None:  # type: ignore[no-untyped-def]
    solitude = alone(3 * ALONE)
    happens(solitude)
    assert (solitude.is_proven, solitude.may_sync) == (False, False)

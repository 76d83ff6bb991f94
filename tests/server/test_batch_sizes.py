"""When batches are known to be small, and the disk to be quick."""

from __future__ import annotations

from raftkv.server.batch_sizes import FIRST_MEAN, QUICK_S, WARY_FLUSHES, BatchSizes


def after(*batches: int) -> BatchSizes:
    sizes = BatchSizes()
    for requests in batches:
        sizes.on_batch(requests)
        sizes.on_flushed(QUICK_S / 2)
    return sizes


def test_it_takes_many_batches_of_one() -> None:
    assert [after(*[1] * count).may_sync for count in (0, 30, 60)] == [False, False, True]
    assert [after(*[1] * count).single for count in (0, 60, 100)] == [False, False, True]


def test_a_few_larger_ones_do_not_count_and_many_do() -> None:
    assert after(*[1] * 100, 3).may_sync
    assert not after(*[1] * 100, 3).single
    assert not after(*[1] * 100, *[2] * 20).may_sync
    assert after(*[1, 1, 2] * 50).may_sync
    assert not after(*[1, 2] * 50).may_sync


def test_one_large_batch_ends_it() -> None:
    assert not after(*[1] * 200, int(FIRST_MEAN) + 2).may_sync


def test_after_a_slow_sync_the_disk_has_to_prove_itself_again() -> None:
    sizes = after(*[1] * 200)
    sizes.on_flushed(2 * QUICK_S)
    assert sizes.single
    for _ in range(WARY_FLUSHES):
        assert not sizes.may_sync
        sizes.on_batch(1)
        sizes.on_flushed(QUICK_S / 2)
    assert sizes.may_sync

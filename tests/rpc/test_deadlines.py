"""One sweep at a time, whatever comes and goes between two of them."""

from __future__ import annotations

from raftkv.rpc.deadlines import TICK_S, Deadlines


class Item:
    def __init__(self) -> None:
        self.expired = 0

    def on_deadline(self) -> None:
        self.expired += 1


def test_a_sweep_is_asked_for_once_until_it_runs() -> None:
    asked: list[None] = []
    deadlines = Deadlines(lambda: asked.append(None))
    for _ in range(10):
        item = Item()
        deadlines.discard(item, deadlines.add(item, 5.0, 1.0))
    assert len(asked) == 1
    deadlines.sweep(1.01)
    assert len(asked) == 1
    deadlines.add(Item(), 5.0, 2.0)
    assert len(asked) == 2


def test_expires_never_early_and_once() -> None:
    deadlines = Deadlines(lambda: None)
    items = [Item() for _ in range(100)]
    for number, item in enumerate(items):
        deadlines.add(item, 10.0 + number * 0.003, 10.0)
    for step in range(60):
        now = 10.0 + step * 0.007
        deadlines.sweep(now)
        for number, item in enumerate(items):
            deadline = 10.0 + number * 0.003
            assert item.expired == (1 if now >= deadline + 2 * TICK_S else item.expired)
            assert now >= deadline or not item.expired
    assert all(item.expired == 1 for item in items)

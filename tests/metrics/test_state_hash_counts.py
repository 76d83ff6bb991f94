"""Comparisons of states are counted, and those that found a difference once more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from raftkv.server.divergence import Divergence


def test_checks_and_differences() -> None:
    hashes = {5: 55, 6: 66}
    applier: Any = SimpleNamespace(index=6, hashes=SimpleNamespace(at=hashes.get))
    identity: Any = SimpleNamespace(member_id=1)
    links: Any = ()
    inquiries: list[Any] = []
    divergence = Divergence(identity, applier, links, lambda: (1, 2, 3), inquiries.append, lambda _verdict: None)
    divergence.check(2, 5, 55)
    divergence.check(2, 4, 1)
    assert (divergence.checked, divergence.differed) == (1, 0), "of entry 4 nothing is known any more"
    divergence.check(3, 6, 67)
    assert (divergence.checked, divergence.differed) == (2, 1)
    [inquiry] = inquiries
    inquiry.close()

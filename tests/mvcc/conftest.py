"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mvcc_support import Disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.close()


@pytest.fixture
def small_blocks() -> Iterator[Disk]:
    """A store whose blocks split at five entries, so that little data makes many."""
    disk = Disk(block_entries=2)
    yield disk
    disk.close()

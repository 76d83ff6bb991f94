"""Fixtures of the tests of `apply`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apply_support import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def shared_machine() -> Iterator[Machine]:
    """For many examples: each begins with `reset`, and none may commit."""
    machine = Machine()
    yield machine
    machine.close()

"""Fixtures of the services' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_support import FakeNode


@pytest.fixture
def fake_node() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()

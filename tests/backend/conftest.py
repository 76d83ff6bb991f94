"""Fixtures of the backend's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backend_support import Stores


@pytest.fixture
def stores() -> Iterator[Stores]:
    opener = Stores()
    yield opener
    for backend in list(opener.opened):
        opener.drop(backend)

"""What a client's test says about itself for the table of clients: name, version, what it used, why it was skipped.

The entries are record_property("client", {...}); whoever runs pytest with a report of its properties makes the table.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import NoReturn

import pytest


class RecordClient:
    """One entry of the table; its result is the test's."""

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record_property = record_property
        self._entry: dict[str, str] = {}

    def __call__(self, name: str, version: str, what: str) -> None:
        """what: in a few words, what of the client the test uses."""
        self._entry = {"name": name, "version": version, "what": what}
        self._record_property("client", self._entry)

    def package(self, package: str, name: str, what: str) -> None:
        """A Python client, by the package that it comes in."""
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        self(name, version, what)

    def note(self, text: str) -> None:
        """Added to the result in the table: why the test is skipped."""
        self._entry["note"] = text

    def give_up(self, why: str) -> NoReturn:
        """Skip the test, and say why in the table too."""
        self.note(why)
        pytest.skip(f"{self._entry['name']}: {why}")

"""The Go program of this folder. What a scenario checks is written in go/*.go."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from helpers import go_build

_SOURCES: Final = Path(__file__).parent / "go"
MODULE: Final = _SOURCES / "go.mod"


def build(directory: Path, lock: Path) -> Path:
    """The program's path; see `go_build.build`."""
    return go_build.build("the Go client", _SOURCES, ".", directory / "clients", lock)

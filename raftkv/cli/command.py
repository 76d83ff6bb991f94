"""What a sub-command is, and the words they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

EXIT_OK: Final = 0
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT: interrupted before there was anything to stop gracefully."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    """One line of `raftkv --help`."""
    run: Callable[[Sequence[str]], int]
    """Takes the arguments behind the name, returns the exit code. May raise StartError."""
    usage: Callable[[], str]
    """The whole help of the command."""

"""How the commands other than `serve` read their arguments: argparse, with the errors and exit codes of the rest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from raftkv.config.errors import UsageError


class _HelpPrinted(Exception):
    """What argparse would end the process for."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError for what it cannot read. Use `read`."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def read(self, argv: Sequence[str]) -> argparse.Namespace | None:
        """None when help was asked for and has been printed."""
        try:
            return self.parse_args(argv)
        except _HelpPrinted:
            return None

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"See `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise _HelpPrinted

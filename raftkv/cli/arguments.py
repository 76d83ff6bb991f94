"""How the commands other than `serve` read their arguments: argparse, with the errors and exit codes of the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from raftkv.cli.command import EXIT_OK
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

    def read_verb(self, argv: Sequence[str]) -> argparse.Namespace | int:
        """For a command of several verbs: the arguments with their `verb`, or the exit code when there is nothing to do
        because help was asked for, or because no verb was named and the help has said which there are."""
        arguments = self.read(argv)
        if arguments is None:
            return EXIT_OK
        if arguments.verb is None:
            sys.stderr.write(self.format_help())
            return UsageError.exit_code
        return arguments

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"See `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise _HelpPrinted

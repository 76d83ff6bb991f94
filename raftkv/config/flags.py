"""The command line of `raftkv serve`, in the syntax of Go programs (rule F-01).

One or two dashes; `--x=y` or `--x y`; a bool flag takes its value only after `=`.
Of repeated flags the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raftkv.config.errors import ConfigError, UsageError
from raftkv.config.inputs import SPELLINGS, Inputs, unknown_name_hint
from raftkv.config.kinds import BOOL

_HELP = frozenset({"h", "help"})


@dataclass(slots=True)
class FlagLine:
    """A command line, read."""

    inputs: Inputs = field(default_factory=Inputs)
    help: bool = False
    """-h or --help was there; what followed it was not read."""
    version: bool = False


def read_flags(argv: Sequence[str]) -> FlagLine:
    """Raises UsageError for an unreadable flag, ConfigError for an argument that is no flag (F-11)."""
    line = FlagLine()
    rest = list(reversed(argv))
    while rest:
        argument = rest.pop()
        if argument == "--" and not rest:
            break
        if not argument.startswith("-") or argument in ("-", "--"):
            raise _not_a_flag(rest[-1] if argument == "--" else argument, line)
        name, equals, text = _split(argument)
        if name in _HELP:
            line.help = True
            break
        if name == "version":
            line.version = True
            continue
        _read_one(line, name, text if equals else None, rest)
    return line


def _split(argument: str) -> tuple[str, str, str]:
    name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"{argument!r} is not the form of a flag", "Write --name=value.")
    return name, equals, text


def _read_one(line: FlagLine, name: str, text: str | None, rest: list[str]) -> None:
    """Reads one flag; a value that is not attached comes from `rest`, whose last element is next."""
    spelling = SPELLINGS.get(name)
    if spelling is None:
        raise UsageError(f"unknown flag --{name}", unknown_name_hint(name, SPELLINGS, "--"))
    if text is None:
        if spelling.kind is BOOL:
            text = "true"
        elif rest:
            text = rest.pop()
        else:
            raise UsageError(f"flag --{name} needs a value", f"Write --{name}=<{spelling.kind.name}>.")
    try:
        value = spelling.parse(text)
    except ValueError as why:
        raise UsageError(f"flag --{name}: {why}") from None
    line.inputs.add(spelling, value, f"flag --{name}")


def _not_a_flag(argument: str, line: FlagLine) -> ConfigError:
    hint = ""
    if argument.lower() in ("true", "false") and line.inputs.values:
        hint = f"A bool flag takes its value after an equals sign: --x={argument.lower()}."
    return ConfigError(f"{argument!r} is not a valid flag", hint)

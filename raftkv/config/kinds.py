"""How a setting's text becomes a value: the flag syntax of Go programs, which etcd's users know.

Owns reading and writing of single values. Knows no setting by name.
Every reader raises ValueError with a sentence about the value alone; the caller adds whose value it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftkv.config.urls import join_urls, parse_urls

_NS_PER_UNIT: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter; keyboards give either
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART: Final = re.compile(r"(?P<whole>\d*)(?:\.(?P<fraction>\d*))?(?P<unit>[a-zµμ]+)")
_MAX_NS: Final = 2**63 - 1

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})

_OLD_OCTAL: Final = re.compile(r"^(?P<sign>[+-]?)0(?P<digits>[0-7_]+)$")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration: "100ms", "1m30s", "1.5h", "-2s", "0"."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, position = 0, 0
    while position < len(rest):
        match = _DURATION_PART.match(rest, position)
        if match is None or not (match["whole"] or match["fraction"]) or match["unit"] not in _NS_PER_UNIT:
            position = -1
            break
        total += _part_ns(match["whole"], match["fraction"] or "", _NS_PER_UNIT[match["unit"]])
        position = match.end()
    if position <= 0:
        raise ValueError(
            f"{text!r} is not a duration; write numbers with units h, m, s, ms, us, ns, like 100ms or 1m30s"
        )
    if total > _MAX_NS:
        raise ValueError(f"{text!r} is longer than 290 years, the longest duration there is")
    return sign * total


def _part_ns(whole: str, fraction: str, unit_ns: int) -> int:
    # Whole numbers all the way: a float would lose nanoseconds of a long duration.
    divisor: int = 10 ** len(fraction)
    return int(whole or "0") * unit_ns + int(fraction or "0") * unit_ns // divisor


def format_duration(ns: int) -> str:
    """The shortest Go text: 5400000000000 is "1h30m", 100000000 is "100ms", 0 is "0s"."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, ns = divmod(ns, _NS_PER_UNIT[unit])
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts)


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_int(text: str) -> int:
    """Decimal, 0x, 0o, 0b or leading-zero octal; underscores between digits are allowed."""
    old_octal = _OLD_OCTAL.match(text)
    if old_octal is not None:
        text = f"{old_octal['sign']}0o{old_octal['digits']}"
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def parse_list(text: str) -> tuple[str, ...]:
    """Comma-separated, spaces around the parts dropped, repetitions dropped, order kept."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of value a setting has: its reader, its writer and its name in the help."""

    name: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str]


STRING: Final = Kind("string", str, str)
BOOL: Final = Kind("bool", parse_bool, _format_bool)
INT: Final = Kind("int", parse_int, str)
DURATION: Final = Kind("duration", parse_duration, format_duration)
URLS: Final = Kind("urls", parse_urls, join_urls)
LIST: Final = Kind("list", parse_list, ",".join)

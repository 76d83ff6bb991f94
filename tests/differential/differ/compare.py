"""Puts two answers side by side: the differences, path by path.

Owns what a difference is. Knows neither which are expected (`known`) nor where answers come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from differ import normalise
from differ.client import OK, Answer, Side
from differ.normalise import Flat
from differ.ops import Op, describe

ABSENT: Final = "(absent)"
_MAX_SHOWN: Final = 400


class Difference(NamedTuple):
    """One leaf that the two have not in common. `path` is "code", "text", or that of a field."""

    path: str
    etcd: Any
    raftkv: Any

    def __str__(self) -> str:
        return f"{self.path}: etcd {_short(self.etcd)}, raftkv {_short(self.raftkv)}"


@dataclass(slots=True)
class Finding:
    """Where and how the two differed. `where` says which part of the operation."""

    op: Op
    place: int
    """Index of the operation in the script; -1 in the clean-up."""
    where: str
    differences: list[Difference]
    etcd: str = ""
    raftkv: str = ""
    recent: list[str] = field(default_factory=list)
    """The calls before it with their answers, a line each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the table of known differences may want to know: the requests and more."""

    @property
    def signature(self) -> str:
        """The same for what is probably the same fault."""
        kind = getattr(self.op, "method", type(self.op).__name__)
        parts = sorted({_shape(each) for each in self.differences})
        return f"{kind} {self.where}: {'; '.join(parts[:4])}"

    def lines(self) -> list[str]:
        shown = [f"  {difference}" for difference in self.differences[:12]]
        hidden = len(self.differences) - len(shown)
        return [
            f"{describe(self.op)} [{self.where}]",
            f"  etcd   answered {self.etcd}",
            f"  raftkv answered {self.raftkv}",
            *shown,
            *([f"  ... and {hidden} more"] if hidden else []),
        ]


def compare_answers(
    method: str, requests: tuple[Any, Any], answers: tuple[Answer, Answer], sides: tuple[Side, Side]
) -> list[Difference]:
    """Differences between etcd's answer and raftkv's. Requests and messages are changed on the way."""
    etcd, raftkv = answers
    if etcd.code != OK or raftkv.code != OK:
        return _different({"code": etcd.code, "text": etcd.text}, {"code": raftkv.code, "text": raftkv.text})
    for answer, side in zip(answers, sides, strict=True):
        if "header" in answer.message.DESCRIPTOR.fields_by_name:
            normalise.tidy_header(answer.message, side)
    if etcd.message == raftkv.message and method not in _TIMED:
        return []
    flats = [
        normalise.flat_answer(method, request, answer.message, side)
        for request, answer, side in zip(requests, answers, sides, strict=True)
    ]
    return compare_flat(flats[0], flats[1])


_TIMED: Final = frozenset({"Maintenance.Status"})
"""Always compared leaf by leaf, so that what must be there is looked at even when both lack it."""


def compare_messages(etcd: Any, raftkv: Any, sides: tuple[Side, Side]) -> list[Difference]:
    """Differences between two messages that answer no request of their own, as events do."""
    if etcd == raftkv:
        return []
    return compare_flat(normalise.flat(etcd, sides[0]), normalise.flat(raftkv, sides[1]))


def compare_flat(etcd: Flat, raftkv: Flat) -> list[Difference]:
    return _different(etcd, raftkv)


def compare_lists(name: str, etcd: list[Any], raftkv: list[Any], sides: tuple[Side, Side]) -> list[Difference]:
    """Differences between two lists of messages, item by item; one list may go on."""
    differences = []
    for number, (one, other) in enumerate(zip(etcd, raftkv, strict=False)):
        found = compare_messages(one, other, sides)
        differences += [Difference(f"{name}[{number}].{path}", left, right) for path, left, right in found]
    common = min(len(etcd), len(raftkv))
    differences += [Difference(f"{name}[{common + n}]", _line(each), ABSENT) for n, each in enumerate(etcd[common:])]
    differences += [Difference(f"{name}[{common + n}]", ABSENT, _line(each)) for n, each in enumerate(raftkv[common:])]
    return differences


def _different(etcd: Flat, raftkv: Flat) -> list[Difference]:
    paths: Iterable[str] = dict.fromkeys([*etcd, *raftkv])
    return [
        Difference(path, etcd.get(path, ABSENT), raftkv.get(path, ABSENT))
        for path in paths
        if etcd.get(path, ABSENT) != raftkv.get(path, ABSENT)
    ]


def answer_text(answer: Answer) -> str:
    if answer.code != OK:
        return f"code {answer.code}: {answer.text!r}"
    return _line(answer.message) or "(an empty message)"


def _line(message: Any) -> str:
    """A message on one line, cut."""
    text = " ".join(str(message).split())
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + " ..."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ... ({len(text)} characters)"


def _shape(difference: Difference) -> str:
    path = "".join(letter for letter in difference.path if not letter.isdigit())
    if difference.path in ("code", "text"):
        return f"{path} {difference.etcd!r} != {difference.raftkv!r}"
    missing = [name for name in ("etcd", "raftkv") if getattr(difference, name) == ABSENT]
    return f"{path} {'missing at ' + missing[0] if missing else 'differs'}"

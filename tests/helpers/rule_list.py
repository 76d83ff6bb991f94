"""The rules of the etcd v3 contract, read from tests/rules/rules.toml, and the finding of their ids in a text.

Owns what may be written about rules: their ids, ranges of ids, and what an exception says. Knows no test and no result.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

RULES_FILE: Final = Path(__file__).parents[1] / "rules" / "rules.toml"

LATER, PARTLY, DIFFERS, NOT_APPLICABLE = "later", "partly", "differs", "not applicable"
STATUSES: Final = {
    LATER: "not there yet",
    PARTLY: "partly there",
    DIFFERS: "different on purpose",
    NOT_APPLICABLE: "nothing for a server to do",
}
"""What an exception may say, and how a page says it."""


class RuleListError(Exception):
    """The list contradicts itself. The text names the id and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    says: str
    status: str = ""
    """One of STATUSES, or empty: raftkv does it as etcd does."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    number: str
    title: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class ChecklistItem:
    """One item of the acceptance checklist. `elsewhere` says what covers it if no named test does."""

    number: int
    title: str
    elsewhere: str = ""


@dataclass(frozen=True)
class RuleList:
    sections: tuple[Section, ...]
    checklist: tuple[ChecklistItem, ...]

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """By id, in the order of the contract."""
        return {rule.id: rule for section in self.sections for rule in section.rules}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """An id, or two of them with `to`, dots or a dash between; the second may leave its letters out."""
        letters = "|".join(sorted({_letters(rule) for rule in self.rules}, key=len, reverse=True))
        return re.compile(
            rf"(?<![\w.])(?P<letters>{letters})-(?P<first>T?\d+)"
            rf"(?:(?:\s+to\s+|\.\.+|\s*[\u2013\u2026]\s*)(?:(?P=letters)-)?(?P<last>T?\d+))?(?![\w])(?!-\d)"
        )

    def named_in(self, text: str) -> frozenset[str]:
        """The ids of all rules that the text names, singly or in ranges. What looks like an id and is none, is not."""
        return frozenset(rule for found in self._pattern.finditer(text) for rule in self._expand(found))

    def unknown_in(self, text: str) -> frozenset[str]:
        """What looks like the id of a rule, or ends a range, and is in no section."""
        found = self._pattern.finditer(text)
        return frozenset(rule for each in found for rule in _ends(each) if rule not in self.rules)

    def _expand(self, found: re.Match[str]) -> Iterator[str]:
        ends = _ends(found)
        if len(ends) == 1:
            yield from (rule for rule in ends if rule in self.rules)
            return
        low, high = (_number(rule) for rule in ends)
        for rule in self.rules:
            if _letters(rule) == found["letters"] and low <= _number(rule) <= high:
                yield rule


def load(path: Path = RULES_FILE) -> RuleList:
    """The list. Raises RuleListError for an id that is there twice, or an exception about nothing."""
    table = tomllib.loads(path.read_text())
    plain = RuleList(tuple(_plain_sections(table["section"])), tuple(_checklist(table.get("checklist", ()))))
    count = sum(len(section.rules) for section in plain.sections)
    if count != len(plain.rules):
        raise RuleListError(f"{count - len(plain.rules)} ids stand in more than one section of {path.name}")
    exceptions = _exceptions(plain, table.get("exception", ()))
    sections = tuple(
        Section(
            section.number,
            section.title,
            tuple(Rule(rule.id, rule.says, *exceptions.get(rule.id, ("", ""))) for rule in section.rules),
        )
        for section in plain.sections
    )
    return RuleList(sections, plain.checklist)


def _plain_sections(table: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    for section in table:
        rules = tuple(Rule(rule, says) for rule, says in section["rules"].items())
        yield Section(section["number"], section["title"], rules)


def _checklist(table: Sequence[Mapping[str, Any]]) -> Iterator[ChecklistItem]:
    for item in table:
        yield ChecklistItem(item["item"], item["title"], item.get("elsewhere", ""))


def _exceptions(rules: RuleList, table: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Id -> (status, reason)."""
    found: dict[str, tuple[str, str]] = {}
    for exception in table:
        text, status, reason = ", ".join(exception["rules"]), exception["status"], exception["reason"]
        if status not in STATUSES:
            raise RuleListError(f"the exception of {text} has the status {status!r}; it may have {', '.join(STATUSES)}")
        if unknown := rules.unknown_in(text):
            raise RuleListError(f"an exception is about rules that are not there: {', '.join(sorted(unknown))}")
        for rule in rules.named_in(text):
            if rule in found:
                raise RuleListError(f"{rule} has two exceptions")
            found[rule] = status, reason
    return found


def _ends(found: re.Match[str]) -> list[str]:
    numbers = [found["first"]] if found["last"] is None else [found["first"], found["last"]]
    return [f"{found['letters']}-{number}" for number in numbers]


def _letters(rule: str) -> str:
    return rule.partition("-")[0]


def _number(rule: str) -> tuple[bool, int]:
    """Examples (T1, T2, ...) are counted on their own."""
    text = rule.partition("-")[2]
    return text.startswith("T"), int(text.removeprefix("T"))

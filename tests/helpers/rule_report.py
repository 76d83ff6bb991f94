"""A pytest plugin: what the tests say about the rules of the contract, in a file and on the command line.

--compatibility-report=FILE   writes the outcome of every test that names a rule, and of every client, as JSON
--rules=all                   runs only tests that name a rule
--rules=W-72,"L-20 to L-29"   runs only tests that name one of these

Works in one process and under pytest-xdist. Knows no page: see compatibility_page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypedDict

import pytest

from helpers import rule_evidence, rule_list

_ABOUT_RULES: Final = Path(__file__).parents[1] / "rules"
"""Tests there name rules as examples."""
_OUTCOMES: Final = ("passed", "xfailed", "skipped", "failed")
"""From the least to the most that decides about a test whose phases went differently."""


class Record(TypedDict):
    """One test. `outcome` is one of passed, xfailed, skipped, failed."""

    outcome: str
    rules: list[str]
    module_rules: list[str]
    clients: list[Any]
    """What the test recorded with record_property("client", ...)."""


class Results(TypedDict):
    subject: str
    tests: dict[str, Record]
    """By node id."""


@cache
def rules() -> rule_list.RuleList:
    return rule_list.load()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rules of the etcd v3 contract")
    group.addoption("--compatibility-report", metavar="FILE", help="write what the tests say about each rule, as JSON")
    group.addoption("--rules", metavar="IDS", help="run only tests that name these rules; all: any rule")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--compatibility-report")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Reporter(Path(path)), "compatibility-report")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--rules")
    if config.getoption("--compatibility-report"):
        for item in items:
            named, by_module = _named(item)
            item.user_properties += [("rules", sorted(named)), ("module_rules", sorted(by_module))]
    if chosen:
        wanted = _wanted(chosen)
        kept = [item for item in items if not wanted.isdisjoint(frozenset().union(*_named(item)))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _named(item: pytest.Item) -> tuple[frozenset[str], frozenset[str]]:
    """What the test names, and what its module does for it."""
    if item.path.is_relative_to(_ABOUT_RULES):
        return frozenset(), frozenset()
    return rule_evidence.named_by_test(item, rules()), rule_evidence.named_by_module(item, rules())


def _wanted(chosen: str) -> frozenset[str]:
    if chosen == "all":
        return frozenset(rules().rules)
    wanted = rules().named_in(chosen)
    if not wanted or rules().unknown_in(chosen):
        raise pytest.UsageError(f"--rules={chosen}: not the ids of rules; they stand in {rule_list.RULES_FILE}")
    return wanted


class _Reporter:
    """Hears every report, also those that workers send, and writes one file at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, Record] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = _gathered(report.user_properties)
        record = self._tests.setdefault(
            report.nodeid,
            {"outcome": "passed", "rules": [], "module_rules": [], "clients": []},
        )
        record["rules"] = [rule for each in properties.get("rules", ()) for rule in each]
        record["module_rules"] = [rule for each in properties.get("module_rules", ()) for rule in each]
        record["clients"] = properties.get("client", [])
        record["outcome"] = max(record["outcome"], _outcome(report), key=_OUTCOMES.index)

    def pytest_sessionfinish(self) -> None:
        results: Results = {
            "subject": os.environ.get("RAFTKV_TEST_SUBJECT", "raftkv"),
            "tests": dict(sorted(self._tests.items())),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(results, indent=1))


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "failed"
    return report.outcome


def _gathered(properties: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, value in properties:
        found.setdefault(name, []).append(value)
    return found

"""docs/compatibility.md, written from what the tests said.

`PYTHONPATH=tests python -m helpers.compatibility_page RESULTS...`: files of --compatibility-report; of a test that is
in several, the last counts. Owns the page's form and the verdict on each rule. Knows no test.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from helpers import rule_list
from helpers.rule_list import STATUSES, ChecklistItem, Rule, RuleList, Section
from helpers.rule_report import Record

_INTRODUCTION: Final = """\
# Compatibility

<!-- Written by `make compatibility` from the results of the tests; edit the tests, or tests/rules/rules.toml. -->

What raftkv does of the etcd v3 contract, rule by rule. The contract is that of etcd 3.6; each of its rules has an id,
by which tests name it. *Checked* means that tests that name the rule passed in the run that wrote this page; "all of" a
file, that the file names it at its head. `.venv/bin/pytest --rules=W-72` runs the tests of a rule.
"""
_FILES_SHOWN: Final = 3
_DIFFERENTIAL: Final = Path(__file__).parents[1] / "differential"
_ITEM_TEST: Final = re.compile(r"::test_item_(\d\d)_")


class Verdict(Enum):
    """The value is the line of the summary."""

    CHECKED = "checked by passing tests"
    FAILS = "a test that names it fails"
    LATER = "not there yet"
    PARTLY = "partly there"
    DIFFERS = "different on purpose"
    NOT_APPLICABLE = "nothing for a server to do"
    UNCHECKED = "no test that ran names it"


_BY_STATUS: Final = {
    rule_list.LATER: Verdict.LATER,
    rule_list.PARTLY: Verdict.PARTLY,
    rule_list.DIFFERS: Verdict.DIFFERS,
    rule_list.NOT_APPLICABLE: Verdict.NOT_APPLICABLE,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule and what came of its tests."""

    rule: Rule
    verdict: Verdict
    passed: Sequence[str]
    """Node ids."""
    failed: Sequence[str]
    waiting: Sequence[str]
    """Expected to fail until something is there."""
    whole_files: bool
    """The passed tests are files of which only the head names the rule."""


def findings(rules: RuleList, tests: Mapping[str, Record]) -> Mapping[str, Finding]:
    """By rule id, in the order of the contract."""
    by_outcome: dict[str, dict[str, list[str]]] = {rule: {} for rule in rules.rules}
    files: dict[str, set[str]] = {}
    by_module: dict[str, set[str]] = {}
    for node_id, record in tests.items():
        files.setdefault(_file(node_id), set()).add(record["outcome"])
        for rule in record["rules"]:
            if rule in by_outcome:
                by_outcome[rule].setdefault(record["outcome"], []).append(node_id)
        for rule in record["module_rules"]:
            by_module.setdefault(rule, set()).add(_file(node_id))
    sound = {file for file, outcomes in files.items() if "passed" in outcomes and "failed" not in outcomes}
    return {
        rule.id: _finding(rule, by_outcome[rule.id], sorted(by_module.get(rule.id, set()) & sound))
        for rule in rules.rules.values()
    }


def _finding(rule: Rule, outcomes: Mapping[str, list[str]], whole_files: Sequence[str]) -> Finding:
    passed, failed, waiting = (outcomes.get(each, []) for each in ("passed", "failed", "xfailed"))
    by_file = not passed and bool(whole_files)
    passed = list(whole_files) if by_file else passed
    verdict = Verdict.CHECKED if passed else Verdict.UNCHECKED
    if rule.status and not (verdict is Verdict.CHECKED and rule.status == rule_list.NOT_APPLICABLE):
        verdict = _BY_STATUS[rule.status]
    elif waiting and not passed:
        verdict = Verdict.LATER
    if failed:
        verdict = Verdict.FAILS
    return Finding(rule, verdict, passed, failed, waiting, by_file)


# --- the page -------------------------------------------------------------------------------------------------------


def render(rules: RuleList, tests: Mapping[str, Record]) -> str:
    """The whole page."""
    found = findings(rules, tests)
    parts = [
        _INTRODUCTION,
        _summary(found, tests),
        _exceptions(rules, found),
        _checklist(rules.checklist, tests),
        _clients(tests),
        _differences(),
        "## Rule by rule\n",
        *(_section(section, found) for section in rules.sections),
    ]
    return "\n".join(part for part in parts if part)


def _summary(found: Mapping[str, Finding], tests: Mapping[str, Record]) -> str:
    naming = [record for record in tests.values() if record["rules"] or record["module_rules"]]
    outcomes = Counter(record["outcome"] for record in naming)
    verdicts = Counter(each.verdict for each in found.values())
    rows = [f"| {verdict.value} | {verdicts[verdict]} |" for verdict in Verdict if verdicts[verdict]]
    on_purpose = sum(1 for each in found.values() if each.verdict is Verdict.DIFFERS and each.passed)
    return "\n".join(
        [
            "## Summary\n",
            f"{len(found)} rules, and {len(naming)} tests that name them: {_outcomes(outcomes)}.\n",
            "| Rules | |",
            "|---|---:|",
            *rows,
            "",
            f"Tests also check {on_purpose} of the differences on purpose: that raftkv does what this page says.\n",
        ]
    )


def _outcomes(outcomes: Mapping[str, int]) -> str:
    words = {"passed": "passed", "failed": "failed", "xfailed": "wait for what is not there yet", "skipped": "skipped"}
    return ", ".join(f"{outcomes[each]} {words}" for each, words in words.items() if outcomes.get(each))


def _exceptions(rules: RuleList, found: Mapping[str, Finding]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for rule in rules.rules.values():
        if rule.status:
            groups.setdefault((rule.status, rule.reason), []).append(rule.id)
    lines = ["## What is not as in etcd\n"]
    order = {rule: place for place, rule in enumerate(rules.rules)}
    for status, title in STATUSES.items():
        if not any(each == status for each, _why in groups):
            continue
        lines += [f"### {title[0].upper()}{title[1:]}\n", "| Rules | Why |", "|---|---|"]
        lines += [f"| {_ids(ids, order)} | {_cell(why)} |" for (each, why), ids in groups.items() if each == status]
        lines.append("")
    unchecked = [each.rule for each in found.values() if each.verdict is Verdict.UNCHECKED]
    if unchecked:
        lines += ["### Not checked\n", "No test that ran names these.\n"]
        lines += [f"- {rule.id}: {rule.says}" for rule in unchecked]
        lines.append("")
    return "\n".join(lines)


def _ids(ids: Sequence[str], order: Mapping[str, int]) -> str:
    """Three or more that follow each other in the contract are told by the first and the last."""
    runs: list[list[str]] = []
    for rule in ids:
        last = runs[-1][-1] if runs else ""
        if last and order[rule] == order[last] + 1 and rule.partition("-")[0] == last.partition("-")[0]:
            runs[-1].append(rule)
        else:
            runs.append([rule])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _checklist(items: Iterable[ChecklistItem], tests: Mapping[str, Record]) -> str:
    by_item: dict[int, list[tuple[str, str]]] = {}
    for node_id, record in tests.items():
        match = _ITEM_TEST.search(node_id)
        if match is not None:
            by_item.setdefault(int(match[1]), []).append((node_id, record["outcome"]))
    lines = ["## Acceptance checklist\n", "| Item | | Test | Result |", "|---:|---|---|---|"]
    for item in items:
        found = by_item.get(item.number, [])
        names = sorted({node_id.split("[")[0] for node_id, _outcome in found})
        test = ", ".join(f"[{name.rpartition('::')[2]}]({_link(_file(name))})" for name in names) or item.elsewhere
        result = _outcomes(Counter(outcome for _node_id, outcome in found)) or ("" if item.elsewhere else "did not run")
        lines.append(f"| {item.number} | {_cell(item.title)} | {test} | {result} |")
    return "\n".join([*lines, ""])


def _clients(tests: Mapping[str, Record]) -> str:
    rows = []
    for node_id, record in tests.items():
        for client in record["clients"]:
            words = client if isinstance(client, dict) else {"name": client}
            name, version = words.get("name", ""), words.get("version", "")
            what = words.get("what", node_id.rpartition("::")[2])
            note = f": {words['note']}" if words.get("note") else ""
            rows.append((str(name), str(version), str(what), f"{record['outcome']}{note}"))
    if not rows:
        return ""
    lines = ["## Clients\n", "| Client | Version | What it did | Result |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in sorted(set(rows))]
    return "\n".join([*lines, ""])


def known_differences() -> tuple[Sequence[Any], Sequence[Any]]:
    """What the differential tester forgives, and what it does not play: rows with name, rule, reason and before."""
    if str(_DIFFERENTIAL) not in sys.path:
        sys.path.append(str(_DIFFERENTIAL))
    if importlib.util.find_spec("differ") is None:
        return (), ()
    known = importlib.import_module("differ.known")
    return known.TABLE, known.AVOIDED


def _differences() -> str:
    forgiven, avoided = known_differences()
    if not forgiven:
        return ""
    lines = [
        "## Differences that the differential tester knows\n",
        "`make differential` plays the same operations on raftkv and on etcd and compares everything that comes back.",
        "These differences it accepts; any other is a fault of one of the two.\n",
        *_DIFFERENCE_HEAD,
        *map(_difference, forgiven),
        "",
        "It leaves out what would end the real etcd, or make the two differ for good:\n",
        *_DIFFERENCE_HEAD,
        *map(_difference, avoided),
        "",
    ]
    return "\n".join(lines)


_DIFFERENCE_HEAD: Final = ("| Name | Rule | Which etcd | Why |", "|---|---|---|---|")


def _difference(row: Any) -> str:
    which = "before " + ".".join(map(str, row.before)) if row.before else "every"
    rule = row.rule if "-" in row.rule else f"section {row.rule}"
    return f"| {row.name} | {rule} | {which} | {_cell(row.reason)} |"


def _section(section: Section, found: Mapping[str, Finding]) -> str:
    lines = [
        f"### {section.number} {section.title}\n",
        "| Rule | What it says | Checked by | Result |",
        "|---|---|---|---|",
    ]
    for rule in section.rules:
        finding = found[rule.id]
        lines.append(f"| {rule.id} | {_cell(rule.says)} | {_checked_by(finding)} | {_cell(_result(finding))} |")
    return "\n".join([*lines, ""])


def _checked_by(finding: Finding) -> str:
    counts = Counter(_file(node_id) for node_id in finding.passed)
    if not counts:
        return ""
    files = [file for file, _count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]
    links = ", ".join(f"[{Path(file).stem}]({_link(file)})" for file in files[:_FILES_SHOWN])
    more = f" and {len(files) - _FILES_SHOWN} more" if len(files) > _FILES_SHOWN else ""
    count = "all of" if finding.whole_files else f"{len(finding.passed)}:"
    return f"{count} {links}{more}"


def _result(finding: Finding) -> str:
    rule, verdict = finding.rule, finding.verdict
    if verdict is Verdict.FAILS:
        files = ", ".join(sorted({_file(node_id) for node_id in finding.failed}))
        return f"**fails**: {len(finding.failed)} in {files}"
    if verdict is Verdict.CHECKED:
        return f"checked; {len(finding.waiting)} wait for what is not there yet" if finding.waiting else "checked"
    if verdict is Verdict.UNCHECKED:
        return "no test names it"
    return f"{verdict.value}: {rule.reason}" if rule.reason else verdict.value


def _file(node_id: str) -> str:
    return node_id.partition("::")[0]


def _link(file: str) -> str:
    return f"../{file}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- from results ---------------------------------------------------------------------------------------------------


def read(paths: Iterable[Path]) -> dict[str, Record]:
    """Node id -> record. Raises OSError, and ValueError for what is no file of results of raftkv."""
    tests: dict[str, Record] = {}
    for path in paths:
        results: Any = json.loads(path.read_text())
        if results["subject"] != "raftkv":
            raise ValueError(f"{path} is about {results['subject']}; the page is about raftkv")
        tests.update(results["tests"])
    return tests


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print("usage: python -m helpers.compatibility_page RESULTS...", file=sys.stderr)
        return 2
    try:
        tests = read(Path(each) for each in arguments)
    except (OSError, ValueError, KeyError) as error:
        print(f"no page is written, for the results cannot be read: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(render(rule_list.load(), tests))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

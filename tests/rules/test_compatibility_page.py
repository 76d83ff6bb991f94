"""The page: its verdicts, and that the one in docs/ is about the rules that there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import rule_list
from helpers.compatibility_page import Finding, Verdict, findings, known_differences, main, read, render
from helpers.rule_list import ChecklistItem, Rule, RuleList, Section

RULES = rule_list.load()
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
_ROW = re.compile(r"^\| (?P<id>[A-Z0-9]+-T?\d+) \| (?P<says>.*?) \| (?P<by>.*?) \| (?P<result>.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<target>[^)#]+)\)")

_SMALL = RuleList(
    (
        Section("1", "First", (Rule("G-01", "a|b"), Rule("G-02", "two"))),
        Section(
            "2",
            "Second",
            (
                Rule("W-01", "later", rule_list.LATER, "no time"),
                Rule("W-02", "differs", rule_list.DIFFERS, "better so"),
                Rule("W-03", "of clients", rule_list.NOT_APPLICABLE, "theirs"),
            ),
        ),
    ),
    (ChecklistItem(1, "Begin"), ChecklistItem(2, "End", "`make end`")),
)


def _record(outcome: str, *rules: str, module: tuple[str, ...] = (), clients: tuple[Any, ...] = ()) -> Any:
    return {"outcome": outcome, "rules": list(rules), "module_rules": list(module), "clients": list(clients)}


def _verdict(rule: str, **tests: Any) -> Finding:
    return findings(_SMALL, {name.replace("__", ".py::"): record for name, record in tests.items()})[rule]


def test_verdicts_on_a_plain_rule() -> None:
    assert _verdict("G-01").verdict is Verdict.UNCHECKED
    assert _verdict("G-01", f__a=_record("skipped", "G-01")).verdict is Verdict.UNCHECKED
    checked = _verdict("G-01", f__a=_record("passed", "G-01"), f__b=_record("skipped", "G-01"))
    assert (checked.verdict, checked.passed) == (Verdict.CHECKED, ["f.py::a"])
    failing = _verdict("G-01", f__a=_record("passed", "G-01"), f__b=_record("failed", "G-01"))
    assert (failing.verdict, failing.failed) == (Verdict.FAILS, ["f.py::b"])
    assert _verdict("G-01", f__a=_record("xfailed", "G-01")).verdict is Verdict.LATER
    partly = _verdict("G-01", f__a=_record("passed", "G-01"), f__b=_record("xfailed", "G-01"))
    assert (partly.verdict, partly.waiting) == (Verdict.CHECKED, ["f.py::b"])


def test_the_head_of_a_file_counts_if_the_whole_file_is_sound_and_no_test_says_more() -> None:
    head = _verdict("G-01", f__a=_record("passed", module=("G-01",)), f__b=_record("passed", module=("G-01",)))
    assert (head.verdict, head.passed, head.whole_files) == (Verdict.CHECKED, ["f.py"], True)
    broken = _verdict("G-01", f__a=_record("passed", module=("G-01",)), f__b=_record("failed", module=("G-01",)))
    assert broken.verdict is Verdict.UNCHECKED
    better = _verdict("G-01", f__a=_record("passed", module=("G-01",)), g__b=_record("passed", "G-01"))
    assert (better.passed, better.whole_files) == (["g.py::b"], False)


def test_verdicts_on_exceptions() -> None:
    for rule, verdict in (("W-01", Verdict.LATER), ("W-02", Verdict.DIFFERS)):
        assert _verdict(rule).verdict is verdict
        assert _verdict(rule, f__a=_record("passed", rule)).verdict is verdict
        assert _verdict(rule, f__a=_record("failed", rule)).verdict is Verdict.FAILS
    assert _verdict("W-03").verdict is Verdict.NOT_APPLICABLE
    assert _verdict("W-03", f__a=_record("passed", "W-03")).verdict is Verdict.CHECKED


def test_the_page_of_a_small_list() -> None:
    tests = {
        "tests/x/test_a.py::test_item_01_begin[p]": _record("passed", "G-01"),
        "tests/x/test_a.py::test_item_01_begin[q]": _record("xfailed", "G-01"),
        "tests/x/test_b.py::test_c": _record("passed", clients=({"name": "aetcd", "version": "1.0"},)),
        "tests/x/test_b.py::test_d": _record("failed", "G-02"),
    }
    page = render(_SMALL, tests)
    assert "5 rules, and 3 tests that name them: 1 passed, 1 failed, 1 wait for what is not there yet." in page
    rows = {row["id"]: row for row in _ROW.finditer(page)}
    assert rows.keys() == _SMALL.rules.keys()
    assert rows["G-01"].groups() == (
        "G-01",
        "a\\|b",
        "1: [test_a](../tests/x/test_a.py)",
        "checked; 1 wait for what is not there yet",
    )
    assert rows["G-02"]["result"] == "**fails**: 1 in tests/x/test_b.py"
    assert rows["W-02"]["result"] == "different on purpose: better so"
    assert (
        "| 1 | Begin | [test_item_01_begin](../tests/x/test_a.py) | 1 passed, 1 wait for what is not there yet |"
        in page
    )
    assert "| 2 | End | `make end` |  |" in page
    assert "| aetcd | 1.0 | test_c | passed |" in page


def test_rules_with_one_reason_are_told_in_ranges() -> None:
    rules = tuple(Rule(f"G-{number:02}", "says", rule_list.LATER, "no time") for number in (1, 2, 5, 6, 9))
    kept = (*rules[:3], Rule("G-07", "there"), *rules[3:], Rule("W-01", "says", rule_list.LATER, "no time"))
    page = render(RuleList((Section("1", "All", kept),), ()), {})
    assert "| G-01 to G-05, G-06, G-09, W-01 | no time |" in page


def test_results_of_several_runs_are_joined_and_the_last_counts(tmp_path: Path) -> None:
    for name, tests in (
        ("a", {"t::1": _record("failed"), "t::2": _record("passed")}),
        ("b", {"t::1": _record("passed")}),
    ):
        (tmp_path / name).write_text(json.dumps({"subject": "raftkv", "tests": tests}))
    joined = read([tmp_path / "a", tmp_path / "b"])
    assert {name: record["outcome"] for name, record in joined.items()} == {"t::1": "passed", "t::2": "passed"}
    (tmp_path / "a").write_text(json.dumps({"subject": "etcd", "tests": {}}))
    with pytest.raises(ValueError, match="about etcd"):
        read([tmp_path / "a"])


def test_without_results_there_is_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["/nowhere/results.json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "usage" in told.err
    assert "/nowhere/results.json" in told.err


def test_the_differences_that_the_differential_tester_knows_are_about_rules() -> None:
    forgiven, avoided = known_differences()
    assert forgiven
    sections = {section.number.partition(".")[0] for section in RULES.sections} | {"9", "16"}
    for row in (*forgiven, *avoided):
        assert row.rule in RULES.rules or row.rule in sections, row
        assert row.reason
    page = render(_SMALL, {})
    assert all(f"| {row.name} |" in page for row in (*forgiven, *avoided))


# --- the page in docs/ ----------------------------------------------------------------------------------------------


def test_the_page_lists_every_rule_and_no_other() -> None:
    rows = [(row["id"], row["says"]) for row in _ROW.finditer(PAGE.read_text())]
    assert rows == [(rule.id, rule.says) for rule in RULES.rules.values()], "run: make compatibility"


def test_the_page_has_every_exception_and_its_reason() -> None:
    page = PAGE.read_text()
    missing = [rule.id for rule in RULES.rules.values() if rule.status and rule.reason not in page]
    assert not missing, "run: make compatibility"


def test_every_link_of_the_page_leads_somewhere() -> None:
    targets = {match["target"] for match in _LINK.finditer(PAGE.read_text())}
    assert targets
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []

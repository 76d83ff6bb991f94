"""The list of rules, the finding of their ids, and that nothing in the repository names a rule that is not there."""

import tomllib
from pathlib import Path

import pytest
from helpers.rule_list import DIFFERS, RULES_FILE, RuleListError, load

from raftkv.config.capabilities import UNSUPPORTED

RULES = load()
ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for room in ("tests", "raftkv", "bench", "chaos", "docs")
    for path in sorted((ROOT / room).rglob("*"))
    if path.suffix in {".py", ".txt", ".md"} and path.parent != Path(__file__).parent
]


def test_the_whole_contract_is_there() -> None:
    assert len(RULES.rules) == 619
    assert len(RULES.sections) == 79
    assert [item.number for item in RULES.checklist] == list(range(1, 18))


def test_a_rule_is_said_in_a_line() -> None:
    for rule in RULES.rules.values():
        assert rule.says == rule.says.strip(), rule
        assert 3 < len(rule.says) < 80, rule
        assert not rule.says.endswith("."), rule


def test_every_exception_says_why() -> None:
    for rule in RULES.rules.values():
        assert bool(rule.status) == bool(rule.reason), rule


def test_no_exception_outlives_what_it_waits_for() -> None:
    exceptions = tomllib.loads(RULES_FILE.read_text())["exception"]
    waits = {exception["until"] for exception in exceptions if "until" in exception}
    assert waits <= {capability.name for capability in UNSUPPORTED}, (
        "raftkv has it now: take these exceptions out of tests/rules/rules.toml"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("W-72.", {"W-72"}),
        ("AL-01 to AL-04, KV-09", {"AL-01", "AL-02", "AL-03", "AL-04", "KV-09"}),
        ("TXN-21..26", {f"TXN-{number}" for number in range(21, 27)}),
        ("TXN-50..TXN-52", {"TXN-50", "TXN-51", "TXN-52"}),
        ("G-50\u2013G-52", {"G-50", "G-51", "G-52"}),
        ("AL-20 to\n    AL-22", {"AL-20", "AL-21", "AL-22"}),
        ("RNG-T1..T4", {"RNG-T1", "RNG-T2", "RNG-T3", "RNG-T4"}),
        ("H-09 and H-10", {"H-09", "H-10"}),
        ("CL-41 to 45 or (MT-27)", {"CL-41", "CL-42", "CL-43", "CL-44", "CL-45", "MT-27"}),
        ("test[W-07]", {"W-07"}),
        ("MT-12-13", set()),
        ("SHA-256, UTF-8, XW-72, W-720, x.W-72", set()),
        ("PUT /v3 and DEL 3", set()),
        ("W-99", set()),
    ],
)
def test_ids_in_a_text(text: str, named: set[str]) -> None:
    assert RULES.named_in(text) == named


def test_what_looks_like_a_rule_and_is_none() -> None:
    assert RULES.unknown_in("W-72, W-99, TXN-20 to TXN-99, SHA-256") == {"W-99", "TXN-99"}


def test_nothing_names_a_rule_that_is_not_there() -> None:
    unknown = {path: found for path in SOURCES if (found := RULES.unknown_in(path.read_text()))}
    assert not unknown, "misspelt, or missing in tests/rules/rules.toml"
    assert sum(bool(RULES.named_in(path.read_text())) for path in SOURCES) > 100


_SECTION = '[[section]]\nnumber = "1"\ntitle = "t"\n[section.rules]\nG-01 = "one thing"\nG-02 = "another"\n'


def test_exceptions_reach_every_rule_of_a_range(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(_SECTION + '[[exception]]\nstatus = "differs"\nreason = "so"\nrules = ["G-01 to G-02"]\n')
    assert [(rule.status, rule.reason) for rule in load(path).rules.values()] == [(DIFFERS, "so")] * 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (_SECTION, "more than one section"),
        ('[[exception]]\nstatus = "never"\nreason = "so"\nrules = ["G-01"]\n', "'never'"),
        ('[[exception]]\nstatus = "later"\nreason = "so"\nrules = ["G-03"]\n', "G-03"),
        ('[[exception]]\nstatus = "later"\nreason = "so"\nrules = ["G-01", "G-01 to G-02"]\n', None),
        ('[[exception]]\nstatus = "later"\nreason = "so"\nrules = ["G-01"]\n' * 2, "G-01 has two"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path: Path, more: str, words: str | None) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(_SECTION + more)
    if words is None:
        assert load(path).rules["G-02"].status == "later"
        return
    with pytest.raises(RuleListError, match=words):
        load(path)

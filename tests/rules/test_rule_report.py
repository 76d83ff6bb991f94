"""What the plugin finds in tests and writes down, by letting it loose on a file of small ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).parents[1]

_SAMPLE = '''\
"""What the file is about: KV-08."""

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule


class Row(NamedTuple):
    name: str
    size: int


ROWS = [
    Row("first", 1),  # PUT-01
    Row(
        "second",
        2,  # PUT-02 to PUT-04
    ),
]
STORIES = [Path(__file__).parent / "story.txt"]


def check_more():
    """L-10."""
    check_most()


def check_most():
    """L-11."""


def check_nothing():
    """L-12."""


def test_docstring():
    """TXN-01, and G-10..12."""


def test_comments():
    assert True  # W-50
    check_more()


def test_g_40_in_a_name():
    pass


@pytest.mark.parametrize("number", [
    pytest.param(1, id="CL-01: one"),
    pytest.param(2, id="two"),  # CL-02
    3,  # CL-03
])
def test_cases(number):
    pass


@pytest.mark.parametrize("number", [1, 2], ids=["MT-10", "MT-11"])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_ids(number, letter):
    pass


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(row):
    pass


@pytest.mark.parametrize("check", [check_nothing])
def test_functions_as_parameters(check):
    check()


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_stories(story):
    pass


class Machine(RuleBasedStateMachine):
    @rule()
    def step(self):
        """AU-01."""


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=1, stateful_step_count=1, deadline=None)


def test_fails():
    """DEL-01."""
    raise AssertionError


@pytest.mark.xfail(strict=True, reason="not yet")
def test_waits():
    """DEL-02."""
    raise AssertionError


@pytest.mark.xfail(strict=True, reason="not yet")
def test_no_longer_waits():
    """DEL-03."""


@pytest.mark.skip
def test_skipped():
    """DEL-04."""


@pytest.fixture
def broken():
    yield
    raise AssertionError


def test_fails_at_its_end(broken):
    """DEL-05."""


def test_client(record_property):
    record_property("client", {"name": "c", "version": "1"})
'''

_NAMED = {
    "test_docstring": {"TXN-01", "G-10", "G-11", "G-12"},
    "test_comments": {"W-50", "L-10", "L-11"},
    "test_g_40_in_a_name": {"G-40"},
    "test_cases[CL-01: one]": {"CL-01", "CL-03"},
    "test_cases[two]": {"CL-02", "CL-03"},
    "test_cases[3]": {"CL-03"},
    "test_ids[a-MT-10]": {"MT-10"},
    "test_ids[b-MT-11]": {"MT-11"},
    "test_rows[first]": {"PUT-01"},
    "test_rows[second]": {"PUT-02", "PUT-03", "PUT-04"},
    "test_functions_as_parameters[check_nothing]": {"L-12"},
    "test_stories[story]": {"RF-01"},
    "TestMachine::runTest": {"AU-01"},
    "test_client": set(),
}
_OUTCOMES = {
    "test_docstring": "passed",
    "test_fails": "failed",
    "test_waits": "xfailed",
    "test_no_longer_waits": "failed",
    "test_skipped": "skipped",
    "test_fails_at_its_end": "failed",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "test_sample.py").write_text(_SAMPLE)
    (tmp_path / "story.txt").write_text("# RF-01\n")
    return tmp_path


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "helpers.rule_report", "--rootdir=.", "-c", os.devnull, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RAFTKV"))}
    return subprocess.run(
        command,
        cwd=directory,
        env={**environment, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


def _results(directory: Path, *arguments: str) -> dict[str, Any]:
    done = _run(directory, "--compatibility-report=made/results.json", *arguments)
    assert (directory / "made" / "results.json").exists(), done.stdout + done.stderr
    results: dict[str, Any] = json.loads((directory / "made" / "results.json").read_text())
    assert results["subject"] == "raftkv"
    return {node_id.partition("::")[2]: record for node_id, record in results["tests"].items()}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_what_is_written_down(directory: Path, workers: tuple[str, ...]) -> None:
    tests = _results(directory, *workers)
    assert {name: set(tests[name]["rules"]) for name in _NAMED} == _NAMED
    assert {name: tests[name]["outcome"] for name in _OUTCOMES} == _OUTCOMES
    assert all(record["module_rules"] == ["KV-08"] for record in tests.values())
    clients = {name: record["clients"] for name, record in tests.items() if record["clients"]}
    assert clients == {"test_client": [{"name": "c", "version": "1"}]}


def test_choosing_by_rule(directory: Path) -> None:
    assert set(_results(directory, "--rules=TXN-01, CL-01 to CL-02")) == {
        "test_docstring",
        "test_cases[CL-01: one]",
        "test_cases[two]",
    }
    assert "test_client" in _results(directory, "--rules=all"), "the head of the file speaks for it"


def test_choosing_by_what_is_no_rule(directory: Path) -> None:
    done = _run(directory, "--rules=W-99")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--rules=W-99: not the ids of rules" in done.stderr

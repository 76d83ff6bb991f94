"""How a run is shown, in every format, and what its exit code says."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from chaos import cli, programs, report
from chaos.checkers.verdict import Result, Verdict, verdict
from chaos.history import Counts
from chaos.nemesis import Injected
from chaos.run import Options, Report

PASSED = Verdict("register", "every key is linearizable", Result.PASSED, "3 keys")
FAILED = Verdict("watch", "no gap", Result.FAILED, "2 watchers", ("[w1] missed one",))
UNDECIDED = Verdict("append", "all there", Result.UNDECIDED, "nothing", ("no time",))


def a_report(*verdicts: Verdict) -> Report:
    return Report(
        "raftkv",
        "0.1.0",
        7,
        60.0,
        3,
        65.0,
        [Injected("cut", "leader", ["m2"], 1.5, 4.0, "how")],
        {"register": Counts(1234, 5, 6)},
        list(verdicts),
    )


def test_a_run_passes_only_if_every_law_held() -> None:
    assert a_report(PASSED).passed
    assert not a_report(PASSED, FAILED).passed
    assert not a_report(PASSED, UNDECIDED).passed
    assert not a_report().passed


def test_the_plain_report_says_what_was_done_checked_and_found() -> None:
    text = report.plain(a_report(PASSED, FAILED, UNDECIDED), "python -m chaos --seed 7", "/tmp/x")
    for said in (
        "raftkv 0.1.0",
        "seed 7",
        "cut",
        "m2",
        "1,234",
        "FAILED",
        "UNDECIDED",
        "missed one",
        "no time",
        "/tmp/x",
    ):
        assert said in text
    assert text.splitlines()[-2:] == ["again: python -m chaos --seed 7", "histories and logs: /tmp/x"]
    assert "\x1b" not in text


def test_the_pretty_report_says_the_same() -> None:
    console = Console(file=io.StringIO(), width=200)
    report.print_pretty(console, a_report(PASSED, FAILED), "python -m chaos --seed 7", "")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for said in ("raftkv 0.1.0", "m2", "1,234", "no gap", "[w1] missed one", "python -m chaos --seed 7"):
        assert said in text


def test_the_json_report_can_be_read_back() -> None:
    found = json.loads(report.as_json(a_report(PASSED, FAILED), "python -m chaos --seed 7", ""))
    assert found["passed"] is False
    assert found["seed"] == 7
    assert found["timeline"][0]["on"] == ["m2"]
    assert found["counts"]["register"] == {"ok": 1234, "failed": 5, "unknown": 6}
    assert [each["result"] for each in found["verdicts"]] == ["passed", "FAILED"]
    assert found["directory"] is None


def test_long_evidence_is_cut() -> None:
    found = verdict("w", "law", "all", [f"fault {number}" for number in range(20)], limit=3)
    assert found.evidence == ("fault 0", "fault 1", "fault 2", "... and 17 more")


@pytest.mark.parametrize(("given", "code"), [((PASSED,), 0), ((PASSED, FAILED), 1), ((UNDECIDED,), 1)])
def test_the_exit_code_tells_the_verdict(
    given: tuple[Verdict, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Path] = []

    async def run(options: Options, _say: object) -> Report:
        await asyncio.sleep(0)
        kept.append(options.directory)
        (options.directory / "register.jsonl").touch()
        (options.directory / "m1").mkdir()
        (options.directory / "m1" / "data.mdb").touch()
        return a_report(*given)

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(cli, "program_of", lambda *_: programs.Program("raftkv", "0", ("true",)))
    assert cli.main(["--seed", "7"]) == code
    (directory,) = kept
    assert (str(directory) in capsys.readouterr().out) == bool(code)
    assert directory.exists() == bool(code), "a success leaves nothing"
    if directory.exists():
        assert [path.name for path in directory.iterdir()] == ["register.jsonl"], (
            "the data is too large to keep unasked"
        )
        shutil.rmtree(directory)


def test_what_is_kept_on_demand_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(options: Options, _say: object) -> Report:
        await asyncio.sleep(0)
        (options.directory / "m1").mkdir()
        return a_report(PASSED)

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(cli, "program_of", lambda *_: programs.Program("raftkv", "0", ("true",)))
    assert cli.main(["--keep", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "m1").is_dir()

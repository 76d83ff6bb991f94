"""What is typed, and what it becomes."""

from typing import Any

import pytest

from bench import cli, comparing
from bench.load import LoadOptions


def test_load_takes_every_option() -> None:
    words = (
        "load --endpoint http://127.0.0.1:2379 --workload txn --connections 8 --clients 64 --seconds 2.5"
        " --value-bytes 100 --key-space 7 --deadline-s 5 --server-pid 1 -o json"
    )
    arguments = cli.build_parser().parse_args(words.split())
    assert cli.load_options(arguments) == LoadOptions(
        "127.0.0.1",
        2379,
        "txn",
        connections=8,
        clients=64,
        seconds=2.5,
        value_bytes=100,
        key_space=7,
        deadline_s=5.0,
        server_pid=1,
    )
    assert arguments.output == "json"


@pytest.mark.parametrize(
    "words",
    [
        "load",
        "load --endpoint here",
        "load --endpoint h:1 --clients 0",
        "load --endpoint h:1 --seconds nan",
        "load --endpoint h:1 --workload other",
        "--rounds -1",
        "other",
    ],
)
def test_wrong_usage_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--only nothing-like-it", "load --endpoint h:1 --workload watch --value-bytes 3"])
def test_what_cannot_be_measured_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err.startswith("bench: ")


def test_without_a_command_all_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(comparing, "run", asked.append)
    assert cli.main([]) == 0
    assert cli.main(["--quick", "--rounds", "2", "--only", "watch", "--write", "page.md"]) == 0
    whole, part = asked
    assert (whole.plan, whole.cases) == (cli.DEFAULT, cli.CASES)
    assert part.plan == cli.QUICK._replace(rounds=2)
    assert [case.workload for case in part.cases] == ["watch"]
    assert part.command == "python -m bench --quick --rounds 2 --only watch --write page.md"

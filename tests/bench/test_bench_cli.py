"""What is typed, and what it becomes."""

from typing import Any

import pytest

from bench import cli, comparing
from bench.cases import DEFAULT, QUICK
from bench.load import LoadError, LoadOptions
from bench.suite import CLUSTER, EDGES, SINGLE, SUITES


def test_load_takes_every_option() -> None:
    words = (
        "load --endpoint http://127.0.0.1:2379 --workload txn --connections 8 --clients 64 --seconds 2.5"
        " --value-bytes 100 --key-space 7 --deadline-s 5 --server-pid 1 --server-pid 2 --ca-file ca.pem -o json"
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
        server_pids=(1, 2),
        ca_file="ca.pem",
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
        "cluster --kills 0",
        "steady --endpoint h:1 --per-s 0",
        "idle --endpoint h:1 --connections 0",
        "failover --endpoint h:1 --kill-pid 1",
        "overload --clients 0",
        "overload --puts-per-s nan",
        "list-clients --port 1 --clients 1 --timeout-s -1",
        "other",
    ],
)
def test_wrong_usage_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["--only nothing-like-it", "cluster --only watch", "load --endpoint h:1 --workload watch --value-bytes 3"]
)
def test_what_cannot_be_measured_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().err.startswith("bench: ")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The comparisons that were asked for, instead of made."""
    asked: list[Any] = []
    monkeypatch.setattr(comparing, "run", asked.append)
    return asked


def test_without_a_command_all_is_compared(asked: list[Any]) -> None:
    assert cli.main([]) == 0
    assert (asked[0].plan, asked[0].suites) == (DEFAULT, SUITES)
    assert asked[0].command == "python -m bench"


@pytest.mark.parametrize(("command", "suite"), [("single", SINGLE), ("cluster", CLUSTER), ("edges", EDGES)])
def test_a_command_for_each_suite(asked: list[Any], command: str, suite: Any) -> None:
    assert cli.main([command]) == 0
    assert (asked[0].plan, asked[0].suites) == (DEFAULT, (suite,))


@pytest.mark.parametrize("words", ["cluster --quick --rounds 2 --kills 5", "--quick --rounds 2 cluster --kills 5"])
def test_options_hold_before_and_after_the_command(asked: list[Any], words: str) -> None:
    assert cli.main(words.split()) == 0
    assert asked[0].plan == QUICK._replace(rounds=2, absences=2, kills=5)
    assert asked[0].root == comparing.DEFAULT_ROOT


def test_a_part_is_chosen_from_every_suite(asked: list[Any]) -> None:
    assert cli.main(["--only", "watch", "--only", "killed", "--write", "page.md"]) == 0
    titles = [[title for stage in suite.stages for title in stage.titles] for suite in asked[0].suites]
    assert titles == [["watch, 1 writer, 100 watchers"], ["leader killed under load"]]
    assert asked[0].command == "python -m bench --only watch --only killed --write page.md"


def test_a_suite_without_the_word_is_left_out(asked: list[Any]) -> None:
    assert cli.main(["--only", "watch"]) == 0
    assert [suite.name for suite in asked[0].suites] == ["single"]


def test_a_failure_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_options: object) -> None:
        raise LoadError("nobody serves")

    monkeypatch.setattr(comparing, "run", fail)
    assert cli.main(["cluster"]) == 1
    assert capsys.readouterr().err == "bench: nobody serves\n"

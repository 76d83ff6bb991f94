"""The command line, from inside: which command runs, what it prints."""

import json
import platform
import subprocess
import sys

import pytest

from raftkv.cli import serve
from raftkv.cli.main import COMMANDS, run
from raftkv.config import Config, StartError
from raftkv.config.capabilities import UNSUPPORTED
from raftkv.config.settings import Group
from raftkv.config.tables import FEATURE_GATES, SETTINGS

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for variable in [name for name in os.environ if name.startswith("ETCD_")]:
        monkeypatch.delenv(variable)


def test_version_text(capsys: Capture) -> None:
    """F-06."""
    for argv in (["version"], ["--version"], ["serve", "--version"]):
        assert run(argv) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "etcd Version: 3.6.14"
        assert [line.partition(":")[0] for line in lines[1:]] == [
            "raftkv Version",
            "Python Version",
            "OS/Arch",
        ]


@pytest.mark.parametrize("argv", [["-o", "json"], ["-ojson"], ["--output=json"]])
def test_version_json(argv: list[str], capsys: Capture) -> None:
    assert run(["version", *argv]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["etcd"] == "3.6.14"
    assert versions["python"] == platform.python_version()


def test_version_of_the_package_is_the_same() -> None:
    from importlib.metadata import version

    from raftkv.version import RAFTKV_VERSION

    assert version("raftkv") == RAFTKV_VERSION


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_overview(argv: list[str], capsys: Capture) -> None:
    assert run(argv) == 0
    text = capsys.readouterr().out
    assert all(name in text and command.summary in text for name, command in COMMANDS.items())


def test_no_command_is_a_usage_error(capsys: Capture) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Commands:" in captured.err


@pytest.mark.parametrize("command", ["serve", "cluster", "snapshot", "rebuild", "doctor", "version"])
def test_help_of_a_command(command: str, capsys: Capture) -> None:
    assert run(["help", command]) == 0
    by_help = capsys.readouterr().out
    assert run([command, "--help"]) == 0
    assert capsys.readouterr().out == by_help
    assert f"raftkv {command}" in by_help


def test_a_server_does_not_carry_the_other_commands() -> None:
    """Nor the libraries that are for terminals."""
    look = "import sys, raftkv.cli.main; print([name for name in sys.modules if name.startswith(('rich', 'http'))])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_serve_help_teaches(capsys: Capture) -> None:
    assert run(["serve", "-h"]) == 0
    text = capsys.readouterr().out
    for group in Group:
        assert f"\n{group.value}:\n" in text
    for setting in SETTINGS.values():
        assert f"\n  --{setting.name} " in text
        assert f"[{setting.env}]" in text
        assert setting.default in text
    assert all(f"\n  {gate}\n" in text for gate in FEATURE_GATES)
    assert "\x1b" not in text
    assert any(capability.value in text for capability in UNSUPPORTED)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serv"], "raftkv: unknown command 'serv'\n        Did you mean serve?\n"),
        (["help", "x"], "raftkv: unknown command 'x'\n"),
        (
            ["--name=x"],
            ("raftkv: --name=x comes before a command\n        To start a member, write: raftkv serve --name=x …\n"),
        ),
        (["version", "-o", "xml"], "raftkv: argument -o/--output: invalid choice: 'xml'"),
        (["serve", "--nmae=x"], "raftkv: unknown flag --nmae\n        Did you mean --name?\nUsage: "),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: Capture) -> None:
    """F-02."""
    assert run(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


def test_serve_hands_the_configuration_to_the_node(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    seen: list[Config] = []

    def node(config: Config) -> int:
        seen.append(config)
        return 7

    monkeypatch.setattr(serve, "_load_node", lambda: node)
    assert run(["serve", "--name=n1", "--data-dir=/nonexistent", "--max-wals=1", "--log-format=json"]) == 7
    assert seen[0].name == "n1"
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["msg"] for line in lines] == [
        "raftkv starts",
        "settings given",
        "a setting is accepted but has no effect",
    ]
    assert lines[2]["setting"] == "max-wals"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StartError("port taken", "Free it."), 1, "raftkv: port taken\n        Free it.\n"),
        (StartError("port taken"), 1, "raftkv: port taken\n"),
        (KeyboardInterrupt(), 130, "raftkv: interrupted\n"),
    ],
)
def test_what_stops_a_start(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """F-07."""

    def node(config: Config) -> int:
        raise error

    monkeypatch.setattr(serve, "_load_node", lambda: node)
    assert run(["serve", "--name=n1", "--data-dir=/nonexistent", "--log-level=error"]) == code
    assert capsys.readouterr().err == message


def test_first_start_checks_the_cluster(capsys: Capture) -> None:
    """F-65 before anything is opened."""
    assert run(["serve", "--initial-cluster=other=http://localhost:2380", "--log-level=error"]) == 1
    assert "but not this member, 'default'" in capsys.readouterr().err


def test_restart_does_not_check_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-70."""
    monkeypatch.setattr(Config, "has_data", lambda self: True)
    monkeypatch.setattr(serve, "_load_node", lambda: lambda config: 0)
    assert run(["serve", "--initial-cluster=other=http://localhost:2380", "--log-level=error"]) == 0


def test_grpcio_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["serve", "--rpc-server=grpcio", "--data-dir=/nonexistent", "--log-level=error"]) == 1
    assert "pip install 'raftkv[grpcio]'" in capsys.readouterr().err

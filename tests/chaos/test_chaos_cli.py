"""What is typed, what it becomes, and how a run ends that cannot be made."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import pytest

from chaos import cli, names, plan, programs, toxiproxy_server
from chaos.errors import CannotRunError
from chaos.workloads import DEFAULT, WORKLOADS


def parsed(words: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(words.split())


def test_without_words_everything_is_done_to_raftkv_for_a_minute() -> None:
    arguments = parsed("")
    assert (arguments.subject, arguments.seconds, arguments.members, arguments.seed) == ("raftkv", 60, 3, 0)
    assert arguments.faults == tuple(plan.ABOUT)
    assert arguments.workloads == DEFAULT == ("register", "append", "watch", "lease")


def test_the_order_of_a_choice_does_not_matter() -> None:
    assert parsed("--faults pause,kill").faults == parsed("--faults kill,pause").faults == ("kill", "pause")
    assert parsed("--faults none").faults == ()
    assert parsed("--workloads watch,register").workloads == ("register", "watch")


@pytest.mark.parametrize(
    "words",
    [
        "--subject other",
        "--faults quake",
        "--workloads sleep",
        "--seed -1",
        "--seed 9223372036854775808",
        "--seconds 0",
        "--seconds nan",
        "--members 1",
        "--members 10",
        "--output xml",
    ],
)
def test_wrong_usage_exits_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == cli.EXIT_USAGE
    assert "usage:" in capsys.readouterr().err


def test_a_directory_that_holds_something_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").touch()
    assert cli.main(["--keep", str(tmp_path)]) == cli.EXIT_USAGE
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--subject etcd --seconds 20 --members 5",
        "--faults kill,reset --workloads watch",
        "--workloads short-lease",
        "--faults none",
        "--subject etcd --etcd /some/etcd",
    ],
)
def test_the_command_to_repeat_a_run_makes_the_same_run(words: str) -> None:
    arguments = parsed(words)
    repeated = cli.again(arguments, 99)
    assert repeated.startswith("python -m chaos ")
    again = parsed(repeated.removeprefix("python -m chaos "))
    assert again.seed == 99
    assert vars(again) | {"seed": 0} == vars(arguments)


def test_the_help_names_every_choice() -> None:
    text = cli.build_parser().format_help()
    for name in (*plan.ABOUT, *WORKLOADS, *programs.subjects()):
        assert f"\n  {name}" in text


# --- what must not pass silently --------------------------------------------------------------------------------------


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which there is nothing, and no Toxiproxy built before."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(toxiproxy_server, "default_directory", lambda: tmp_path / "toxiproxy")
    return directory


def test_without_toxiproxy_the_run_says_how_to_get_it_and_fails(
    empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "permitted", lambda _directory: ())
    monkeypatch.setattr(cli, "program_of", lambda *_: programs.Program("raftkv", "0", ("true",)))
    assert cli.main(["--keep", str(tmp_path / "run")]) == cli.EXIT_CANNOT_RUN
    said = capsys.readouterr().err
    assert "toxiproxy-server" in said
    assert "go install" in said


def test_toxiproxy_on_the_path_is_taken(empty_path: Path, tmp_path: Path) -> None:
    program = empty_path / "toxiproxy-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert toxiproxy_server.find(print, tmp_path) == program


def test_a_go_that_fails_is_quoted(empty_path: Path, tmp_path: Path) -> None:
    go = empty_path / "go"
    go.write_text("#!/bin/sh\necho no network today >&2\nexit 1\n")
    go.chmod(0o755)
    with pytest.raises(CannotRunError, match="no network today"):
        toxiproxy_server.find(print, tmp_path / "build")


def test_toxiproxy_is_built_once(empty_path: Path, tmp_path: Path) -> None:
    go = empty_path / "go"
    go.write_text(
        '#!/bin/sh\necho "#!/bin/sh" > "$GOBIN/server"\n/bin/chmod 755 "$GOBIN/server"\necho called >> "$0.calls"\n'
    )
    go.chmod(0o755)
    said: list[str] = []
    for _ in range(2):
        assert toxiproxy_server.find(said.append, tmp_path / "build") == tmp_path / "build" / "server"
    assert len(said) == 1
    assert (empty_path / "go.calls").read_text() == "called\n"


def test_without_namespaces_the_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "AS_ROOT", ("false",))
    monkeypatch.setattr(names, "AS_USER", ("false",))
    with pytest.raises(CannotRunError) as refused:
        names.permitted(tmp_path)
    assert "not permitted" in str(refused.value)
    assert "SYS_ADMIN" in str(refused.value)


def test_a_member_sees_its_own_names(tmp_path: Path) -> None:
    """Where namespaces are permitted; where they are not, the refusal above is what there is to see."""
    try:
        namespace = names.permitted(tmp_path)
    except CannotRunError as error:
        pytest.skip(str(error).partition("\n")[0])
    hosts = tmp_path / "m2.hosts"
    hosts.write_text(names.hosts_text(2, 3))
    words = names.in_view(namespace, hosts, ("getent", "ahostsv4", "m1.chaos.test"))
    seen = subprocess.run(words, capture_output=True, text=True, check=True)
    assert seen.stdout.split()[0] == names.link_address(2, 1)
    outside = subprocess.run(("getent", "hosts", "m1.chaos.test"), capture_output=True, text=True)
    assert outside.stdout == ""


# --- subjects ---------------------------------------------------------------------------------------------------------


def test_every_broken_node_says_what_it_breaks() -> None:
    found = programs.broken_nodes()
    assert {"deposed_reads", "stale_reads", "early_ack", "dropped_events", "forgotten_renewals"} <= set(found)
    assert all(about.endswith(".") for about in found.values())


def test_a_broken_node_is_started_by_its_module() -> None:
    program = programs.program_of("stale_reads")
    assert program.command[1:] == ("-m", "chaos.broken.stale_reads", "serve")
    assert program.version


def test_a_program_that_does_not_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="cannot run"):
        programs.program_of("etcd", tmp_path / "nothing")


def test_no_setting_reaches_a_member_by_the_back_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ETCD_NAME", "RAFTKV_NAME", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "x")
    assert not {"ETCD_NAME", "RAFTKV_NAME", "http_proxy", "HTTPS_PROXY"} & set(programs.clean_environment())
    assert programs.clean_environment()["PATH"] == os.environ["PATH"]

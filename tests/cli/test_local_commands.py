"""`raftkv cluster` where no process is needed: what it reads, what it refuses, and in which words."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.cli.local import hints
from raftkv.cli.local.directory import LocalCluster
from raftkv.cli.main import run

Capture = pytest.CaptureFixture[str]
WATCH = [sys.executable, "-m", "raftkv", "cluster", "status", "--watch"]
VERBS = ("start", "status", "kill", "pause", "resume", "restart", "stop", "logs", "env")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made() -> LocalCluster:
    """A cluster of which nothing runs."""
    cluster = LocalCluster.plan(Path("raftkv.cluster"), 3, 4000)
    cluster.directory.mkdir()
    cluster.save()
    return cluster


def test_help_teaches(capsys: Capture) -> None:
    assert run(["cluster", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in VERBS)
    assert "raftkv cluster kill leader" in text
    assert run(["help", "cluster"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: Capture) -> None:
    """Also where an argument is missing that must be given."""
    assert run(["cluster", verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: raftkv cluster {verb} [-h] [--dir DIR]")


def test_no_verb(capsys: Capture) -> None:
    assert run(["cluster"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: raftkv cluster")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frob"], "raftkv: argument COMMAND: invalid choice: 'frob'"),
        (["kill"], "raftkv: the following arguments are required: WHO\n        See `raftkv cluster kill --help`"),
        (["start", "--size=4"], "raftkv: argument --size: invalid choice: 4 (choose from 3, 5)"),
        (["start", "--base-port=x"], "raftkv: argument --base-port: invalid int value: 'x'"),
        (["status", "-o", "xml"], "raftkv: argument -o/--output: invalid choice: 'xml'"),
        (["status", "--wat"], "raftkv: unrecognized arguments: --wat"),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: Capture) -> None:
    """F-02."""
    assert run(["cluster", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


@pytest.mark.parametrize("argv", [[verb, "1"] for verb in VERBS if verb not in ("status", "env")] + [["env"]])
def test_where_no_cluster_is(argv: list[str], capsys: Capture) -> None:
    assert run(["cluster", *argv, "--dir", "elsewhere"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("raftkv: there is no cluster in elsewhere\n        Make one: ")
    assert "cluster start --dir elsewhere; or say with --dir where it is\n" in error
    assert not Path("elsewhere").exists()


def test_members_that_there_are_not(made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "kill", "m2", "4"]) == 2
    assert capsys.readouterr().err.startswith(
        "raftkv: there is no member '4' in raftkv.cluster\n        There are m1, m2, m3, and `leader`\n"
    )


def test_no_leader_to_kill(made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "kill", "leader"]) == 1
    assert capsys.readouterr().err.startswith("raftkv: no member leads at the moment\n        Look: ")


@pytest.mark.parametrize("verb", ["kill", "pause", "resume"])
def test_nothing_to_signal(verb: str, made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", verb, "2"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("raftkv: m2 does not run\n        `")
    assert "cluster start m2` brings it back" in error


def test_stopping_what_does_not_run(made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "stop"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("m1 does not run\nm2 does not run\nm3 does not run\nData is kept in raftkv.cluster.")
    assert out.endswith("rm -r raftkv.cluster\n")


def test_status_of_a_cluster_that_does_not_run(made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "status"]) == 0
    assert capsys.readouterr().out.endswith("no leader, 0 of 3 members serve\n")
    assert run(["cluster", "status", "-o", "json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in whole["members"]] == ["dead"] * 3


@pytest.mark.parametrize("output", ["text", "json"])
def test_watching_in_a_pipe(output: str, made: LocalCluster) -> None:
    """One look after the other, until Ctrl-C, which is no failure."""
    with subprocess.Popen([*WATCH, "-o", output], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        mark = "no leader, 0 of 3" if output == "text" else '{"leader": null'
        looks = (line for line in watch.stdout if line.startswith(mark))
        assert next(looks) == next(looks)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0


def test_watching_on_a_terminal(made: LocalCluster) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        WATCH, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as watch:
        os.close(theirs)
        seen = b""
        while seen.count(b"no leader, 0 of 3 members serve") < 2:
            seen += os.read(ours, 4096)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0
    os.close(ours)
    assert b"\x1b[" in seen


def test_env(made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "env"]) == 0
    assert capsys.readouterr().out == (
        "export ETCDCTL_API=3\nexport ETCDCTL_ENDPOINTS=127.0.0.1:4000,127.0.0.1:4002,127.0.0.1:4004\n"
    )


def test_logs(made: LocalCluster, capsys: Capture) -> None:
    made.members[0].log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert run(["cluster", "logs", "1", "-n", "2"]) == 0
    assert capsys.readouterr().out == "line 98\nline 99\n"
    assert run(["cluster", "logs", "m2", "m1", "-n", "1"]) == 0
    assert capsys.readouterr().out == ("--- raftkv.cluster/m2.log ---\n\n--- raftkv.cluster/m1.log ---\nline 99\n")


# --- what a start refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "made_with"), [("--size=5", "--size 3"), ("--base-port=5000", "--base-port 4000")])
def test_a_cluster_keeps_its_shape(flag: str, made_with: str, made: LocalCluster, capsys: Capture) -> None:
    assert run(["cluster", "start", flag]) == 1
    assert capsys.readouterr().err.startswith(f"raftkv: the cluster in raftkv.cluster was made with {made_with}\n")


@pytest.mark.parametrize("port", ["0", "-1", "65531", "70000"])
def test_ports_that_there_are_not(port: str, capsys: Capture) -> None:
    assert run(["cluster", "start", f"--base-port={port}"]) == 1
    assert f"--base-port {port} does not leave room for 6 ports" in capsys.readouterr().err
    assert not Path("raftkv.cluster").exists()


def test_a_port_in_use(capsys: Capture) -> None:
    """Said before anything is started or made; the next try with other ports finds a clean place."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert run(["cluster", "start", f"--base-port={port - 3}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"raftkv: m2 cannot listen on 127.0.0.1:{port}: Address already in use\n")
    assert "--base-port" in error
    assert not Path("raftkv.cluster").exists()


def test_a_directory_of_somebody_else(capsys: Capture) -> None:
    Path("raftkv.cluster").mkdir()
    Path("raftkv.cluster/letter.txt").write_text("dear aunt")
    assert run(["cluster", "start"]) == 1
    assert "raftkv.cluster is not empty, and no cluster was made in it" in capsys.readouterr().err
    assert os.listdir("raftkv.cluster") == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "token": "", "members": []}'])
def test_a_description_that_cannot_be_read(text: str, made: LocalCluster, capsys: Capture) -> None:
    (made.directory / "cluster.json").write_text(text)
    assert run(["cluster", "status"]) == 1
    assert capsys.readouterr().err.startswith("raftkv: raftkv.cluster/cluster.json does not describe a cluster (")


# --- a plan -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_found_again(made: LocalCluster) -> None:
    assert LocalCluster.load(made.directory) == made
    assert [(each.name, each.client_url, each.peer_url) for each in made.members] == [
        ("m1", "http://127.0.0.1:4000", "http://127.0.0.1:4001"),
        ("m2", "http://127.0.0.1:4002", "http://127.0.0.1:4003"),
        ("m3", "http://127.0.0.1:4004", "http://127.0.0.1:4005"),
    ]
    assert made.quorum == 2
    assert [made.member(who) for who in ("2", "m2", "02", "")] == [made.members[1], made.members[1], None, None]


def test_a_member_is_started_with_flags_that_anybody_could_type(made: LocalCluster) -> None:
    """CL-04: two clusters never compute the same ids, for each has a token of its own."""
    from raftkv.config import load

    command = made.command(made.members[1])
    assert command[:4] == [sys.executable, "-m", "raftkv", "serve"]
    config = load(command[4:], {})
    assert config.name == "m2"
    assert config.data_dir == Path("raftkv.cluster/m2").absolute()
    assert sorted(config.initial_cluster) == ["m1", "m2", "m3"]
    assert config.initial_cluster_token == made.token != LocalCluster.plan(Path("x"), 3, 4000).token


def test_commands_are_shown_as_they_can_be_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make cluster` puts nothing on PATH."""
    bin_dir = tmp_path / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    for name in ("python", "raftkv"):
        shutil.copy("/bin/true", bin_dir / name)
    monkeypatch.setattr(sys, "executable", str(bin_dir / "python"))
    monkeypatch.setenv("PATH", "/bin")
    assert hints.typed(hints.DEFAULT_DIR, "kill", "leader") == ".venv/bin/raftkv cluster kill leader"
    assert hints.typed(Path("my place"), "stop") == ".venv/bin/raftkv cluster stop --dir 'my place'"
    monkeypatch.setenv("PATH", f"/bin:{bin_dir}")
    assert hints.typed(hints.DEFAULT_DIR, "stop") == "raftkv cluster stop"
    monkeypatch.setenv("PATH", "/bin")
    (bin_dir / "raftkv").unlink()
    assert hints.typed(hints.DEFAULT_DIR, "stop") == "raftkv cluster stop"

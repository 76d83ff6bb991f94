"""`raftkv doctor`, the commands: what they read, what they say, with what they end, and what they leave behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.small_disk import small_file_system

from raftkv.cli import doctor, doctor_disk
from raftkv.cli.doctor_disk import Timing
from raftkv.cli.doctor_latency import Latencies
from raftkv.cli.doctor_network import NoAnswer, RoundTrips
from raftkv.cli.doctor_volume import Mount, Volume
from raftkv.cli.main import run
from raftkv.config.urls import Url
from raftkv.wal import WalFullError

if TYPE_CHECKING:
    from helpers.processes import Server

Capture = pytest.CaptureFixture[str]

DISK = Volume(80_000_000_000, 250_000_000_000, Mount(Path("/data"), "ext4", "/dev/sda1", ("rw",), "8:1"), False)
FAST = Timing(Latencies(20_000, 0.000_15, 0.000_3, 0.002, 0.011), 10.0)
SLOW = Timing(Latencies(400, 0.008, 0.012, 0.024, 0.118), 10.0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frobnicate"], "argument COMMAND: invalid choice: 'frobnicate'"),
        (["disk", "--duration=0"], "argument --duration: '0' is not between 0 and an hour"),
        (["disk", "--duration=2h"], "argument --duration: '2h' is not between 0 and an hour"),
        (["disk", "--duration=-1s"], "argument --duration: '-1s' is not between 0 and an hour"),
        (["disk", "--duration=soon"], "argument --duration: 'soon' is not a duration; write numbers with units"),
        (["disk", "--size=0"], "argument --size: '0' is not a number of bytes from 1 to 4,194,304"),
        (["disk", "--size=2k"], "argument --size: '2k' is not a number of bytes"),
        (["disk", "-o", "xml"], "argument -o/--output: invalid choice: 'xml'"),
        (["disk", "x"], "unrecognized arguments: x"),
        (["network"], "the following arguments are required: ENDPOINT\n        See `raftkv doctor network --help`"),
        (["network", "h"], "URL 'http://h' must have the form scheme://host:port; the port is missing"),
        (["network", "unix:///run/x"], "unix:///run/x is on this machine\n        Name an http:// or"),
        (["network", "http://h:1", "--cert=c"], "--cert goes with an https:// URL, not with http://h:1"),
        (["network", "h:1", "--key=k"], "one of --cert and --key is given without the other"),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: Capture) -> None:
    """F-02."""
    assert run(["doctor", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"raftkv: {message}")


def test_without_a_command(capsys: Capture) -> None:
    assert run(["doctor"]) == 2
    assert "raftkv doctor disk --dir=" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["disk", "network"])
def test_help_teaches(verb: str, capsys: Capture) -> None:
    assert run(["doctor", verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: raftkv doctor {verb}" in text
    assert "less than 10 ms" in text


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("0.5", 0.5), ("30s", 30), ("1m30s", 90), ("200ms", 0.2)])
def test_durations(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert doctor._duration_s(text) == seconds


# --- disk -------------------------------------------------------------------------------------------------------------


def judge(monkeypatch: pytest.MonkeyPatch, directory: Path, timing: Timing, *argv: str) -> int:
    """`doctor disk` on a volume with these figures."""
    monkeypatch.setattr("raftkv.cli.doctor_volume.volume_of", lambda _directory: DISK)
    monkeypatch.setattr("raftkv.cli.doctor_disk.measure", lambda *_arguments: timing)
    return run(["doctor", "disk", f"--dir={directory}", *argv])


def test_a_fit_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    assert judge(monkeypatch, tmp_path, FAST) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == (
        f"Directory  {tmp_path}\n"
        "Volume     ext4 on /data from /dev/sda1 (rw), a drive that does not turn\n"
        "Room       80.0 GB free of 250.0 GB\n"
        "Measured   20,000 writes of 2,300 bytes and syncs in 10.0 s\n"
        "fsync      p50 0.150 ms, p90 0.300 ms, p99 2.00 ms, max 11.0 ms, 2,000 per second\n"
        "\n"
        "OK: fit for a member: p99 of fsync is 2.00 ms.\n"
    )


def test_a_slow_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    assert judge(monkeypatch, tmp_path, SLOW) == 1
    _, _, verdict = capsys.readouterr().out.partition("\n\n")
    assert verdict.startswith("PROBLEM: p99 of fsync is 24.0 ms, the advice is less than 10.0 ms: every write waits")
    assert "\n  Use a faster or idle drive, give the log one of its own (--wal-dir), or raise" in verdict


def test_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    assert judge(monkeypatch, tmp_path, SLOW, "-ojson") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["filesystem"], said["rotational"], said["free_bytes"]) == ("ext4", False, 80_000_000_000)
    assert said["fsync"] == {"samples": 400, "p50_s": 0.008, "p90_s": 0.012, "p99_s": 0.024, "max_s": 0.118}
    assert (said["ok"], said["syncs_per_s"], len(said["findings"])) == (False, 40.0, 1)
    assert set(said["findings"][0]) == {"problem", "text", "advice"}


def test_a_real_directory(tmp_path: Path, capsys: Capture) -> None:
    """Whatever it is: the figures fit together, the exit code fits the verdict, and nothing stays."""
    code = run(["doctor", "disk", f"--dir={tmp_path}", "--duration=0.3", "--size=20000", "-o", "json"])
    said = json.loads(capsys.readouterr().out)
    fsync = said["fsync"]
    assert 0 < fsync["p50_s"] <= fsync["p90_s"] <= fsync["p99_s"] <= fsync["max_s"]
    assert said["elapsed_s"] >= 0.3
    assert said["syncs_per_s"] == pytest.approx(fsync["samples"] / said["elapsed_s"])
    assert code == (0 if said["ok"] else 1)
    assert said["ok"] is not any(finding["problem"] for finding in said["findings"])
    assert list(tmp_path.iterdir()) == []


def refusal(capsys: Capture, directory: Path) -> str:
    assert run(["doctor", "disk", f"--dir={directory}", "--duration=0.1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_no_directory(tmp_path: Path, capsys: Capture) -> None:
    assert refusal(capsys, tmp_path / "a" / "b") == (
        f"raftkv: there is no directory {tmp_path}/a/b\n"
        f"        Make it, or measure in one that is on the same volume, perhaps --dir={tmp_path}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_for_a_directory(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal(capsys, file).startswith(f"raftkv: {file} is a file\n")


def test_a_path_that_cannot_be_looked_at(tmp_path: Path, capsys: Capture) -> None:
    directory = tmp_path / ("x" * 300)
    assert refusal(capsys, directory).startswith(f"raftkv: {directory} cannot be measured: ")


def test_no_permission(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may always: what the kernel says to others
        monkeypatch.setattr(os, "access", lambda *_arguments: False)
    else:
        tmp_path.chmod(0o500)
    assert refusal(capsys, tmp_path).startswith(
        f"raftkv: this user may not write in {tmp_path}\n        Run this as the user that will run the member\n"
    )


def test_no_room(tmp_path: Path, capsys: Capture) -> None:
    with small_file_system(tmp_path, 40):
        assert refusal(capsys, tmp_path).startswith(
            f"raftkv: there is no room in {tmp_path}: 42 MB are free, and measuring needs 67 MB\n"
        )
        assert list(tmp_path.iterdir()) == []


def test_room_that_goes_meanwhile(tmp_path: Path) -> None:
    """An error of the disk, and nothing stays."""
    with small_file_system(tmp_path, 20):
        with pytest.raises(WalFullError):
            doctor_disk.measure(tmp_path, 2300, 0.1)
        assert list(tmp_path.iterdir()) == []


def command(*argv: str | Path) -> list[str]:
    return [sys.executable, "-m", "raftkv", "doctor", *map(str, argv)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    """Its files go, and the exit code is that of an interruption."""
    with subprocess.Popen(command("disk", "--dir", tmp_path, "--duration=1m"), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("raftkv-doctor-*/*.wal"))) < 2:  # the second one is that of the measurement
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"raftkv: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """On stderr, so that what is on stdout can go into a pipe."""
    ours, theirs = pty.openpty()
    try:
        argv = command("disk", "--dir", tmp_path, "--duration=1s")
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False, text=True)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "measuring" in shown
    assert "measuring" not in done.stdout
    assert done.stdout.startswith("Directory  ")


# --- network ----------------------------------------------------------------------------------------------------------


def network(*argv: str) -> list[str]:
    return ["doctor", "network", *argv]


def test_a_member(raftkv_server: Server, capsys: Capture) -> None:
    """H-60: GET /version."""
    code = run(network(raftkv_server.endpoint, "--duration=0.3", "-o", "json"))
    said = json.loads(capsys.readouterr().out)
    (endpoint,) = said["endpoints"]
    assert endpoint["url"] == f"http://{raftkv_server.endpoint}"
    assert endpoint["connect_s"] > 0
    assert endpoint["round_trip"]["samples"] >= 2
    assert code == (0 if said["ok"] else 1)


def test_answers(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def measure(url: Url, *_arguments: Any) -> RoundTrips | NoAnswer:
        if url.host == "far":
            return NoAnswer(url, "Connection refused")
        return RoundTrips(url, 0.001, Latencies(200, 0.000_4, 0.000_6, 0.002, 0.003))

    monkeypatch.setattr("raftkv.cli.doctor_network.measure", measure)
    assert run(network("near:2380")) == 0
    assert capsys.readouterr().out == (
        "http://near:2380  connected in 1.00 ms; 200 round trips: p50 0.400 ms, p90 0.600 ms, p99 2.00 ms, "
        "max 3.00 ms\n\nOK: fit for a cluster with the default timeouts.\n"
    )
    assert run(network("near:2380", "far:2380")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == ["http://far:2380   no answer", "", "PROBLEM: http://far:2380: Connection refused."]
    assert run(network("far:2380", "-o", "json")) == 1
    (endpoint,) = json.loads(capsys.readouterr().out)["endpoints"]
    assert endpoint == {"url": "http://far:2380", "error": "Connection refused"}


@pytest.mark.parametrize(
    ("flags", "scheme"), [([], "http"), (["--insecure-skip-tls-verify"], "https"), (["--cacert={ca}"], "https")]
)
def test_schemes(
    flags: Sequence[str], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """An address without one follows the TLS flags."""
    from helpers.certificates import Authority

    ca = Authority(tmp_path).ca
    asked: list[tuple[Url, bool]] = []

    def measure(url: Url, _duration: float, context: object, _progress: object) -> NoAnswer:
        asked.append((url, context is not None))
        return NoAnswer(url, "")

    monkeypatch.setattr("raftkv.cli.doctor_network.measure", measure)
    run(network("h:1", *(flag.format(ca=ca) for flag in flags)))
    assert asked == [(Url(scheme, "h", 1), scheme == "https")]


def test_the_sizes_are_enough(tmp_path: Path) -> None:
    """What it says that it takes, it takes."""
    largest = 0

    def look(_done: int, _all: int) -> None:
        nonlocal largest
        files = list(tmp_path.glob("*/*"))
        largest = max(largest, sum(file.stat().st_blocks * 512 for file in files))

    doctor_disk.measure(tmp_path, 1 << 20, 1.0, look)
    assert 0 < largest <= doctor_disk.TAKEN_BYTES + (1 << 20)

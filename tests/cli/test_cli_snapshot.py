"""`raftkv snapshot`, the command: what it reads and says, beside stock tools. The work is tested in tests/server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raftkv.cli.main import run
from raftkv.cli.snapshot import _describe_offline, _describe_restored
from raftkv.membership import Member
from raftkv.server.backup import SavedOffline, SnapshotStatus
from raftkv.server.restore import Restored

if TYPE_CHECKING:
    from helpers.processes import Program, Server

Capture = pytest.CaptureFixture[str]

STATUS = SnapshotStatus(0xFAF7B940, 8, -1, 4, 20480, "3.6.0", verified=True)


def snapshot_command(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftkv", "snapshot", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["save"], "the following arguments are required: FILE\n        See `raftkv snapshot save --help`"),
        (["save", "f", "--wal-dir=w"], "--wal-dir goes with --data-dir"),
        (["save", "f", "--data-dir=d", "--user=root:x"], "--data-dir is for a member that does not run, --user for"),
        (["save", "f", "--data-dir=d", "--endpoints=h:1"], "--data-dir is for a member that does not run, --endpoints"),
        (["save", "f", "--password=x"], "--password goes with --user"),
        (["save", "f", "--endpoints=a:1,b:1"], "--endpoints: a snapshot is taken of one member\n        Name one"),
        (["save", "f", "--data-dir=d", "--cacert=c"], "--data-dir is for a member that does not run, --cacert for"),
        (["save", "f", "--endpoints=http://a:1", "--cert=c"], "--cert goes with an https:// URL, not with http://a:1"),
        (["save", "f", "--endpoints=a:1", "--cert=c"], "one of --cert and --key is given without the other"),
        (["save", "f", "--endpoints=a"], "--endpoints: URL 'http://a' must have the form scheme://host:port"),
        (["status"], "the following arguments are required: FILE"),
        (["status", "f", "-w", "xml"], "argument -w/-o/--write-out/--output: invalid choice: 'xml'"),
        (["restore"], "the following arguments are required: FILE"),
        (["restore", "f", "--bump-revision=5"], "--bump-revision and --mark-compacted go together"),
        (["restore", "f", "--mark-compacted"], "--bump-revision and --mark-compacted go together"),
        (["restore", "f", "--bump-revision=-5", "--mark-compacted"], "argument --bump-revision: '-5' is not a number"),
        (["frobnicate"], "argument COMMAND: invalid choice: 'frobnicate'"),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: Capture) -> None:
    """F-02, CT-23: exit code 2, and nothing is touched."""
    assert run(["snapshot", *argv]) == 2
    assert capsys.readouterr().err.startswith(f"raftkv: {message}")


def test_without_a_command(capsys: Capture) -> None:
    assert run(["snapshot"]) == 2
    assert "snapshot restore backup.db" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["save", "status", "hashkv", "restore"])
def test_help_teaches(verb: str, capsys: Capture) -> None:
    assert run(["snapshot", verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: raftkv snapshot {verb}" in text
    assert len(text) > 600


# --- status -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "faf7b940, 8, 4, 20 kB, 3.6.0\n"),
        (["-w", "simple"], "faf7b940, 8, 4, 20 kB, 3.6.0\n"),
        (["-o", "json"], '{"hash":4210538816,"revision":8,"totalKey":4,"totalSize":20480,"version":"3.6.0"}\n'),
        (["--write-out=json"], '{"hash":4210538816,"revision":8,"totalKey":4,"totalSize":20480,"version":"3.6.0"}\n'),
    ],
)
def test_status_as_etcdutl_prints_it(
    flags: Sequence[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """CT-21. The expected lines are those of etcdutl 3.6 for these figures."""
    monkeypatch.setattr("raftkv.server.backup.snapshot_status", lambda _path, _progress: STATUS)
    assert run(["snapshot", "status", "f", *flags]) == 0
    assert capsys.readouterr() == (expected, "")


def test_status_as_a_table(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("raftkv.server.backup.snapshot_status", lambda _path, _progress: STATUS)
    assert run(["snapshot", "status", "f", "-w", "table"]) == 0
    headings, _, row = capsys.readouterr().out.splitlines()[:3]
    assert [each.strip() for each in headings.split("|")] == [
        *("HASH", "REVISION", "COMPACTED", "TOTAL KEYS", "TOTAL SIZE", "VERSION", "SHA-256"),
    ]
    assert [each.strip() for each in row.split("|")] == ["faf7b940", "8", "never", "4", "20 kB", "3.6.0", "matches"]


def test_status_says_when_nothing_vouches(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    unverified = STATUS._replace(verified=False)
    monkeypatch.setattr("raftkv.server.backup.snapshot_status", lambda _path, _progress: unverified)
    assert run(["snapshot", "status", "f"]) == 0
    out, err = capsys.readouterr()
    assert out == "faf7b940, 8, 4, 20 kB, 3.6.0\n"
    assert "there is no checksum at the end of this file" in err


def test_status_of_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert run(["snapshot", "status", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"raftkv: {tmp_path}/none cannot be read: [Errno 2] No such file")
    (tmp_path / "text").write_text("hello\n" * 1000)
    assert run(["snapshot", "status", str(tmp_path / "text")]) == 1
    assert "this is not a snapshot of raftkv" in capsys.readouterr().err


# --- what is said afterwards ------------------------------------------------------------------------------------------


_LEFT_OUT = (
    "2 entries at the end of the log left out: this member does not know whether they were committed. "
    "A snapshot of a running member has what was."
)


@pytest.mark.parametrize(
    ("saved", "lines"),
    [
        (SavedOffline(4096, 9, 0, 0), ["Snapshot saved at f: 4,096 bytes, up to entry 9 of the log."]),
        (
            SavedOffline(4096, 9, 1, 2),
            [
                "Snapshot saved at f: 4,096 bytes, up to entry 9 of the log.",
                "1 entry that only the log had went into the store first.",
                _LEFT_OUT,
            ],
        ),
    ],
)
def test_what_an_offline_save_says(saved: SavedOffline, lines: list[str]) -> None:
    assert _describe_offline(Path("f"), saved).splitlines() == lines


def test_what_a_restore_says() -> None:
    alone = Restored(0xA, 0xC, (Member(0xA, ("http://a:1",)),), 8, -1, same_cluster=False)
    assert _describe_restored(Path("d"), "m1", alone).splitlines() == [
        "d is now member a (m1) of cluster c, its only member, at revision 8.",
        "Start it: raftkv serve --name=m1 --data-dir=d ...",
    ]
    three = alone._replace(members=alone.members * 3, revision=1008, compacted_revision=1008, same_cluster=True)
    text = _describe_restored(Path("d"), "m1", three)
    assert "cluster c, one of 3, at revision 1008, compacted at 1008." in text
    assert "Make sure that no member of that one runs any more" in text
    assert "Restore the others from the same file, then start them all." in text


# --- beside real servers and tools ------------------------------------------------------------------------------------


def _ctl(server: Server, version: str, directory: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    from helpers import etcd_tools
    from helpers.ctl_steps import tool_environment

    try:
        tool = etcd_tools.etcdctl(version, directory)
    except etcd_tools.ToolMissingError as missing:
        pytest.skip(str(missing))
    command = [str(tool.path), f"--endpoints={server.endpoint}", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=tool_environment(), cwd=directory
    )


def test_save_status_restore_serve(raftkv_server: Server, tmp_path: Path) -> None:
    """CT-21, CT-22: the whole way, as a person goes it."""
    from helpers.grpc_calls import Calls, connect

    from raftkv.pb import rpc_pb2

    backup = tmp_path / "backup.db"
    with connect(raftkv_server.endpoint) as channel:
        for number in range(5):
            Calls(channel).KV.Put(rpc_pb2.PutRequest(key=b"k%d" % number, value=b"v"), wait_for_ready=True)
        saved = snapshot_command("save", backup, f"--endpoints={raftkv_server.endpoint}")
        assert saved.returncode == 0, saved.stderr
        size = backup.stat().st_size - 32
        assert saved.stdout == f"Snapshot saved at {backup}: {size:,} bytes, the SHA-256 matches.\n"
        hashed = Calls(channel).Maintenance.HashKV(rpc_pb2.HashKVRequest(revision=4))
    of_file = snapshot_command("hashkv", backup, "--rev=4")
    assert of_file.stdout == f"{hashed.hash}, 4, -1\n"
    as_json = snapshot_command("hashkv", backup, "-w", "json")
    assert json.loads(as_json.stdout).keys() == {"hash", "hashRevision", "compactRevision"}
    future = snapshot_command("hashkv", backup, "--rev=7")
    assert (future.returncode, future.stdout) == (1, "")
    assert "cannot be hashed at revision 7" in future.stderr
    status = snapshot_command("status", backup, "-o", "json")
    assert status.returncode == 0, status.stderr
    fields = json.loads(status.stdout)
    assert fields | {"hash": 0} == {"hash": 0, "revision": 6, "totalKey": 5, "totalSize": size, "version": "3.6.0"}
    raftkv_server.terminate()
    raftkv_server.data_dir.rename(tmp_path / "old")
    restored = snapshot_command(
        "restore",
        backup,
        f"--data-dir={raftkv_server.data_dir}",
        f"--initial-advertise-peer-urls={raftkv_server.peer_url}",
    )
    assert restored.returncode == 0, restored.stderr
    raftkv_server.start()
    with connect(raftkv_server.endpoint) as channel:
        answer = Calls(channel).KV.Range(rpc_pb2.RangeRequest(key=b"k", range_end=b"l"), wait_for_ready=True)
        assert (answer.header.revision, [kv.mod_revision for kv in answer.kvs]) == (6, [2, 3, 4, 5, 6])
    again = snapshot_command("restore", backup, f"--data-dir={raftkv_server.data_dir}")
    assert again.returncode == 1
    assert "a restore never writes over data" in again.stderr


@pytest.mark.parametrize("version", ["3.5.1", "3.4"])
def test_what_stock_etcdctl_saves(version: str, raftkv_server: Server, tmp_path: Path) -> None:
    """MT-10, MT-11, CT-20: any client takes the backup, our own tool looks into it and restores from it."""
    assert _ctl(raftkv_server, version, tmp_path, "put", "k", "v").returncode == 0
    saved = _ctl(raftkv_server, version, tmp_path, "snapshot", "save", "backup.db")
    assert saved.returncode == 0, saved.stderr
    status = snapshot_command("status", tmp_path / "backup.db")
    assert status.returncode == 0, status.stderr
    assert re.fullmatch(r"[0-9a-f]{1,8}, 2, 1, \d+ kB, 3\.6\.0\n", status.stdout)
    restored = snapshot_command("restore", tmp_path / "backup.db", f"--data-dir={tmp_path / 'new'}")
    assert restored.returncode == 0, restored.stderr
    assert "its only member, at revision 2." in restored.stdout


def test_nobody_listens(tmp_path: Path) -> None:
    done = snapshot_command("save", tmp_path / "backup.db", "--endpoints=127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("raftkv: no snapshot can be had from 127.0.0.1:1: there is no connection available")
    assert "Is it the client URL (port 2379 by default) of a member that runs, and is it http or https?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(raftkv_server: Server, tmp_path: Path) -> None:
    done = snapshot_command("save", tmp_path / "none" / "backup.db", f"--endpoints={raftkv_server.endpoint}")
    assert done.returncode == 1
    assert "the snapshot could not be written to" in done.stderr
    assert "No such file or directory" in done.stderr


def test_of_the_real_etcd(etcd_server: Server, tmp_path: Path) -> None:
    """CT-20: saved like any, and told from ours."""
    backup = tmp_path / "backup.db"
    assert snapshot_command("save", backup, f"--endpoints={etcd_server.endpoint}").returncode == 0
    for verb, *flags in (["status"], ["hashkv"], ["restore", f"--data-dir={tmp_path / 'new'}"]):
        done = snapshot_command(verb, backup, *flags)
        assert done.returncode == 1
        assert "this is a snapshot of etcd itself (a bbolt file)" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("which", ["raftkv_server", "etcd_server"])
def test_with_authentication(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """MT-14, AU-41: for root alone, with a token."""
    server: Server = request.getfixturevalue(which)
    backup = tmp_path / "backup.db"
    for command in ("user add root:secret", "user add other:secret", "role add root", "user grant-role root root"):
        done = _ctl(server, "3.5.1", tmp_path, *command.split())
        assert done.returncode == 0, done.stderr
    assert _ctl(server, "3.5.1", tmp_path, "auth", "enable").returncode == 0
    save = "save", backup, f"--endpoints={server.endpoint}"
    for flags in ([], ["--user=root:wrong"], ["--user=nobody:secret"], ["--user=other:secret"], ["--user=root"]):
        done = snapshot_command(*save, *flags)
        assert done.returncode == (2 if flags == ["--user=root"] else 1), (flags, done.stdout)
        assert "--user root" in done.stderr
    assert not backup.exists()
    for flags in (["--user=root:secret"], ["--user=root", "--password=secret"]):
        done = snapshot_command(*save, *flags)
        assert done.returncode == 0, done.stderr
        backup.unlink()


def test_of_a_member_that_was_killed(subject_program: Program, raftkv_server: Server, tmp_path: Path) -> None:
    """RF-41: what it had acknowledged a moment before is in the snapshot, though not in its store yet."""
    from helpers.grpc_calls import Calls, connect

    from raftkv.pb import rpc_pb2

    if subject_program.kind != "raftkv":
        pytest.skip("the data directory of another program")
    with connect(raftkv_server.endpoint) as channel:
        for number in range(50):
            Calls(channel).KV.Put(rpc_pb2.PutRequest(key=b"k%d" % number, value=b"v"), wait_for_ready=True)
    running = snapshot_command("save", tmp_path / "backup.db", f"--data-dir={raftkv_server.data_dir}")
    assert running.returncode == 1
    assert "is in use by another raftkv" in running.stderr
    raftkv_server.kill9()
    saved = snapshot_command("save", tmp_path / "backup.db", f"--data-dir={raftkv_server.data_dir}")
    assert saved.returncode == 0, saved.stderr
    assert "that only the log had went into the store first." in saved.stdout
    status = snapshot_command("status", tmp_path / "backup.db", "-o", "json")
    assert (json.loads(status.stdout)["revision"], json.loads(status.stdout)["totalKey"]) == (51, 50)

"""`raftkv rebuild`, the command: what it reads, what it says. What it does is tested with raftkv.server.rebuild."""

from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.main import run
from raftkv.server.rebuild import Rebuilt
from raftkv.wal import LogPosition

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "raftkv: --data-dir and --from must be given\n        See `raftkv rebuild --help`"),
        (["--data-dir=/x"], "raftkv: --from must be given\n"),
        (["--data-dir=/x", "--from=peer:2380"], "raftkv: --from: URL 'peer:2380' must start with http://"),
        (["--data-dir=/x", "--from=http://p:1", "--cacert=c"], "raftkv: --cacert goes with an https:// URL, not with"),
        (["--data-dir=/x", "--from=https://p:1", "--key=k"], "raftkv: one of --cert and --key is given without"),
        (["--data-dir=/x", "--from=http://p:1", "y"], "raftkv: unrecognized arguments: y\n"),
    ],
)
def test_usage_errors(argv: list[str], message: str, capsys: Capture) -> None:
    """F-02."""
    assert run(["rebuild", *argv]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_no_member_there(tmp_path: Path, capsys: Capture) -> None:
    assert run(["rebuild", f"--data-dir={tmp_path}", "--from=http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith(
        f"raftkv: there is no log in {tmp_path}/member/wal, so there is no member"
    )
    assert list(tmp_path.iterdir()) == []


KEPT = Rebuilt(0xABC, "m2", 81_920, LogPosition(40, 2), LogPosition(41, 2), log_restarted=False)


@pytest.mark.parametrize(
    ("rebuilt", "log"),
    [
        (KEPT, "Its log was kept; the next start applies 1 more entry from it."),
        (KEPT._replace(last=LogPosition(45, 2)), "Its log was kept; the next start applies 5 more entries from it."),
        (KEPT._replace(last=KEPT.copy), "Its log was kept."),
        (KEPT._replace(last=KEPT.copy, log_restarted=True), "Its log restarts behind entry 40."),
    ],
)
def test_report(rebuilt: Rebuilt, log: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    asked: list[Any] = []

    async def rebuild(*args: Any) -> Rebuilt:
        asked.append(args)
        return rebuilt

    monkeypatch.setattr("raftkv.server.rebuild.rebuild", rebuild)
    assert run(["rebuild", "--data-dir=/d", "--from=http://Peer:2380/"]) == 0
    assert asked == [(Path("/d"), Path("/d/member/wal"), "http://Peer:2380", None, None)]
    out = capsys.readouterr().out
    assert out.startswith(f"Member abc has the store of m2 as of entry 40, 81,920 bytes. {log}\nStart it now.")
    assert "etcdctl alarm disarm" in out


def test_a_log_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def rebuild(*args: Any) -> Rebuilt:
        asked.append(args)
        return KEPT

    monkeypatch.setattr("raftkv.server.rebuild.rebuild", rebuild)
    assert run(["rebuild", "--data-dir=/d", "--wal-dir=/w", "--from=http://p:2380"]) == 0
    assert asked[0][:2] == (Path("/d"), Path("/w"))

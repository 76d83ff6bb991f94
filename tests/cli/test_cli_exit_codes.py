"""Exit codes and streams of the real process."""

import subprocess
import sys
from pathlib import Path

import pytest


def raftkv(*argv: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftkv", *argv]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=cwd,
        env={"PATH": "/bin", **environ},
    )


@pytest.mark.parametrize(
    ("argv", "environ", "code"),
    [
        (["--version"], {}, 0),
        (["serve", "--help"], {}, 0),
        (["serve", "--no-such-flag"], {}, 2),
        (["serve", "--name"], {}, 2),
        (["serve", "x"], {}, 1),
        (["serve", "--election-timeout=1"], {}, 1),
        (["serve", "--name=a"], {"ETCD_NAME": "a"}, 1),
        (["serve", "--config-file=missing.yml"], {}, 1),
        (["serve"], {"ETCD_ELECTION_TIMEOUT": "x"}, 1),
    ],
)
def test_exit_code(argv: list[str], environ: dict[str, str], code: int, tmp_path: Path) -> None:
    """F-02, F-06, F-07."""
    done = raftkv(*argv, cwd=tmp_path, **environ)
    assert done.returncode == code
    if code:
        assert done.stdout == ""
        assert done.stderr.startswith("raftkv: ")
        assert "Traceback" not in done.stderr
    else:
        assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # Nothing is created before the configuration is known to be good.


def test_reader_of_the_help_may_leave(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raftkv", "serve", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0

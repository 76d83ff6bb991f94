"""The Go program of this folder: built once per session where Go and its modules are.

Owns the build and the reasons to skip. What a scenario checks is written in go/*.go.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCES: Final = Path(__file__).parent / "go"
MODULE: Final = _SOURCES / "go.mod"
_BUILD_LIMIT_S: Final = 280
_OUR_MISTAKES: Final = ("checksum mismatch", "SECURITY ERROR", "missing go.sum", "updates to go.mod")
"""What `go mod download` says when go.mod or go.sum is wrong: a failure, not a reason to skip."""


def build(directory: Path, lock: Path) -> Path:
    """The program's path. Skips the test in one line where it cannot be built; raises if its source is wrong.

    lock: a file that all test processes of one run share. Who comes second finds Go's cache filled.
    """
    if shutil.which("go") is None:
        pytest.skip("the Go client needs Go, which is not installed")
    program = directory / "clients"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fetched = _go("mod", "download")
        if fetched.returncode != 0:
            text = fetched.stderr.strip()
            assert not any(mistake in text for mistake in _OUR_MISTAKES), text
            pytest.skip(f"the Go client's modules cannot be had (module proxy or cache): {text.splitlines()[-1]}")
        built = _go("build", "-o", str(program), ".")
    assert built.returncode == 0, f"the Go client does not build\n{built.stderr}"
    return program


def _go(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",  # another Go is not ours to fetch
        "GOWORK": "off",
    }
    return subprocess.run(
        ["go", *arguments],
        cwd=_SOURCES,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_BUILD_LIMIT_S,
        check=False,
    )

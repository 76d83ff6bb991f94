"""Go programs for the tests, built where Go and their modules are.

Owns the build and the reasons to skip. Knows no program: who needs one keeps its go.mod and go.sum.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_BUILD_LIMIT_S: Final = 280
_OUR_MISTAKES: Final = ("checksum mismatch", "SECURITY ERROR", "missing go.sum", "updates to go.mod")
"""What `go mod download` says when go.mod or go.sum is wrong: a failure, not a reason to skip."""


def build(name: str, sources: Path, package: str, program: Path, lock: Path) -> Path:
    """Writes `program`, built from a package of the module in `sources`, and returns its path.

    name: how the program is called in messages, such as "the Go client".
    lock: a file that all test processes of one run share. Who comes second finds Go's cache filled.

    Skips the test in one line where it cannot be built; raises if its source is wrong.
    """
    if shutil.which("go") is None:
        pytest.skip(f"{name} needs Go, which is not installed")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fetched = _go(sources, "mod", "download")
        if fetched.returncode != 0:
            text = fetched.stderr.strip()
            assert not any(mistake in text for mistake in _OUR_MISTAKES), text
            pytest.skip(f"the modules of {name} cannot be had (module proxy or cache): {text.splitlines()[-1]}")
        built = _go(sources, "build", "-o", str(program), package)
    assert built.returncode == 0, f"{name} does not build\n{built.stderr}"
    return program


def _go(sources: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",  # another Go is not ours to fetch
        "GOWORK": "off",
    }
    return subprocess.run(
        ["go", *arguments],
        cwd=sources,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_BUILD_LIMIT_S,
        check=False,
    )

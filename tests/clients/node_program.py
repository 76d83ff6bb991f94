"""The JavaScript program of this folder, with its packages: installed once per session where Node.js and npm are.

Owns the installation and the reasons to skip. What a scenario checks is written in node/clients.js.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCES: Final = Path(__file__).parent / "node"
_FILES: Final = ("package.json", "package-lock.json", "clients.js")
_OLDEST_NODE: Final = 18
_INSTALL_LIMIT_S: Final = 120
_OUR_MISTAKES: Final = ("EUSAGE", "EINTEGRITY", "EJSONPARSE")
"""Codes of npm for a lock file that is wrong: a failure, not a reason to skip."""


def client_version() -> str:
    """As package.json pins it."""
    version: str = json.loads((_SOURCES / "package.json").read_text())["dependencies"]["etcd3"]
    return version


def install(directory: Path) -> list[str]:
    """The command that runs the program. Skips the test in one line where it cannot be installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the JavaScript client needs Node.js and npm, which are not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST_NODE:
        pytest.skip(f"the JavaScript client needs Node.js {_OLDEST_NODE} or newer, this is {version}")
    for name in _FILES:
        shutil.copyfile(_SOURCES / name, directory / name)
    try:
        installed = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"],
            cwd=directory,
            env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
            capture_output=True,
            text=True,
            timeout=_INSTALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the JavaScript client's packages did not come within {_INSTALL_LIMIT_S} s")
    if installed.returncode != 0:
        assert not any(mistake in installed.stderr for mistake in _OUR_MISTAKES), installed.stderr
        pytest.skip(f"the JavaScript client's packages cannot be had: {installed.stderr.strip().splitlines()[0]}")
    return [node, str(directory / "clients.js")]

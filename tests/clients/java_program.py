"""The Java program of this folder, with its packages: compiled once per session where a JDK and Maven are.

Owns the compilation and the reasons to skip. What a scenario checks is written in java/Clients.java.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_SOURCES: Final = Path(__file__).parent / "java"
_MAVEN: Final = (
    "mvn",
    "--quiet",
    "--batch-mode",
    "-Dstyle.color=never",
    "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath",
)
_FETCH_LIMIT_S: Final = 240
_COMPILE_LIMIT_S: Final = 120
_OLDEST_JAVA: Final = 17
_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")
_OUR_MISTAKES: Final = ("Non-parseable POM", "Malformed POM")


def client_version() -> str:
    """As pom.xml pins it."""
    found = re.search(r"<artifactId>jetcd-core</artifactId>\s*<version>([^<]+)</version>", _pom().read_text())
    assert found, "pom.xml names no jetcd-core"
    return found[1]


def build(directory: Path, lock: Path) -> list[str]:
    """The command that runs the program. Skips the test in one line where it cannot be built; raises if it is wrong.

    lock: a file that all test processes of one run share: Maven's store of packages takes one writer at a time.
    """
    missing = [name for name in ("java", "javac", "mvn") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the Java client needs a JDK and Maven: {', '.join(missing)} not installed")
    version = _run(["javac", "-version"], directory, 30)
    release = int(re.search(r"\d+", version.stdout + version.stderr)[0])  # type: ignore[index]
    if release < _OLDEST_JAVA:
        pytest.skip(f"the Java client needs Java {_OLDEST_JAVA} or newer, this is {release}")
    shutil.copyfile(_pom(), directory / "pom.xml")
    found = directory / "class-path"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            fetched = _run([*_MAVEN, f"-Dmdep.outputFile={found}"], directory, _FETCH_LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the Java client's packages did not come within {_FETCH_LIMIT_S} s")
    if fetched.returncode != 0:
        said = _COLOUR.sub("", fetched.stdout + fetched.stderr).strip()
        assert not any(mistake in said for mistake in _OUR_MISTAKES), said
        pytest.skip(f"the Java client's packages cannot be had: {said.removeprefix('[ERROR] ')[:160]}")
    class_path = found.read_text().strip()
    source = str(_SOURCES / "Clients.java")
    compiled = _run(["javac", "-d", str(directory), "-cp", class_path, source], directory, _COMPILE_LIMIT_S)
    assert compiled.returncode == 0, f"the Java client does not compile\n{compiled.stderr}"
    options = ["-Xmx256m", f"-Djetcd.version={client_version()}", "-cp", f"{class_path}:{directory}"]
    return ["java", *options, "Clients"]


def _pom() -> Path:
    return _SOURCES / "pom.xml"


def _run(command: list[str], directory: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=limit_s, check=False)

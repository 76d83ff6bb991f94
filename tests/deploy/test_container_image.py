"""deploy/Dockerfile and its locks: pinned, not root, and made of what the project says that it needs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP: Final = Path(__file__).parents[2]
DEPLOY: Final = TOP / "deploy"
_PIN: Final = re.compile(r"^([a-z0-9.-]+)==(\S+) \\$")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def last(word: str) -> str:
    return [rest for each, rest in instructions() if each == word][-1]


def pins(lock: str) -> dict[str, str]:
    """Package -> version. Every one has hashes; nothing says where to get it from."""
    found: dict[str, str] = {}
    hashes: dict[str, int] = {}
    for line in (DEPLOY / lock).read_text().splitlines():
        pin = _PIN.match(line)
        if pin:
            found[pin[1]] = pin[2]
            hashes[pin[1]] = 0
        elif line.startswith("    --hash=sha256:"):
            hashes[list(found)[-1]] += 1
        else:
            assert not line or line.lstrip().startswith("#"), f"{lock}: {line}"
    assert all(hashes.values()), hashes
    return found


@pytest.mark.parametrize(
    ("lock", "table", "key"),
    [("requirements.lock", "project", "dependencies"), ("requirements-build.lock", "build-system", "requires")],
)
def test_the_lock_is_what_pyproject_asks_for(lock: str, table: str, key: str) -> None:
    pinned = pins(lock)
    wanted = [Requirement(text) for text in tomllib.loads((TOP / "pyproject.toml").read_text())[table][key]]
    assert wanted
    for each in wanted:
        version = pinned.get(canonicalize_name(each.name))
        assert version is not None, f"{each} is not in deploy/{lock}: make it anew (docs/deploy.md, The pins)"
        assert version in each.specifier, f"deploy/{lock} has {each.name} {version}: make it anew (docs/deploy.md)"


def test_the_base_is_pinned_and_nothing_is_fetched_unchecked() -> None:
    bases = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE=")]
    assert bases == ["BASE=python:3.11-slim-bookworm"]
    assert {rest.split()[0] for word, rest in instructions() if word == "FROM"} == {"${BASE}"}
    installs = [
        step for word, rest in instructions() if word == "RUN" for step in rest.split("&&") if " install " in step
    ]
    for step in (step for step in installs if "pip" in step):
        assert "--require-hashes" in step or "--no-index" in step, step


def test_it_is_not_root_and_gets_signals_itself() -> None:
    """A shell before raftkv would be process 1, and would keep SIGTERM to itself."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert json.loads(last("ENTRYPOINT")) == ["raftkv"]
    assert json.loads(last("CMD")) == ["serve"]
    assert last("STOPSIGNAL") == "SIGTERM"


def test_the_volume_is_the_data_directory() -> None:
    assert f"ETCD_DATA_DIR={last('VOLUME')} " in last("ENV")
    assert any(
        word == "RUN" and f"install -d -m 0700 -o raftkv -g raftkv {last('VOLUME')}" in rest
        for word, rest in instructions()
    )


def test_the_health_check_is_a_file_of_the_image() -> None:
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command == ["python3", "-I", "-S", "/opt/raftkv/share/healthcheck.py", "/livez"]


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    """The ignore file lets in what COPY takes from the checkout: no .git, no .venv, no data and no keys."""
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    }
    assert copied == let_in
    assert all((TOP / source).exists() for source in copied)

"""deploy/smoke.sh: with Docker it is run, for every kind of cluster that there is; without, it must say so."""

from __future__ import annotations

import os
import subprocess

import pytest
from compose_support import DEPLOY, compose_command

SMOKE = DEPLOY / "smoke.sh"
MINUTES = 20


def smoke(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("bash", SMOKE, *words), capture_output=True, text=True, timeout=60 * MINUTES, env=os.environ | environment
    )


@pytest.fixture
def daemon() -> None:
    if compose_command() is None:
        pytest.skip("needs Docker with Compose 2.24.4 or newer: there is no `docker compose`")
    if subprocess.run(("docker", "info"), capture_output=True).returncode != 0:
        pytest.skip("needs Docker: `docker info` reaches no daemon")


@pytest.mark.usefixtures("daemon")
@pytest.mark.timeout(60 * MINUTES)
@pytest.mark.parametrize("words", [("3",), ("5",), ("3", "--tls")], ids=" ".join)
def test_smoke(words: tuple[str, ...]) -> None:
    done = smoke(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("smoke: PASSED in ")


def test_it_says_what_it_needs() -> None:
    done = smoke("3", DOCKER="false", COMPOSE="false")
    assert done.returncode == 2
    assert done.stderr == "smoke: cannot run here: no Docker daemon answers (docker info)\n"


@pytest.mark.parametrize("words", [("4",), ("--help",)])
def test_it_explains_itself(words: tuple[str, ...]) -> None:
    done = smoke(*words, DOCKER="false")
    assert done.returncode == 2
    assert "deploy/smoke.sh [3|5] [--tls]" in done.stdout
    assert "SMOKE_BASE_PORT" in done.stdout

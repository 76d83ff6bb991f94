"""Plays the stories in tests/scripts/raft; the file name is the behaviour.

RAFTKV_REWRITE=1 writes what happened into the files instead of comparing: read the diff before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from raft_script import Script

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts" / "raft").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    told = path.read_text()
    happened = Script().rewrite(told)
    if os.environ.get("RAFTKV_REWRITE"):
        path.write_text(happened)
        return
    assert happened == told


def test_the_stories_are_there() -> None:
    assert len(SCRIPTS) >= 25

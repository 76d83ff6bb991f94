"""Commands as this person, in this place, can type them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from raftkv.cli.local.directory import LocalCluster

DEFAULT_DIR: Final = Path("raftkv.cluster")


def typed(directory: Path, verb: str, *words: str) -> str:
    """`raftkv cluster VERB …` for the cluster in that directory."""
    where = [] if directory == DEFAULT_DIR else ["--dir", str(directory)]
    return f"{_program('raftkv')} cluster {shlex.join([verb, *words, *where])}"


def what_next(cluster: LocalCluster) -> str:
    """For whoever has just started a cluster."""
    directory = cluster.directory
    rows = {
        typed(directory, "status", "--watch"): "watch it, best in a second terminal",
        typed(directory, "kill", "leader"): "the others elect a new leader",
        typed(directory, "start"): "starts what does not run",
        typed(directory, "stop"): "ends it; data is kept",
        f'eval "$({typed(directory, "env")})"': "tells etcdctl where it is; then:",
        f"{_program('etcdctl')} put greeting hello": "",
    }
    width = max(map(len, rows))
    return "\nTry:\n" + "\n".join(f"  {command:<{width}}   {what}".rstrip() for command, what in rows.items())


def _program(name: str) -> str:
    """The name alone if the shell finds the one beside this interpreter, or if there is none; otherwise its path."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not ours.exists() or (found is not None and Path(found).resolve() == ours.resolve()):
        return name
    return shlex.quote(os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours))

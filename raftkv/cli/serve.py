"""`raftkv serve`: read the configuration, set up logs and the event loop, hand over to the node."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.cli import version
from raftkv.cli.command import EXIT_OK
from raftkv.cli.helptext import serve_help
from raftkv.config import logs
from raftkv.config.bootstrap import verify_bootstrap
from raftkv.config.errors import StartError
from raftkv.config.flags import read_flags
from raftkv.config.load import load_from
from raftkv.config.model import Config
from raftkv.version import ETCD_VERSION, RAFTKV_VERSION

_log: Final = logging.getLogger(__name__)


def usage() -> str:
    return serve_help()


def run(argv: Sequence[str]) -> int:
    """Blocks until the node has stopped; returns the exit code. Raises StartError when it cannot start."""
    line = read_flags(argv)
    if line.help:
        sys.stdout.write(usage())
        return EXIT_OK
    if line.version:
        sys.stdout.write(version.as_text())
        return EXIT_OK
    config = load_from(line, os.environ)
    handlers = logs.setup(config.log)
    try:
        return _start(config)
    finally:
        logs.teardown(handlers)


def _start(config: Config) -> int:
    versions = {"raftkv": RAFTKV_VERSION, "etcd": ETCD_VERSION, "pid": os.getpid()}
    _log.info("raftkv starts", extra={"kv": versions})
    _log.info("settings given", extra={"kv": {"settings": dict(config.given)}})
    for notice in config.notices:
        _log.warning(notice.text, extra={"kv": notice.fields})
    if not config.has_data():
        verify_bootstrap(config)
    if config.rpc_server == "grpcio" and importlib.util.find_spec("grpc") is None:
        raise StartError(
            "--rpc-server=grpcio needs the grpcio library", "Install it with: pip install 'raftkv[grpcio]'"
        )
    return _load_node()(config)


def _load_node() -> Callable[[Config], int]:
    """The server's entry point. Imported late: --help must not load a server."""
    try:
        from raftkv.api.node import run as run_node
    except ImportError as why:
        raise StartError(
            f"a part that the server needs is missing: {why}", "Install raftkv again, with its dependencies."
        ) from why
    return run_node

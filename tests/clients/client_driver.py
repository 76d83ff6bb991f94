"""What the programs that drive a Python etcd client share: the order of imports, and running one case.

A client library runs in a process of its own, because two of them cannot share one: both register the same
message names in protobuf's process-wide pool. raftkv does share the process with each: it has its own pool.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

IMPORT_ORDERS = ("raftkv-first", "client-first")


def import_raftkv_messages() -> None:
    """All generated modules, so that every message name of raftkv is registered."""
    package = importlib.import_module("raftkv.pb")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"raftkv.pb.{module.name}")


def import_both(client: str, order: str) -> ModuleType:
    if order == "raftkv-first":
        import_raftkv_messages()
    library = importlib.import_module(client)
    if order == "client-first":
        import_raftkv_messages()
    return library


def main(client: str, cases: Mapping[str, Callable[[ModuleType, int], None]]) -> None:
    """`program CASE ORDER PORT`: run one case against the server on that port. Raises on failure."""
    case, order, port = sys.argv[1:]
    cases[case](import_both(client, order), int(port))

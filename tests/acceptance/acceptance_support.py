"""What the tests of the checklist share: points as parameters, and the rest of the calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_support import TIMEOUT_S, Client

from raftkv.config.capabilities import UNSUPPORTED
from raftkv.pb import rpc_pb2

Point = Callable[..., None]


def until(capability: str) -> pytest.MarkDecorator:
    """The mark of what fails until raftkv has this Capability, by its name; once it has, a mark that does nothing."""
    missing = capability in {each.name for each in UNSUPPORTED}
    return pytest.mark.not_yet(capability) if missing else pytest.mark.skipif(False, reason=f"{capability} is there")


def points(*checks: Any) -> pytest.MarkDecorator:
    """Each point of an item as a parameter `point`, named after its function. A check may be a pytest.param."""
    return pytest.mark.parametrize("point", [_named(check) for check in checks])


def _named(check: Any) -> Any:
    if callable(check):
        return pytest.param(check, id=_words(check))
    (function,) = check.values
    return pytest.param(function, id=_words(function), marks=check.marks)


def _words(function: Callable[..., None]) -> str:
    return function.__name__.strip("_").replace("_", " ")


def pairs(answer: rpc_pb2.RangeResponse, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Keys, without their prefix, and values."""
    return [(kv.key.removeprefix(prefix), kv.value) for kv in answer.kvs]


def keys(answer: rpc_pb2.RangeResponse, prefix: bytes = b"") -> list[bytes]:
    return [kv.key.removeprefix(prefix) for kv in answer.kvs]


def snapshot(client: Client) -> list[rpc_pb2.SnapshotResponse]:
    return list(client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S))


def defragment(client: Client) -> rpc_pb2.DefragmentResponse:
    answer = client.calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=TIMEOUT_S)
    assert isinstance(answer, rpc_pb2.DefragmentResponse)
    return answer

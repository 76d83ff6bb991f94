"""Downgrade: every check of etcd's in its order, and then no target that would do (MT-50 to MT-58)."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw

from raftkv.api.downgrade import Downgrade
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.server.errors import NoLeader

VALIDATE, ENABLE, CANCEL = 0, 1, 2
FORMAT = (Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")
TARGET = (Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")


@pytest.fixture(autouse=True)
def known_version(fake_node: FakeNode) -> None:
    fake_node.applier.cluster_version = "3.6.0"


def ask(node: FakeNode, action: int, version: str = "") -> Any:
    call: Any = FakeCall()
    request = rpc_pb2.DowngradeRequest(version=version)
    request.action = action  # type: ignore[assignment]  # also numbers that mean nothing
    Downgrade(node.context()).downgrade(call, raw(request))
    return call


@pytest.mark.parametrize("action", [VALIDATE, ENABLE])
@pytest.mark.parametrize(
    "version",
    [
        "",
        "3",
        "x.y",
        "3.5.",
        ".5",
        "v3.5",
        "-3.5",
        "3.-5.0",
        "3.+5.0",
        "3.5-rc.1",
        "3.5.0-rc..1",
        "3.5\n",
        "9" * 20 + ".5",
    ],
)
def test_what_is_no_version(fake_node: FakeNode, action: int, version: str) -> None:
    """MT-51: before everything else."""
    fake_node.read_error = NoLeader()
    assert ask(fake_node, action, version).failure == FORMAT


@pytest.mark.parametrize("action", [VALIDATE, ENABLE])
@pytest.mark.parametrize("version", ["3.5", "3.5.0", "3.5.21-rc.1+build.7", "03.05", "3.5.0-", "3.6", "3.4", "2.9"])
def test_no_target_will_do(fake_node: FakeNode, action: int, version: str) -> None:
    """MT-52, MT-58."""
    assert ask(fake_node, action, version).failure == TARGET


def test_a_target_is_judged_after_a_linearizable_read(fake_node: FakeNode) -> None:
    """MT-57."""
    fake_node.read_error = NoLeader()
    assert ask(fake_node, VALIDATE, "3.5").failure == (Code.UNAVAILABLE, "etcdserver: no leader")


def test_there_is_nothing_to_cancel_and_that_is_fine(fake_node: FakeNode) -> None:
    """MT-55, MT-56: whatever the version says."""
    for version in ("", "x"):
        response = rpc_pb2.DowngradeResponse.FromString(ask(fake_node, CANCEL, version).replies[0])
        assert (response.version, response.header.revision) == ("3.6", 1)


def test_a_cluster_that_has_no_version_yet(fake_node: FakeNode) -> None:
    """MT-54."""
    fake_node.applier.cluster_version = ""
    unknown = (Code.FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade")
    assert ask(fake_node, ENABLE, "3.5").failure == unknown
    assert ask(fake_node, CANCEL).failure == unknown
    assert ask(fake_node, ENABLE, "x").failure == FORMAT


def test_an_action_that_does_not_exist(fake_node: FakeNode) -> None:
    """MT-50."""
    assert ask(fake_node, 3, "x").failure == (Code.UNKNOWN, "etcdserver: unknown method")

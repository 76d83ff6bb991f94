"""Plays one scenario on the subject and on the real etcd and compares the two transcripts.

Owns bringing both servers to the same starting point, so that revisions need no normalising.
"""

import difflib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from helpers.ctl_steps import Scenario, Side
from helpers.etcd_tools import Tool
from helpers.grpc_calls import Calls
from helpers.processes import Server
from raftkv.pb import rpc_pb2

Compare = Callable[[str, Scenario], None]
"""Plays a scenario with one release of etcdctl on both servers; fails the test with a diff."""

_ALL: Final = b"\0"
_FILLER: Final = b"same-revision-filler"
_TIMEOUT_S: Final = 10
_SLOW: Final = pytest.mark.skipif(
    os.environ.get("RAFTKV_TEST_SLOW") != "1", reason="takes a minute; RAFTKV_TEST_SLOW=1 runs it"
)


@dataclass(frozen=True, slots=True)
class Party:
    """A running server and the calls on a channel to it."""

    server: Server
    calls: Calls

    def put(self, key: bytes) -> int:
        """The revision of the put."""
        response = self.calls.KV.Put(rpc_pb2.PutRequest(key=key), timeout=_TIMEOUT_S)
        return int(response.header.revision)


@dataclass(frozen=True, slots=True)
class Pair:
    """The server under test and the one it is compared with."""

    subject: Party
    etcd: Party

    def both(self) -> tuple[Party, Party]:
        return self.subject, self.etcd


def cases(scenarios: Iterable[Scenario]) -> list[Any]:
    """Parameters `tool_version, scenario` for a test: every scenario with every release that can play it."""
    table = list(scenarios)
    names = [scenario.name for scenario in table]
    assert len(set(names)) == len(names), "two scenarios have one name"
    return [
        pytest.param(version, scenario, id=f"{scenario.name}-{version}", marks=_marks(scenario))
        for scenario in table
        for version in scenario.tools
    ]


def _marks(scenario: Scenario) -> list[pytest.MarkDecorator]:
    marks = [_SLOW] if scenario.slow else []
    return [*marks, pytest.mark.not_yet(scenario.not_yet)] if scenario.not_yet else marks


def make_level(pair: Pair) -> None:
    """No keys, leases or alarms; the same current revision on both, which is also the compacted one.

    What one server did differently in an earlier scenario must not show up in the next one.
    """
    for party in pair.both():
        _empty(party.calls)
    revisions = {party: party.put(_FILLER) for party in pair.both()}
    highest = max(revisions.values())
    for party, revision in revisions.items():
        for _ in range(highest - revision):
            party.put(_FILLER)
    for party in pair.both():
        kv = party.calls.KV
        kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=_FILLER), timeout=_TIMEOUT_S)
        kv.Compact(rpc_pb2.CompactionRequest(revision=highest + 1, physical=True), timeout=_TIMEOUT_S)


def compare(pair: Pair, tool: Tool, scenario: Scenario, directory: Path) -> None:
    """Play the scenario on both and fail the test with a diff if the transcripts differ."""
    sides = []
    for name, party in (("subject", pair.subject), ("etcd", pair.etcd)):
        scratch = directory / name
        scratch.mkdir(parents=True)
        sides.append(Side(party.server.endpoint, party.server.peer_url, party.calls, tool, scratch))
    subject, etcd = sides
    with ThreadPoolExecutor(max_workers=2) as pool:
        for played in [pool.submit(side.play, scenario) for side in sides]:
            played.result()
    assert not etcd.timed_out, f"the scenario does not fit the real etcd: {etcd.timed_out}"
    assert subject.transcript == etcd.transcript, difference(etcd.transcript, subject.transcript)


def difference(expected: list[str], actual: list[str]) -> str:
    """Unified diff of two transcripts, for the message of a failed test."""
    lines = difflib.unified_diff(expected, actual, "etcd", "subject", n=6, lineterm="")
    return "the outputs differ\n" + "\n".join(lines)


def _empty(calls: Calls) -> None:
    # Alarms first: they would refuse the rest.
    for alarm in calls.Maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=_TIMEOUT_S).alarms:
        calls.Maintenance.Alarm(
            rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm),
            timeout=_TIMEOUT_S,
        )
    calls.KV.DeleteRange(rpc_pb2.DeleteRangeRequest(key=_ALL, range_end=_ALL), timeout=_TIMEOUT_S)
    for lease in calls.Lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=_TIMEOUT_S).leases:
        calls.Lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.ID), timeout=_TIMEOUT_S)

"""Alarms and the quota (contract section 6.7)."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from contract_support import (
    CORRUPT,
    NO_SPACE,
    Client,
    delete_op,
    prefix_end,
    put_op,
    range_op,
    refused,
    txn_op,
)
from helpers.processes import Server

from raftkv.pb import rpc_pb2

_GET, _ACTIVATE, _DEACTIVATE = (
    rpc_pb2.AlarmRequest.GET,
    rpc_pb2.AlarmRequest.ACTIVATE,
    rpc_pb2.AlarmRequest.DEACTIVATE,
)
_NONE, _NOSPACE_ALARM, _CORRUPT_ALARM = rpc_pb2.NONE, rpc_pb2.NOSPACE, rpc_pb2.CORRUPT


def _listed(answer: rpc_pb2.AlarmResponse) -> list[tuple[int, int]]:
    return sorted((each.memberID, each.alarm) for each in answer.alarms)


@pytest.fixture
def alarmed(client: Client) -> Iterator[Callable[[int], int]]:
    """`alarmed(type)` raises an alarm of the shared member and answers its id; disarmed afterwards."""
    member_id = client.status().header.member_id

    def activate(alarm: int) -> int:
        client.alarm(_ACTIVATE, member_id, alarm)
        return member_id

    yield activate
    for member, alarm in client.alarms():
        client.alarm(_DEACTIVATE, member, alarm)


def test_round_trip(client: Client, alarmed: Callable[[int], int]) -> None:
    """AL-01 to AL-04, KV-09."""
    assert client.alarms() == []
    revision = client.revision()
    own = alarmed(_NOSPACE_ALARM)
    assert _listed(client.alarm(_ACTIVATE, own, _NOSPACE_ALARM)) == [(own, _NOSPACE_ALARM)]
    assert _listed(client.alarm(_ACTIVATE, 7, _NONE)) == []
    assert _listed(client.alarm(_ACTIVATE, 7, _CORRUPT_ALARM)) == [(7, _CORRUPT_ALARM)]
    both = sorted([(own, _NOSPACE_ALARM), (7, _CORRUPT_ALARM)])
    assert _listed(client.alarm(_GET)) == both
    assert _listed(client.alarm(_GET, 99)) == both
    assert _listed(client.alarm(_GET, 0, _CORRUPT_ALARM)) == [(7, _CORRUPT_ALARM)]
    for member_id, alarm in ((0, _NONE), (0, _NOSPACE_ALARM), (own, _CORRUPT_ALARM), (own, _NONE)):
        assert _listed(client.alarm(_DEACTIVATE, member_id, alarm)) == []
    assert _listed(client.alarm(_GET)) == both
    assert _listed(client.alarm(_DEACTIVATE, own, _NOSPACE_ALARM)) == [(own, _NOSPACE_ALARM)]
    assert _listed(client.alarm(_DEACTIVATE, 7, _CORRUPT_ALARM)) == [(7, _CORRUPT_ALARM)]
    assert _listed(client.alarm(_GET)) == []
    assert client.revision() == revision


def test_status_lists_alarms(client: Client, alarmed: Callable[[int], int]) -> None:
    """Section 6.1."""
    own = alarmed(_NOSPACE_ALARM)
    assert list(client.status().errors) == [f"memberID:{own} alarm:NOSPACE "]
    client.alarm(_ACTIVATE, 0, _CORRUPT_ALARM)
    assert sorted(client.status().errors) == ["alarm:CORRUPT ", f"memberID:{own} alarm:NOSPACE "]


@pytest.mark.parametrize("member_id", [None, 4711], ids=["own alarm", "AL-06: of another member"])
def test_no_space_refuses_what_adds(
    client: Client, prefix: bytes, alarmed: Callable[[int], int], member_id: int | None
) -> None:
    """AL-25, AL-21: no revision is used up."""
    lease = client.grant(60).ID
    client.put(prefix + b"old", b"1", lease=lease)
    if member_id is None:
        alarmed(_NOSPACE_ALARM)
    else:
        client.alarm(_ACTIVATE, member_id, _NOSPACE_ALARM)
    before = client.revision()
    put = put_op(prefix)
    calls: list[Callable[[], Any]] = [
        lambda: client.put(prefix),
        lambda: client.put(prefix + b"old", b"", ignore_value=True),
        lambda: client.txn(success=[put]),
        lambda: client.txn(failure=[put]),
        lambda: client.grant(60),
        lambda: client.grant(9_000_000_001),  # before L-03
    ]
    for call in calls:
        with refused(NO_SPACE):
            call()
    assert client.revision() == before
    client.alarm(_DEACTIVATE, member_id or client.status().header.member_id, _NOSPACE_ALARM)
    assert client.put(prefix).header.revision == before + 1
    client.revoke(lease)


@pytest.mark.beyond_etcd("AL-21: 3.5.1 does not count the puts of nested transactions")
def test_no_space_refuses_nested_puts(client: Client, prefix: bytes, alarmed: Callable[[int], int]) -> None:
    """AL-21, AL-25: wherever they are, and whether or not their branch is taken."""
    alarmed(_NOSPACE_ALARM)
    nested = txn_op([], [], [txn_op([], [put_op(prefix)])])
    for branches in ({"success": [delete_op(prefix + b"x"), nested]}, {"failure": [nested]}):
        with refused(NO_SPACE):
            client.txn(**branches)  # type: ignore[arg-type]


def test_no_space_allows_the_rest(client: Client, prefix: bytes, alarmed: Callable[[int], int]) -> None:
    """AL-26, DEL-05, CMP-11, L-17, RNG-22."""
    lease = client.grant(60).ID
    for tail in (b"a", b"b", b"c"):
        client.put(prefix + tail)
    client.put(prefix + b"d", lease=lease)
    alarmed(_NOSPACE_ALARM)
    with client.watch() as watch, client.keep_alive() as keep_alive:
        watch.create(prefix, prefix_end(prefix))
        assert client.range(prefix, prefix_end(prefix)).count == 4
        assert client.delete(prefix + b"a").deleted == 1
        answer = client.txn(success=[delete_op(prefix + b"b"), txn_op([], [range_op(prefix + b"c")])])
        assert answer.responses[1].response_txn.responses[0].response_range.count == 1
        keep_alive.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        assert keep_alive.next().TTL == 60
        revision = client.revoke(lease).header.revision
        client.compact(revision, physical=True)
        assert client.members().members
        assert client.hash_kv().hash
        assert [event.kv.key for event in watch.events(3)] == [prefix + b"a", prefix + b"b", prefix + b"d"]
    assert [kv.key for kv in client.range(prefix, prefix_end(prefix)).kvs] == [prefix + b"c"]


def test_corrupt(client: Client, prefix: bytes, alarmed: Callable[[int], int]) -> None:
    """AL-10, L-17, CMP-11."""
    lease = client.grant(60).ID
    client.put(prefix, lease=lease)
    before = client.revision()
    own = alarmed(_CORRUPT_ALARM)
    calls: list[Callable[[], Any]] = [
        lambda: client.put(prefix),
        lambda: client.delete(prefix),
        lambda: client.txn(success=[put_op(prefix)]),
        lambda: client.txn(success=[delete_op(prefix)]),
        lambda: client.compact(before),
        lambda: client.grant(60),
        lambda: client.revoke(lease),
    ]
    for call in calls:
        with refused(CORRUPT):
            call()
    assert client.range(prefix).count == 1
    assert client.txn(success=[range_op(prefix)]).responses[0].response_range.count == 1
    assert client.time_to_live(lease, keys=True).keys == [prefix]
    assert client.members().members
    with client.watch() as stream:
        stream.create(prefix, start_revision=before)
        assert len(stream.events(1)) == 1
    assert list(client.status().errors) == [f"memberID:{own} alarm:CORRUPT "]
    client.alarm(_DEACTIVATE, own, _CORRUPT_ALARM)
    assert client.revoke(lease).header.revision == before + 1


def test_alarms_survive_a_restart(start_server: Callable[..., Server], connected: Callable[[Server], Client]) -> None:
    """AL-05."""
    server = start_server()
    connected(server).alarm(_ACTIVATE, 7, _NOSPACE_ALARM)
    server.kill9()
    server.start()
    client = connected(server)
    assert client.alarms() == [(7, _NOSPACE_ALARM)]
    with refused(NO_SPACE):
        client.put(b"k")
    client.alarm(_DEACTIVATE, 7, _NOSPACE_ALARM)
    client.put(b"k")


# --- the quota ----------------------------------------------------------------------------------------------


def _fill(client: Client) -> list[bytes]:
    """Put until there is no room. The keys that were acknowledged."""
    value = bytes(256 << 10)
    keys: list[bytes] = []
    while True:
        key = b"fill/%04d" % len(keys)
        try:
            client.put(key, value)
        except grpc.RpcError as refusal:
            error: Any = refusal
            assert (error.code(), error.details()) == NO_SPACE
            return keys
        keys.append(key)
        assert len(keys) < 1000, "the quota was never reached"


def test_the_quota(start_server: Callable[..., Server], connected: Callable[[Server], Client]) -> None:
    """AL-20 to AL-27."""
    quota = 16 << 20
    client = connected(start_server(f"--quota-backend-bytes={quota}"))
    own = client.status().header.member_id
    keys = _fill(client)
    _wait_for_alarm(client)
    assert client.alarms() == [(own, _NOSPACE_ALARM)]
    assert quota // 2 < client.status().dbSize < 2 * quota
    revision = client.revision()
    assert client.range(b"fill/", b"fill0", count_only=True).count == len(keys)
    assert len(client.only(keys[-1]).value) == 256 << 10
    # What exceeds the quota is refused before any other check (AL-23); what does not, by the alarm (AL-25).
    large = bytes(1 << 20)
    for call in (
        lambda: client.put(b"", large),
        lambda: client.txn(success=[put_op(b"", large), put_op(b"")]),
        lambda: client.put(b"small"),
        lambda: client.txn(success=[put_op(b"small")]),
        lambda: client.grant(60),
    ):
        with refused(NO_SPACE):
            call()
    assert client.revision() == revision
    assert client.delete(b"fill/", b"fill0").deleted == len(keys)
    assert client.compact(revision + 1, physical=True).header.revision == revision + 1
    client.calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=20)
    assert client.status().dbSize < quota // 2
    # Making room does not lift the alarm (AL-27).
    with refused(NO_SPACE):
        client.put(b"small")
    assert client.alarms() == [(own, _NOSPACE_ALARM)]
    client.alarm(_DEACTIVATE, own, _NOSPACE_ALARM)
    assert client.put(b"small").header.revision == revision + 2


def test_the_alarm_comes_back(start_server: Callable[..., Server], connected: Callable[[Server], Client]) -> None:
    """AL-28: disarmed with the store still over the quota."""
    client = connected(start_server(f"--quota-backend-bytes={16 << 20}"))
    own = client.status().header.member_id
    _fill(client)
    _wait_for_alarm(client)
    client.alarm(_DEACTIVATE, own, _NOSPACE_ALARM)
    assert client.alarms() == []
    with refused(NO_SPACE):
        client.put(b"large", bytes(1 << 20))
    _wait_for_alarm(client)
    assert client.alarms() == [(own, _NOSPACE_ALARM)]


def _wait_for_alarm(client: Client) -> None:
    """The refused put does not wait for the alarm that it makes the member propose: a few log entries do."""
    for _ in range(50):
        if client.alarms():
            return


def test_no_quota(start_server: Callable[..., Server], connected: Callable[[Server], Client]) -> None:
    """AL-20: a negative quota is none."""
    client = connected(start_server("--quota-backend-bytes=-1"))
    for number in range(8):
        client.put(b"%d" % number, bytes(1 << 20))
    assert client.alarms() == []

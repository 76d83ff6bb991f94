"""No room left, by quota or by disk (AL-20 to AL-28).

Writes are refused with NOSPACE, reads go on, nothing acknowledged is lost.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from helpers.grpc_calls import Calls, connect
from helpers.load import value_of
from helpers.processes import Program, Server
from helpers.small_disk import small_file_system

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.crash

_NO_SPACE: Final = grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"
_REPEATS: Final = 512
_DISK_MIB: Final = 384
_LARGER_DISK_MIB: Final = 1024
_QUOTA_BYTES: Final = 32 << 20
_TIMEOUT_S: Final = 30


def _value(key: bytes) -> bytes:
    return value_of(key) * _REPEATS


def _fill(calls: Calls) -> dict[bytes, int]:
    """Put large values until one is refused for want of room. The acknowledged ones: key -> revision."""
    acknowledged: dict[bytes, int] = {}
    for number in range(100_000):
        key = b"fill/%06d" % number
        try:
            response = calls.KV.Put(rpc_pb2.PutRequest(key=key, value=_value(key)), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            if _refusal(error) != _NO_SPACE:
                raise
            return acknowledged
        acknowledged[key] = response.header.revision
    raise AssertionError("the room never ended")


def _refusal(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.code(), error.details()


def _check_all_there(calls: Calls, acknowledged: dict[bytes, int]) -> None:
    for key, revision in acknowledged.items():
        (kv,) = calls.KV.Range(rpc_pb2.RangeRequest(key=key), timeout=_TIMEOUT_S).kvs
        assert (_value(key), revision) == (kv.value, kv.mod_revision)


def _check_refuses_writes(calls: Calls) -> None:
    put = rpc_pb2.PutRequest(key=b"small", value=b"v")
    for call, request in (
        (calls.KV.Put, put),
        (calls.KV.Txn, rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put)])),
        (calls.Lease.LeaseGrant, rpc_pb2.LeaseGrantRequest(TTL=60)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=_TIMEOUT_S)
        assert _refusal(refused.value) == _NO_SPACE
    alarms = calls.Maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=_TIMEOUT_S).alarms
    assert [alarm.alarm for alarm in alarms] == [rpc_pb2.NOSPACE]


def _disarm(calls: Calls) -> None:
    (alarm,) = calls.Maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=_TIMEOUT_S).alarms
    request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)
    calls.Maintenance.Alarm(request, timeout=_TIMEOUT_S)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with few blocks."""
    with small_file_system(tmp_path, _DISK_MIB):
        yield tmp_path


def test_full_disk_refuses_writes_and_loses_nothing(
    subject_program: Program, small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if subject_program.kind == "etcd":
        pytest.skip("the real etcd stops when the disk is full")
    server = Server(subject_program, tmp_path_factory.mktemp("full-disk"), data_dir=small_disk / "data")
    try:
        server.start()
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            acknowledged = _fill(calls)
            _check_refuses_writes(calls)
            _check_all_there(calls, acknowledged)
        server.kill9()
        server.start()
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            _check_refuses_writes(calls)
            _check_all_there(calls, acknowledged)
        server.terminate()
        subprocess.run(["mount", "-o", f"remount,size={_LARGER_DISK_MIB}m", str(small_disk)], check=True)
        server.start()
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            _disarm(calls)
            calls.KV.Put(rpc_pb2.PutRequest(key=b"after", value=_value(b"after")), timeout=_TIMEOUT_S)
            _check_all_there(calls, acknowledged)
    finally:
        server.stop()


def test_quota_refuses_writes_until_room_is_made(
    subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flags = (f"--quota-backend-bytes={_QUOTA_BYTES}",)
    server = Server(subject_program, tmp_path_factory.mktemp("quota"), flags)
    try:
        server.start()
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            acknowledged = _fill(calls)
            _check_refuses_writes(calls)
            _check_all_there(calls, acknowledged)
        server.kill9()
        server.start()
        with connect(server.endpoint) as channel:
            calls = Calls(channel)
            _check_refuses_writes(calls)
            _check_all_there(calls, acknowledged)
            # The recipe of AL-27; deletes are allowed all the time (AL-26).
            everything = rpc_pb2.DeleteRangeRequest(key=b"fill/", range_end=b"fill0")
            revision = calls.KV.DeleteRange(everything, timeout=_TIMEOUT_S).header.revision
            calls.KV.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=_TIMEOUT_S)
            calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=_TIMEOUT_S)
            _disarm(calls)
            calls.KV.Put(rpc_pb2.PutRequest(key=b"after", value=_value(b"after")), timeout=_TIMEOUT_S)
    finally:
        server.stop()

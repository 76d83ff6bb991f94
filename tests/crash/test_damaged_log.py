"""What a start does with a log that a crash or a bad disk has left behind, and with a second process.

Bytes are damaged where raftkv's own reader says that the log ends: there is no etcd to compare with.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.grpc_calls import Calls, connect
from helpers.load import History, Load, check_nothing_lost, check_watch_tells_the_history
from helpers.processes import Program, Server, ServerNotServingError

from raftkv.pb import rpc_pb2
from raftkv.wal import SegmentReport, verify

pytestmark = pytest.mark.crash


@pytest.fixture(autouse=True)
def _only_raftkv(subject_program: Program) -> None:
    if subject_program.kind != "raftkv":
        pytest.skip("damages raftkv's own log format")


def _killed_after_load(server: Server, puts: int = 300, *, with_store: bool = False) -> tuple[History, SegmentReport]:
    """A server that was killed under load, and where the last segment of its log ends.

    The store may be behind the log, which replays the rest; `with_store`: it is not.
    """
    history = History()
    load = Load(server.endpoint, "first", history, threads=2)
    load.start()
    load.wait_acknowledged(puts)
    if with_store:
        load.stop()
        with connect(server.endpoint) as channel:  # a hash is of a snapshot, so what is open is committed first
            Calls(channel).Maintenance.HashKV(rpc_pb2.HashKVRequest(), timeout=10)
    server.kill9()
    load.stop()
    *_, last = verify(server.data_dir / "member" / "wal")
    return history, last


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _garbage(path: Path, end: int) -> None:
    _write_at(path, end, b"\xde\xad\xbe\xef" * 50)


def _half_a_record(path: Path, end: int) -> None:
    """The begin of a record that looks right, as a write that did not get through would leave."""
    content = path.read_bytes()
    start = content.rindex(b"rkvF", 0, end)
    _write_at(path, end, content[start : start + (end - start) // 2])


def _file_ends_early(path: Path, end: int) -> None:
    _half_a_record(path, end)
    with path.open("r+b") as file:
        file.truncate(end + 10)


@pytest.mark.parametrize("tear", [_garbage, _half_a_record, _file_ends_early])
def test_torn_tail_is_cut_and_reported(raftkv_server: Server, tear: Callable[[Path, int], None]) -> None:
    history, last = _killed_after_load(raftkv_server)
    tear(last.file, last.end_offset)
    raftkv_server.start()
    log = raftkv_server.log_text()
    assert last.file.name in log
    assert str(last.end_offset) in log
    check_nothing_lost(raftkv_server.endpoint, history)
    _load_again(raftkv_server, history)
    raftkv_server.kill9()
    raftkv_server.start()
    check_nothing_lost(raftkv_server.endpoint, history)
    check_watch_tells_the_history(raftkv_server.endpoint, history)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_damage_in_the_middle_refuses_to_start(raftkv_server: Server, part: float) -> None:
    history, last = _killed_after_load(raftkv_server)
    place = int(last.end_offset * part)
    before = last.file.read_bytes()
    _write_at(last.file, place, bytes([before[place] ^ 0x01]))
    damaged = last.file.read_bytes()
    with pytest.raises(ServerNotServingError, match=r"exit code [1-9]"):
        raftkv_server.start()
    told = re.search(rf"{re.escape(str(last.file))} at offset (\d+)", raftkv_server.log_text())
    assert told is not None, raftkv_server.log_tail()
    assert int(told[1]) <= place
    assert damaged == last.file.read_bytes(), "a refused start changed the log"
    last.file.write_bytes(before)
    raftkv_server.start()
    check_nothing_lost(raftkv_server.endpoint, history)


def test_log_cut_short_of_the_store_is_never_taken_for_a_torn_tail(raftkv_server: Server) -> None:
    """The last record was acknowledged and applied; a new entry at its index would never be applied."""
    history, last = _killed_after_load(raftkv_server, with_store=True)
    with last.file.open("r+b") as file:
        size_bytes = file.seek(0, 2)
        start = last.file.read_bytes().rindex(b"rkvF", 0, last.end_offset)
        file.truncate(start + 20)
        file.truncate(size_bytes)
    try:
        raftkv_server.start()
    except ServerNotServingError:
        assert str(last.file.parent) in raftkv_server.log_text(), raftkv_server.log_tail()
        return
    _load_again(raftkv_server, history)
    raftkv_server.kill9()
    raftkv_server.start()
    check_nothing_lost(raftkv_server.endpoint, history)


def test_second_process_on_the_data_directory_is_refused_by_name(raftkv_server: Server, tmp_path: Path) -> None:
    second = Server(raftkv_server.program, tmp_path, data_dir=raftkv_server.data_dir)
    try:
        with pytest.raises(ServerNotServingError, match=r"exit code [1-9]"):
            second.start()
    finally:
        if second.is_running():
            second.kill9()
    assert str(raftkv_server.data_dir) in second.log_text()
    history = History()
    _load_again(raftkv_server, history)
    check_nothing_lost(raftkv_server.endpoint, history)
    raftkv_server.kill9()
    raftkv_server.start()
    check_nothing_lost(raftkv_server.endpoint, history)


def _load_again(server: Server, history: History) -> None:
    load = Load(server.endpoint, "again", history, threads=2)
    load.start()
    load.wait_acknowledged(len(history.acknowledged) + 50)
    load.stop()

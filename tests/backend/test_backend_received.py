"""A copy arrives from a peer: piece by piece, checked, made ours, kept under a name that the log may choose (RF-45)."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest
from backend_support import NEXT_BOOT, Stores, content, fill
from received_support import (
    CLUSTER_ID,
    CONF_STATE,
    EXPECTED,
    NEW,
    OLD,
    OUR_ID,
    POSITION,
    SENDER_ID,
    behind,
    copied,
    receive,
    sender,
)

from raftkv.backend import (
    BackendError,
    DamagedError,
    Expected,
    LockedError,
    Meta,
    NoSpaceError,
    ReceivedStore,
    StoreFacts,
    settle_received,
    store_facts,
)
from raftkv.backend import received as received_module
from raftkv.backend.received import received_name
from raftkv.backend.schema import SCHEMA_VERSION, pack_u64

NAME = "received-0000000000000064-0000000000000007.mdb"


@pytest.fixture
def data(tmp_path: Path, stores: Stores) -> bytes:
    """The sender's store as it travels."""
    return copied(sender(stores, tmp_path / "sender"))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# --- the way in ---------------------------------------------------------------------------------------------


def test_a_whole_copy_becomes_a_named_store_of_ours(tmp_path: Path, data: bytes) -> None:
    received = receive(tmp_path / "snap", data)
    assert received.done
    assert (received.consistent_index, received.term) == POSITION
    assert received.path == tmp_path / "snap" / NAME
    assert names(tmp_path / "snap") == {NAME}
    facts = store_facts(received.path)
    assert facts == StoreFacts(facts.size_bytes, *POSITION, CLUSTER_ID, OUR_ID, CONF_STATE)
    assert facts.size_bytes >= len(data)


def test_pieces_come_in_any_order_and_again_and_at_once(tmp_path: Path, data: bytes) -> None:
    pieces = [(offset, data[offset : offset + 1000]) for offset in range(0, len(data), 1000)]
    pieces += random.Random(1).choices(pieces, k=len(pieces) // 2)
    random.Random(2).shuffle(pieces)
    received = ReceivedStore(tmp_path, len(data))
    threads = [
        threading.Thread(target=lambda mine=pieces[at::4]: [received.write(*each) for each in mine]) for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert received.received_bytes == len(data)
    received.finish(EXPECTED)
    assert store_facts(received.path).member_id == OUR_ID


def test_one_missing_byte_is_seen(tmp_path: Path, data: bytes) -> None:
    """The room for it was reserved, so the file alone would not tell."""
    for missing in (0, 4096, len(data) - 1):
        received = ReceivedStore(tmp_path, len(data))
        received.write(0, data[:missing])
        received.write(missing + 1, data[missing + 1 :])
        assert received.received_bytes == len(data) - 1
        with pytest.raises(DamagedError, match=f"{len(data) - 1} bytes of {len(data)}"):
            received.finish(EXPECTED)
        received.discard()
        assert names(tmp_path) == {"sender"}


@pytest.mark.parametrize("offset", [-1, 1, 1 << 62])
def test_a_piece_outside_of_the_store_is_refused(tmp_path: Path, data: bytes, offset: int) -> None:
    received = ReceivedStore(tmp_path, len(data))
    with pytest.raises(DamagedError, match="a piece from"):
        received.write(offset, data)
    received.write(0, data)
    received.finish(EXPECTED)


@pytest.mark.parametrize("size_bytes", [-4096, 0, 1, 4095])
def test_no_store_has_such_a_size(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(DamagedError, match=f"never has {size_bytes} bytes"):
        ReceivedStore(tmp_path / "snap", size_bytes)
    assert not (tmp_path / "snap").exists()


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"consistent_index": 101}, "its consistent index is 100, not 101"),
        ({"term": 8}, "its term is 7, not 8"),
        ({"cluster_id": 0xC2}, "its cluster id is c1, not c2"),
        ({"conf_state": b""}, f"its conf_state is {CONF_STATE.hex()}, not empty"),
        ({"term": 9, "cluster_id": 1}, "its term is 7, not 9; its cluster id is c1, not 1"),
    ],
)
def test_another_store_than_announced_is_refused(
    tmp_path: Path, data: bytes, changed: dict[str, int | bytes], found: str
) -> None:
    with pytest.raises(DamagedError) as caught:
        receive(tmp_path / "snap", data, Expected(**{**EXPECTED._asdict(), **changed}))
    assert caught.value.found == found
    assert "fetch" in caught.value.remedy
    assert names(tmp_path / "snap") == {"incoming.tmp"}


def test_a_longer_or_shorter_store_than_announced_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DamagedError, match=f"its size_bytes is {len(data)}, not {len(data) + 4096}"):
        receive(tmp_path / "longer", data + bytes(4096))
    with pytest.raises(DamagedError, match=f"{len(data) - 4096} bytes of {len(data)}"):
        receive(tmp_path / "shorter", data[:-4096])


def test_what_is_no_store_is_refused(tmp_path: Path, stores: Stores) -> None:
    with pytest.raises(DamagedError, match="not an LMDB"):
        receive(tmp_path / "garbage", random.Random(3).randbytes(8192))
    env = lmdb.open(str(tmp_path / "foreign"), lib_version=0)
    with env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    env.close()
    with pytest.raises(DamagedError, match="not a raftkv store"):
        receive(tmp_path / "snap", (tmp_path / "foreign" / "data.mdb").read_bytes())
    newer = sender(stores, tmp_path / "newer")
    newer.begin_write().put(Meta.SCHEMA_VERSION, pack_u64(SCHEMA_VERSION + 1), db=newer.tables.meta)
    with pytest.raises(DamagedError, match=f"schema version {SCHEMA_VERSION + 1}"):
        receive(tmp_path / "snap", copied(newer))
    nameless = stores.open(tmp_path / "nameless")
    with pytest.raises(DamagedError, match="its cluster id is missing, not c1; its conf_state is missing"):
        receive(tmp_path / "snap", copied(nameless))


def test_discard_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    half = ReceivedStore(tmp_path / "snap", len(data))
    half.write(0, data[:4096])
    half.discard()
    half.discard()
    assert names(tmp_path / "snap") == set()
    with pytest.raises(BackendError, match="nobody waits"):
        half.write(4096, data[4096:])
    whole = receive(tmp_path / "snap", data)
    whole.discard()
    assert (whole.done, names(tmp_path / "snap")) == (False, set())


def test_discard_waits_for_those_who_write(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the descriptor closed under a writer, its number could be another file's by the time it is used."""
    received = ReceivedStore(tmp_path, len(data))
    in_write, go_on, real, written = threading.Event(), threading.Event(), os.pwrite, []

    def slow(fd: int, piece: bytes, offset: int) -> int:
        in_write.set()
        assert go_on.wait(10)
        written.append(os.fstat(fd).st_ino)
        return real(fd, piece, offset)

    inode = os.stat(tmp_path / "incoming.tmp" / "data.mdb").st_ino
    monkeypatch.setattr(os, "pwrite", slow)
    writer = threading.Thread(target=received.write, args=(0, data))
    writer.start()
    assert in_write.wait(10)
    discarder = threading.Thread(target=received.discard)
    discarder.start()
    discarder.join(0.05)
    assert discarder.is_alive()
    go_on.set()
    for thread in (writer, discarder):
        thread.join(10)
    assert (written, (tmp_path / "incoming.tmp").exists()) == ([inode], False)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_a_failed_write_or_sync_is_not_forgotten(
    tmp_path: Path, data: bytes, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports lost pages once. A second `finish` would find them "written"."""
    monkeypatch.setattr(received_module, "SYNC_STEP_BYTES", 1)
    received = ReceivedStore(tmp_path / "snap", len(data))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    if call == "fsync":
        received.write(0, data)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        with pytest.raises(OSError, match="input/output"):
            received.finish(EXPECTED) if call == "fsync" else received.write(0, data)
    if call != "fsync":
        received.write(0, data)
    with pytest.raises(BackendError, match="not written whole"):
        received.finish(EXPECTED)
    received.discard()
    assert names(tmp_path / "snap") == set()


def test_it_is_written_back_on_the_way(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_module, "SYNC_STEP_BYTES", 8192)
    synced, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
    receive(tmp_path / "snap", data, piece_bytes=4096)
    assert len(synced) == len(data) // 8192


def test_what_an_earlier_copy_left_is_removed(tmp_path: Path, stores: Stores, data: bytes) -> None:
    """Half of one by the next copy, and by the next open; a whole one by nobody but `settle_received`."""
    snap = tmp_path / "snap"
    ReceivedStore(snap, 1 << 20)
    received = receive(snap, data)
    assert names(snap) == {NAME}
    ReceivedStore(snap, 1 << 20).write(0, b"x" * 4096)
    assert names(snap) == {NAME, "incoming.tmp"}
    stores.open(snap)
    assert names(snap) == {NAME, "data.mdb", "checkpoint", "checkpoint.tmp", "lock.mdb", "backend.lock"}
    assert store_facts(received.path).consistent_index == POSITION[0]


def test_receiving_disturbs_no_open_store(tmp_path: Path, stores: Stores, data: bytes) -> None:
    backend = behind(stores, tmp_path / "snap")
    receive(tmp_path / "snap", data)
    fill(backend, {b"more": b"1"})
    assert content(backend) == OLD | {b"more": b"1"}
    stores.close(backend)
    assert content(stores.open(tmp_path / "snap", NEXT_BOOT)) == OLD | {b"more": b"1"}


def test_no_room_is_said_before_the_first_byte(small_disk: Path) -> None:
    snap = small_disk / "snap"
    snap.mkdir()
    (small_disk / "filler").write_bytes(bytes(8 << 20))
    with pytest.raises(NoSpaceError, match="no room for a copy of 8388608 bytes"):
        ReceivedStore(snap, 8 << 20)
    assert names(snap) == set()
    ReceivedStore(snap, 2 << 20).discard()


NO_ROOM_TO_OWN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from received_support import EXPECTED
from raftkv.backend import NoSpaceError, ReceivedStore
data = Path(sys.argv[2]).read_bytes()
received = ReceivedStore(Path(sys.argv[1]) / "snap", len(data))
received.write(0, data)
try:
    with open(sys.argv[1] + "/filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
except OSError:
    pass
try:
    received.finish(EXPECTED)
except NoSpaceError:
    received.discard()
    print(list((Path(sys.argv[1]) / "snap").iterdir()))
"""


def test_no_room_for_the_last_pages_is_an_error_not_a_signal(small_disk: Path, tmp_path: Path, stores: Stores) -> None:
    """Our member id takes a few pages more than the copy; a compact copy has no free ones for it."""
    source = sender(stores, tmp_path / "sender")
    job = source.begin_defragment()
    job.run()
    source.finish_defragment(job)
    (tmp_path / "copy").write_bytes(copied(source))
    arguments = [str(small_disk), str(tmp_path / "copy"), *sys.path]
    done = subprocess.run([sys.executable, "-c", NO_ROOM_TO_OWN, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# --- facts --------------------------------------------------------------------------------------------------


def test_facts_of_any_data_file(tmp_path: Path, stores: Stores) -> None:
    backend = sender(stores, tmp_path / "snap")
    size_bytes = backend.size_bytes
    stores.close(backend)
    before = names(tmp_path / "snap")
    facts = store_facts(tmp_path / "snap" / "data.mdb")
    assert facts == StoreFacts(size_bytes, *POSITION, CLUSTER_ID, SENDER_ID, CONF_STATE)
    assert names(tmp_path / "snap") == before
    empty = stores.open(tmp_path / "empty")
    size_bytes = empty.size_bytes
    stores.close(empty)
    assert store_facts(tmp_path / "empty" / "data.mdb") == StoreFacts(size_bytes, 0, 0, None, None, None)


def test_facts_refuse_what_cannot_be_read(tmp_path: Path, stores: Stores, data: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        store_facts(tmp_path / "nothing")
    (tmp_path / "cut").write_bytes(data[:-4096])
    with pytest.raises(DamagedError, match=f"{len(data) - 4096} bytes of {len(data)}"):
        store_facts(tmp_path / "cut")
    for key, found in ((Meta.MEMBER_ID, "an id in it"), (Meta.CONSISTENT_INDEX, "consistent index: expected")):
        odd = sender(stores, tmp_path / found)
        odd.begin_write().put(key, b"odd", db=odd.tables.meta)
        odd.commit()
        shutil.copy(tmp_path / found / "data.mdb", tmp_path / "copy")
        with pytest.raises(DamagedError, match=found):
            store_facts(tmp_path / "copy")


# --- what becomes of it at the next start -----------------------------------------------------------------------


@pytest.mark.parametrize("decided", [None, (0, 0), (99, 7), (100, 8), (101, 7)])
def test_undecided_stores_go(tmp_path: Path, stores: Stores, data: bytes, decided: tuple[int, int] | None) -> None:
    """RF-46: the log says nothing of it, so the old store goes on."""
    snap = tmp_path / "snap"
    stores.close(behind(stores, snap))
    receive(snap, data)
    assert not settle_received(snap, decided)
    assert NAME not in names(snap)
    assert content(stores.open(snap)) == OLD


def test_the_decided_store_is_put_in_place_by_the_next_open(tmp_path: Path, stores: Stores, data: bytes) -> None:
    """RF-46: whatever else has been received, and however often a start is interrupted."""
    snap = tmp_path / "snap"
    stores.close(behind(stores, snap))
    receive(snap, data)
    for other in (received_name(99, 7), received_name(101, 7), "received-odd.mdb"):
        (snap / other).write_bytes(b"another")
    assert settle_received(snap, POSITION)
    assert not settle_received(snap, POSITION)
    assert not [name for name in names(snap) if name.startswith("received")]
    backend = stores.open(snap)
    assert (backend.recovered.swapped, backend.recovered[-2:]) == (True, POSITION)
    assert content(backend) == NEW
    stores.close(backend)
    assert not settle_received(snap, POSITION)
    assert content(stores.open(snap, NEXT_BOOT)) == NEW


def test_a_member_without_a_store_gets_one(tmp_path: Path, stores: Stores, data: bytes) -> None:
    """The offline way: there is nothing, or nothing that can be opened."""
    assert not settle_received(tmp_path / "none", POSITION)
    assert not (tmp_path / "none").exists()
    receive(tmp_path / "none", data)
    stores.close(behind(stores, tmp_path / "damaged"))
    (tmp_path / "damaged" / "data.mdb").write_bytes(b"damaged")
    (tmp_path / "damaged" / "checkpoint").write_bytes(b"damaged")
    receive(tmp_path / "damaged", data)
    for name in ("none", "damaged"):
        assert settle_received(tmp_path / name, POSITION)
        assert content(stores.open(tmp_path / name)) == NEW


def test_nothing_is_settled_under_an_open_store(tmp_path: Path, stores: Stores, data: bytes) -> None:
    behind(stores, tmp_path / "snap")
    receive(tmp_path / "snap", data)
    with pytest.raises(LockedError):
        settle_received(tmp_path / "snap", POSITION)
    assert NAME in names(tmp_path / "snap")

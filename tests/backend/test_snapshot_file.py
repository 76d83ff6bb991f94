"""Snapshot files: what is written, what is taken for one, and what is refused (MT-11, PY-34, CT-22)."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from raftkv.backend import Backend, DamagedError
from raftkv.backend.saved_store import SavedStore, check_by_reading
from raftkv.backend.snapshot_file import SnapshotWriter, open_snapshot, store_pieces, verify_snapshot

DIGEST_BYTES = 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """The directory of a small store with a few hundred entries."""
    directory = tmp_path / "store"
    backend = Backend.open(directory)
    try:
        txn = backend.begin_write()
        for number in range(300):
            txn.put(b"%05d" % number, b"value" * 20, db=backend.tables.current)
        backend.commit()
    finally:
        backend.close()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def snapshot(store: Path, tmp_path: Path) -> Path:
    """A snapshot of it, as every client writes one: blobs of any size, the checksum at the end."""
    path = tmp_path / "snapshot.db"
    backend = Backend.open(store)
    copy = backend.begin_copy()
    try:
        writer = SnapshotWriter(path)
        while blob := copy.read(writer.written_bytes, 3000):
            writer.write(blob)
        assert not path.exists()
        writer.write_digest()
        assert writer.finish() == copy.size_bytes
    finally:
        copy.close()
        backend.close()
    return path


def test_layout(snapshot: Path) -> None:
    """MT-11: a multiple of 512, then the SHA-256 of all before it."""
    content = snapshot.read_bytes()
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    assert len(content) % 512 == DIGEST_BYTES
    assert hashlib.sha256(body).digest() == digest
    assert [path.name for path in snapshot.parent.iterdir() if path.is_file()] == [snapshot.name]
    assert snapshot.stat().st_mode & 0o077 == 0  # it may hold secrets
    saved = open_snapshot(snapshot)
    assert (saved.size_bytes, saved.digest) == (len(body), digest)
    told: list[tuple[int, int]] = []
    assert b"".join(store_pieces(saved, verify=True, progress=lambda *each: told.append(each))) == body
    assert told[-1] == (len(body), len(body))
    with SavedStore(snapshot) as opened:
        assert opened.txn.get(b"00299", db=opened.tables.current) == b"value" * 20


def test_the_same_content_has_the_same_crc(snapshot: Path) -> None:
    copy = snapshot.with_name("copy.db")
    copy.write_bytes(snapshot.read_bytes()[:-DIGEST_BYTES])
    with SavedStore(snapshot) as one, SavedStore(copy) as other:
        assert one.crc() == one.crc() == other.crc()


def test_every_flipped_byte_is_found(snapshot: Path) -> None:
    """CT-22: in the meta pages, the data, the checksum."""
    content = snapshot.read_bytes()
    bad = snapshot.with_name("bad.db")
    places = [
        *range(0, len(content), 997),
        len(content) - DIGEST_BYTES - 1,
        len(content) - DIGEST_BYTES,
        len(content) - 1,
    ]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 0x40
        bad.write_bytes(flipped)
        with pytest.raises(DamagedError):
            verify_snapshot(open_snapshot(bad))


def test_every_cut_is_found(snapshot: Path) -> None:
    """At any length; what is left without a checksum and whole is a plain copy, and says so."""
    content = snapshot.read_bytes()
    cut = snapshot.with_name("cut.db")
    lengths = [0, 1, 31, 32, 511, 4096, 8191, *range(512 + DIGEST_BYTES, len(content), 1777)]
    lengths += [len(content) - less for less in (1, 31, 33, 512, 4096)]
    for length in lengths:
        cut.write_bytes(content[:length])
        with pytest.raises(DamagedError):
            verify_snapshot(open_snapshot(cut))
    cut.write_bytes(content[:-DIGEST_BYTES])
    assert open_snapshot(cut) == (cut, len(content) - DIGEST_BYTES, None)


def test_a_data_file_is_a_plain_copy(store: Path) -> None:
    """As long as the map, of which little is used."""
    saved = open_snapshot(store / "data.mdb")
    assert saved.digest is None
    assert saved.size_bytes < 1 << 20 < (store / "data.mdb").stat().st_size
    check_by_reading(store / "data.mdb")


def _bbolt(_snapshot: bytes) -> bytes:
    page = bytes(8) + b"\x04\x00" + bytes(6) + (0xED0CDAED).to_bytes(4, "little") + bytes(4076)
    return page * 4 + bytes(DIGEST_BYTES)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_bbolt, "a snapshot of etcd itself .*etcdctl make-mirror"),
        (lambda snapshot: bytes(4096) + _bbolt(snapshot)[4096:], "this is a snapshot of etcd itself"),
        (gzip.compress, "compressed .gzip.; unpack it first: gunzip"),
        (lambda snapshot: snapshot[4096:] + snapshot[:4096], "not a snapshot of raftkv"),
        (lambda _: b"", "the file is empty"),
        (lambda snapshot: snapshot[:-5000], "cut short"),
        (lambda snapshot: snapshot + b"\n", "are not a store of .* bytes and a checksum"),
        (lambda snapshot: snapshot[:-DIGEST_BYTES] + bytes(512 + DIGEST_BYTES), "are not a store of"),
    ],
)
def test_what_is_no_snapshot(make: Callable[[bytes], bytes], text: str, snapshot: Path) -> None:
    """CT-20: the reader is told what it is instead, and what to do."""
    other = snapshot.with_name("other")
    other.write_bytes(make(snapshot.read_bytes()))
    with pytest.raises(DamagedError, match=text):
        open_snapshot(other)


def test_an_lmdb_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.mdb"
    with lmdb.open(str(path), subdir=False, lock=False, lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    with pytest.raises(DamagedError, match="not a raftkv store"):
        SavedStore(path)


def test_reading_damage_does_not_end_the_reader(snapshot: Path) -> None:
    """Without a checksum LMDB is the first to see the damage, and it trusts its pages."""
    content = bytearray(snapshot.read_bytes()[:-DIGEST_BYTES])
    bad = snapshot.with_name("bad.db")
    content[2 * 4096 :] = os.urandom(len(content) - 2 * 4096)
    bad.write_bytes(content)
    with pytest.raises(DamagedError, match="damaged: reading it"):
        check_by_reading(bad)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"", "not a whole snapshot"),
        (bytes(DIGEST_BYTES), "not a whole snapshot"),
        (bytes(1024), "not a whole snapshot"),
        (bytes(1000) + hashlib.sha256(bytes(1000)).digest(), "not a whole snapshot"),
        (bytes(1024) + hashlib.sha256(bytes(1023)).digest(), "does not match the SHA-256"),
    ],
)
def test_what_came_wrong_gets_no_name(written: bytes, text: str, tmp_path: Path) -> None:
    """MT-11. An older backup of that name stays."""
    path = tmp_path / "backup.db"
    path.write_bytes(b"older")
    writer = SnapshotWriter(path)
    writer.write(written)
    with pytest.raises(DamagedError, match=text):
        writer.finish()
    writer.discard()
    writer.discard()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_one_replaces_the_older(tmp_path: Path) -> None:
    path = tmp_path / "backup.db"
    path.write_bytes(b"older")
    writer = SnapshotWriter(path)
    for _ in range(4):
        writer.write(bytes(256))
    writer.write_digest()
    assert path.read_bytes() == b"older"
    assert writer.finish() == 1024
    writer.discard()  # in a `finally`
    assert path.read_bytes() == bytes(1024) + hashlib.sha256(bytes(1024)).digest()
    assert list(tmp_path.iterdir()) == [path]

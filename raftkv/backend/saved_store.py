"""The store in a file that nobody has open, to be read and not changed: a snapshot, or a copy of a data file.

Opens no directory, takes no lock, leaves nothing beside the file. LMDB trusts its pages, so what is read here must have
been verified first (snapshot_file.py), or read once by a process that may die of it: `check_by_reading`.
Knows nothing of what the tables mean.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import google_crc32c
import lmdb

from raftkv.backend.environment import from_lmdb, open_meta
from raftkv.backend.errors import DamagedError
from raftkv.backend.schema import DUP_TABLES, Tables
from raftkv.backend.snapshot_file import TAKE_ANOTHER, open_snapshot

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn

_READ_THROUGH: Final = f"import sys; from {__name__} import read_through; read_through(sys.argv[1])"


class SavedStore:
    """An open file. `txn` is its one snapshot; close it, or use it in a `with`."""

    __slots__ = ("_env", "_path", "tables", "txn")

    txn: ReadTxn
    tables: Tables

    def __init__(self, path: Path) -> None:
        """Raises DamagedError unless it is a whole store that this raftkv knows, OSError."""
        self._path = path
        size_bytes = open_snapshot(path).size_bytes  # of a file that is shorter LMDB would find out by SIGBUS
        try:
            self._env = lmdb.open(
                str(path),
                map_size=size_bytes,
                subdir=False,
                readonly=True,
                lock=False,
                max_dbs=len(Tables._fields),
                create=False,
                lib_version=0,
            )
        except lmdb.Error as error:
            raise from_lmdb(error, path) from error
        try:
            open_meta(self._env, path)
            self.tables = Tables(*(self._open_table(name) for name in Tables._fields))
            self.txn = self._env.begin()
        except lmdb.Error as error:
            self._env.close()
            raise from_lmdb(error, path) from error
        except BaseException:
            self._env.close()
            raise

    def _open_table(self, name: str) -> lmdb._Database:
        dup = name in DUP_TABLES
        try:
            return self._env.open_db(name.encode("ascii"), dupsort=dup, dupfixed=dup, create=False)
        except lmdb.NotFoundError:
            raise DamagedError(
                self._path, f"not a whole raftkv store, it lacks the table {name}", TAKE_ANOTHER
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.txn.abort()
        self._env.close()

    def crc(self) -> int:
        """CRC-32 Castagnoli over all tables in the order of their names: name, then keys and values. Reads everything.

        As etcd's tools hash their own format (CT-21). The same file gives the same number; two members' snapshots of
        one state do not, for a store says whose it is. Raises DamagedError.
        """
        crc = 0
        extend = google_crc32c.extend
        try:
            for name, table in sorted(zip(Tables._fields, self.tables, strict=True)):
                crc = extend(crc, name.encode("ascii"))
                for key, value in self.txn.cursor(table):
                    crc = extend(extend(crc, key), value)
        except lmdb.Error as error:
            raise from_lmdb(error, self._path) from error
        return int(crc)


def read_through(path: str) -> None:
    """All pages in use, as a whole walk touches them. May end the process by a signal."""
    with SavedStore(Path(path)) as store:
        store.crc()


def check_by_reading(path: Path) -> None:
    """For a file without a checksum: raises DamagedError if it cannot be walked through.

    A process of its own does that, because a page that points nowhere kills whoever follows it. That nothing is raised
    does not say that the values are what was written: nobody can tell.
    """
    done = subprocess.run([sys.executable, "-c", _READ_THROUGH, str(path)], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise DamagedError(path, f"damaged: reading it ended in signal {-done.returncode}", TAKE_ANOTHER)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise DamagedError(path, f"damaged: reading it failed ({reason})", TAKE_ANOTHER)

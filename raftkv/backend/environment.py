"""LMDB's environment: how it is opened, made, and checked. The settings, each with its reason, are here.

Keeps no state. Knows nothing of checkpoints; files are put right (see datadir.py) before LMDB looks at them.
"""

from __future__ import annotations

import errno
from pathlib import Path

import lmdb

from raftkv.backend.datadir import DATA_NAME, NEW_DIR_NAME, remove_leftovers, stage_next
from raftkv.backend.errors import REBUILD, BackendError, DamagedError, NoSpaceError, SchemaError
from raftkv.backend.handles import Db, ReadTxn, WriteTxn
from raftkv.backend.schema import (
    DUP_TABLES,
    SCHEMA_VERSION,
    Meta,
    Tables,
    pack_u64,
    unpack_consistent_index,
    unpack_u64,
)


def open_environment(directory: Path, map_size_bytes: int, max_readers: int) -> lmdb.Environment:
    """Raises DamagedError if LMDB does not like the file."""
    try:
        return lmdb.open(
            str(directory),
            map_size=map_size_bytes,
            writemap=True,
            sync=False,
            metasync=False,
            readahead=True,  # the quota usually fits in memory; after a start, reading ahead warms the cache
            max_dbs=len(Tables._fields),
            max_readers=max_readers,
            max_spare_txns=1,  # halves the cost of `read` after a commit
            create=False,
            lib_version=0,  # 1.0 aborts under churn with a writable map
        )
    except lmdb.Error as error:
        path = directory / DATA_NAME
        raise DamagedError(path, str(error), REBUILD) from error


def open_tables(env: lmdb.Environment) -> Tables:
    """Opens all tables, and makes those that an older raftkv did not have."""
    txn = env.begin(write=True)
    try:
        handles = [_open_table(env, name, txn) for name in Tables._fields]
    except BaseException:
        txn.abort()
        raise
    txn.commit()
    return Tables(*handles)


def _open_table(env: lmdb.Environment, name: str, txn: WriteTxn) -> Db:
    dup = name in DUP_TABLES
    return env.open_db(name.encode("ascii"), txn=txn, dupsort=dup, dupfixed=dup)


def make_store(directory: Path) -> None:
    """A new, empty, synced store, staged to take its place: data.mdb never exists half made."""
    new = directory / NEW_DIR_NAME
    new.mkdir(mode=0o700)
    env = open_environment(new, 1 << 20, 1)
    try:
        tables = open_tables(env)
        with env.begin(write=True) as txn:
            txn.put(Meta.SCHEMA_VERSION, pack_u64(SCHEMA_VERSION), db=tables.meta)
        env.sync(True)
    finally:
        env.close()
    stage_next(directory, new / DATA_NAME)
    remove_leftovers(directory)


def open_meta(env: lmdb.Environment, path: Path) -> Db:
    """The meta table. Raises DamagedError unless this raftkv can read the store. `path`: for the message."""
    try:
        meta = env.open_db(b"meta", create=False)
        with env.begin() as txn:
            version = unpack_u64(txn.get(Meta.SCHEMA_VERSION, b"", db=meta))
    except (lmdb.Error, SchemaError) as error:
        raise DamagedError(path, f"not a raftkv store ({error})", "check the data directory") from error
    if version != SCHEMA_VERSION:
        found = f"schema version {version}, this raftkv knows {SCHEMA_VERSION}"
        raise DamagedError(path, found, "start the raftkv version that wrote it")
    return meta


def consistent_index(txn: ReadTxn, meta: Db, path: Path) -> tuple[int, int]:
    """(consistent index, term) of a snapshot; (0, 0) if nothing was applied yet."""
    raw = txn.get(Meta.CONSISTENT_INDEX, db=meta)
    if raw is None:
        return 0, 0
    try:
        return unpack_consistent_index(raw)
    except SchemaError as error:
        raise DamagedError(path, str(error), REBUILD) from error


def from_lmdb(error: lmdb.Error, path: Path) -> Exception:
    """What an error of LMDB, or of the kernel through it, is on this floor. `path`: of the file it is about."""
    code = error.code
    if code in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"{path}: the file system has no room for it")
    if code is not None and code > 0:
        return OSError(code, str(error), str(path))
    if isinstance(error, (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        return DamagedError(path, str(error), REBUILD)
    return BackendError(f"{path}: {error}")

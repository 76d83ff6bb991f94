"""What a data file that nobody has open says of itself, and the one thing in it that belongs to its owner.

For files that arrive from elsewhere, and for tools. Changes nothing but the member id. Knows nothing of checkpoints:
a data file that needs its checkpoint (see datadir.py) may say something else after it was opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from raftkv.backend.environment import consistent_index, from_lmdb, open_meta
from raftkv.backend.errors import DamagedError, SchemaError
from raftkv.backend.metapage import read_metas
from raftkv.backend.schema import Meta, pack_u64, unpack_u64

_OWNING_BYTES: Final = 1 << 20
"""Room in the map for the pages that writing the member id copies: three or four."""


class StoreFacts(NamedTuple):
    """As of the newest commit in the file. None: the store has no such entry."""

    size_bytes: int
    """To the end of the last used page; the file may be longer."""
    consistent_index: int
    term: int
    """(0, 0): nothing was applied yet."""
    cluster_id: int | None
    member_id: int | None
    conf_state: bytes | None
    """As `wire` encodes it."""


def store_facts(path: Path) -> StoreFacts:
    """Opens a data file read-only, whatever its name is; leaves nothing beside it.

    Not for a store that is open: its pages may be reused while they are read here. Trusts the pages: a file from
    elsewhere must have come with checksums. Raises DamagedError unless it is a whole store that this raftkv knows,
    OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        metas = read_metas(fd, path)
        found_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if found_bytes < metas.size_bytes:
        # LMDB would find out by SIGBUS.
        raise DamagedError(path, f"{found_bytes} bytes of {metas.size_bytes}", "fetch it again")
    env = _open(path, metas.size_bytes, readonly=True)
    try:
        meta = open_meta(env, path)
        with env.begin() as txn:
            index, term = consistent_index(txn, meta, path)
            raw_ids = [txn.get(key, db=meta) for key in (Meta.CLUSTER_ID, Meta.MEMBER_ID)]
            conf_state = txn.get(Meta.CONF_STATE, db=meta)
        cluster_id, member_id = (None if raw is None else unpack_u64(raw) for raw in raw_ids)
    except SchemaError as error:
        raise DamagedError(path, f"an id in it cannot be read ({error})", "fetch it again") from error
    except lmdb.Error as error:
        raise from_lmdb(error, path) from error
    finally:
        env.close()
    return StoreFacts(metas.size_bytes, index, term, cluster_id, member_id, conf_state)


def set_member_id(path: Path, member_id: int) -> None:
    """Makes a data file that nobody has open this member's. Not synced: the caller does that.

    Raises NoSpaceError, DamagedError, OSError; the file is then good for nothing.
    """
    env = _open(path, path.stat().st_size + _OWNING_BYTES, readonly=False)
    try:
        meta = open_meta(env, path)
        with env.begin(write=True) as txn:
            txn.put(Meta.MEMBER_ID, pack_u64(member_id), db=meta)
    except lmdb.Error as error:
        raise from_lmdb(error, path) from error
    finally:
        env.close()


def _open(path: Path, map_size_bytes: int, *, readonly: bool) -> lmdb.Environment:
    """Without a writable map, so that a full disk is an error here, not a signal."""
    try:
        return lmdb.open(
            str(path),
            map_size=map_size_bytes,
            subdir=False,
            readonly=readonly,
            lock=False,  # nobody else has it open, and a reader table beside it would be left over
            sync=False,
            metasync=False,
            readahead=False,  # a handful of pages are read
            max_dbs=1,
            create=False,
            lib_version=0,
        )
    except lmdb.Error as error:
        raise from_lmdb(error, path) from error

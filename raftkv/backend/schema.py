"""Every table of the store, and how its keys and values are laid out.

The one file that names tables. Owns layouts only: it opens nothing and keeps no state.
Knows nothing of what a revision or a lease *means*, nor how keys longer than LMDB's 511 bytes are walked in
order (mvcc does that, with the constants found here).

All integers are big endian, so that LMDB's byte order is numeric order. Pack functions refuse values that
cannot be (they would be found as damage years later); unpack functions never trust what they read. Both raise
`SchemaError`. The hot path may use the `Struct` constants directly; whoever does so answers for the ranges.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final, NamedTuple

from raftkv.backend.errors import SchemaError
from raftkv.backend.handles import Db

SCHEMA_VERSION: Final = 1
"""Raised whenever an older raftkv would misread what a newer one writes. Checked at open."""

MAX_TABLE_KEY_BYTES: Final = 511
"""LMDB's limit for a key, and for a value of a DUPSORT table."""

MAX_USER_KEY_BYTES: Final = 1 << 30
"""Sanity bound only; the true limit is the request size, which the api checks."""


class Tables(NamedTuple):
    """Handles of all tables. Field names are the names on disk."""

    current: Db
    """user key (<= KEY_CHUNK bytes), or chunk + LONGER -> record, or child node id. See `pack_current`."""
    current_ext: Db
    """node id 8B + chunk, or node id 8B + chunk + LONGER -> record, or child node id. See `pack_node_key`."""
    events: Db
    """revision (`pack_revision`) -> etcd `Event` protobuf bytes. Append-only at its right end."""
    history: Db
    """`short_key` of the user key -> superseded revisions, 12B each, ascending. DUPSORT | DUPFIXED."""
    blocks: Db
    """first user key of a block -> live keys in it, 8B. A boundary is never longer than KEY_CHUNK bytes."""
    leases: Db
    """lease id (`pack_lease_id`) -> ttl_s, remaining_s (`pack_lease`)."""
    lease_keys: Db
    """lease id 8B + `short_key` -> b"", or the whole user key where `short_key` cut it."""
    auth_users: Db
    """`short_key` of the user name -> authpb.User bytes, which hold the whole name."""
    auth_roles: Db
    """`short_key` of the role name -> authpb.Role bytes, which hold the whole name."""
    members: Db
    """member id 8B -> raftkvpb.MemberRecord bytes; the first raftkv wrote etcdserverpb.Member, which reads the same."""
    members_removed: Db
    """member id 8B -> b"". An id never comes back."""
    alarms: Db
    """member id 8B + alarm type 4B -> b""."""
    meta: Db
    """one of the `Meta` keys -> value as documented there."""


DUP_TABLES: Final = frozenset({"history"})
"""Tables opened DUPSORT | DUPFIXED."""


# --- meta ---------------------------------------------------------------------------------------------------


class Meta:
    """Keys of the `meta` table, with the layout of their values."""

    SCHEMA_VERSION: Final = b"schema_version"
    """U64. Written by the backend when it makes the file."""
    CONSISTENT_INDEX: Final = b"consistent_index"
    """index U64, term U64 of the last entry whose effect is in this store (RF-50, PY-33)."""
    STATE_HASH: Final = b"state_hash"
    """U64: rolling hash of what the applied entries did, as of the consistent index. Absent: 0, as before the first."""
    CONF_STATE: Final = b"conf_state"
    """ConfState bytes, as `wire` encodes them."""
    LOG_CREATED: Final = b"log_created"
    """b"\\x01" once this store has a log beside it: a store with the mark and no log has lost it."""
    CURRENT_REVISION: Final = b"current_revision"
    """U64. Newest main revision, if it is not visible in `events` (a compaction may have emptied them)."""
    COMPACT_SCHEDULED: Final = b"compact_scheduled"
    """U64. The logical compact revision: older ones are already refused."""
    COMPACT_FINISHED: Final = b"compact_finished"
    """U64. Everything superseded up to here is physically gone."""
    COMPACT_POSITION: Final = b"compact_position"
    """Revision key (12B). Where an unfinished compaction goes on."""
    NEXT_NODE_ID: Final = b"next_node_id"
    """U64. Next free node id of `current_ext`; ids are not used twice."""
    LIVE_KEYS: Final = b"live_keys"
    """U64. Keys that are not tombstones."""
    CLUSTER_ID: Final = b"cluster_id"
    """U64."""
    MEMBER_ID: Final = b"member_id"
    """U64."""
    CLUSTER_VERSION: Final = b"cluster_version"
    """ASCII, like 3.5.0."""
    STORAGE_VERSION: Final = b"storage_version"
    """ASCII, like 3.6.0."""
    DOWNGRADE: Final = b"downgrade"
    """Target version in ASCII; absent when no downgrade is under way."""
    AUTH_ENABLED: Final = b"auth_enabled"
    """b"\\x01" when on; absent when off."""
    AUTH_REVISION: Final = b"auth_revision"
    """U64, at least 1. Absent: 1, as before the first change."""


U64: Final = Struct(">Q")
_U64_MAX: Final = (1 << 64) - 1
_I64_MAX: Final = (1 << 63) - 1
_U32_MAX: Final = (1 << 32) - 1

CONSISTENT_INDEX: Final = Struct(">QQ")
"""index, term."""


def pack_u64(value: int) -> bytes:
    """8 bytes. Raises SchemaError outside 0 .. 2^64-1."""
    if not 0 <= value <= _U64_MAX:
        raise SchemaError(f"{value} is not an unsigned 64-bit integer")
    return U64.pack(value)


def unpack_u64(raw: bytes) -> int:
    if len(raw) != 8:
        raise SchemaError(f"expected 8 bytes, got {len(raw)}")
    return int.from_bytes(raw, "big")


def pack_consistent_index(index: int, term: int) -> bytes:
    """16 bytes: index, term. Entry 0 does not exist in Raft, but (0, 0) says "nothing applied yet"."""
    if not (0 <= index <= _U64_MAX and 0 <= term <= _U64_MAX) or (index == 0) != (term == 0):
        raise SchemaError(f"no entry has index {index} and term {term}")
    return CONSISTENT_INDEX.pack(index, term)


def unpack_consistent_index(raw: bytes) -> tuple[int, int]:
    """(index, term)."""
    if len(raw) != CONSISTENT_INDEX.size:
        raise SchemaError(f"consistent index: expected {CONSISTENT_INDEX.size} bytes, got {len(raw)}")
    index, term = CONSISTENT_INDEX.unpack(raw)
    if (index == 0) != (term == 0):
        raise SchemaError(f"consistent index: no entry has index {index} and term {term}")
    return index, term


# --- revisions ----------------------------------------------------------------------------------------------

REVISION: Final = Struct(">QI")
"""main (8B), sub (4B): key in `events`, value in `history`."""
REVISION_BYTES: Final = REVISION.size


def pack_revision(main: int, sub: int) -> bytes:
    """12 bytes. Main revisions are int64 and start at 1 (KV-10); 0 is allowed as a lower bound."""
    if not (0 <= main <= _I64_MAX and 0 <= sub <= _U32_MAX):
        raise SchemaError(f"({main}, {sub}) is not a revision")
    return REVISION.pack(main, sub)


def unpack_revision(raw: bytes) -> tuple[int, int]:
    """(main, sub)."""
    if len(raw) != REVISION_BYTES:
        raise SchemaError(f"revision: expected {REVISION_BYTES} bytes, got {len(raw)}")
    main, sub = REVISION.unpack(raw)
    if main > _I64_MAX:
        raise SchemaError(f"revision: {main} is beyond int64")
    return main, sub


# --- current ------------------------------------------------------------------------------------------------

CURRENT_HEADER: Final = Struct(">QIQQq")
"""mod main, mod sub, create, version, lease. Then the frame: 12 len KeyValue, or nothing for a tombstone."""
CURRENT_HEADER_BYTES: Final = CURRENT_HEADER.size
FRAME_TAG: Final = 0x12
"""First byte of a frame: field 2, LEN. RangeResponse.kvs, PutResponse.prev_kv and Event.kv share it."""


class CurrentRecord(NamedTuple):
    """Newest revision of one key. A tombstone has create = version = lease = 0 and an empty frame."""

    mod_main: int
    mod_sub: int
    create: int
    version: int
    lease: int
    frame: bytes


def pack_current(mod_main: int, mod_sub: int, create: int, version: int, lease: int, frame: bytes) -> bytes:
    """Record of `current`. Raises SchemaError when the numbers contradict each other."""
    record = CurrentRecord(mod_main, mod_sub, create, version, lease, frame)
    _check_current(record)
    return CURRENT_HEADER.pack(*record[:5]) + frame


def unpack_current(raw: bytes) -> CurrentRecord:
    if len(raw) < CURRENT_HEADER_BYTES:
        raise SchemaError(f"current: {len(raw)} bytes are shorter than the header")
    mod_main, mod_sub, create, version, lease = CURRENT_HEADER.unpack_from(raw)
    record = CurrentRecord(mod_main, mod_sub, create, version, lease, raw[CURRENT_HEADER_BYTES:])
    _check_current(record)
    return record


def _check_current(record: CurrentRecord) -> None:
    mod_main, mod_sub, create, version, lease, frame = record
    if not (0 < mod_main <= _I64_MAX and 0 <= mod_sub <= _U32_MAX and -_I64_MAX - 1 <= lease <= _I64_MAX):
        raise SchemaError(f"current: revision ({mod_main}, {mod_sub}) or lease {lease} is out of range")
    if not frame:
        if create or version or lease:
            raise SchemaError("current: a tombstone has neither create revision, version nor lease")
    elif frame[0] != FRAME_TAG:
        raise SchemaError(f"current: the frame begins with {frame[0]:#04x}, not with a KeyValue")
    elif not (0 < create <= mod_main and 0 < version <= _I64_MAX):
        raise SchemaError(f"current: create {create}, version {version} do not fit mod revision {mod_main}")


# --- user keys ----------------------------------------------------------------------------------------------
#
# Where order matters (`current`), a long key is cut in chunks of KEY_CHUNK bytes: the entry `chunk + LONGER`
# means "there are longer keys with this prefix" and its value is the node id under which `current_ext` holds
# their next chunks, and so on. `chunk + LONGER` sorts directly after the key `chunk` and before every key
# with a greater chunk; it cannot be taken for a user key, because no stored user key has KEY_CHUNK + 1 bytes.
# Where order does not matter, one key per user key is enough: `short_key`.

KEY_CHUNK: Final = 480
LONGER: Final = b"\x00"
LONGER_KEY_BYTES: Final = KEY_CHUNK + len(LONGER)
NODE_ID_BYTES: Final = 8

SHORT_KEY_PREFIX_BYTES: Final = 464
_DIGEST_BYTES: Final = 32
CUT_KEY_BYTES: Final = SHORT_KEY_PREFIX_BYTES + _DIGEST_BYTES
"""Length of the short form of every key longer than KEY_CHUNK; no uncut key has it."""


def short_key(user_key: bytes) -> bytes:
    """A table key for any user key: itself up to KEY_CHUNK bytes, else 464 bytes of it + SHA-256 of all."""
    if len(user_key) <= KEY_CHUNK:
        if not user_key:
            raise SchemaError("an empty key cannot be stored")
        return user_key
    if len(user_key) > MAX_USER_KEY_BYTES:
        raise SchemaError(f"a key of {len(user_key)} bytes")
    return user_key[:SHORT_KEY_PREFIX_BYTES] + hashlib.sha256(user_key).digest()


def is_cut(short: bytes) -> bool:
    """Whether `short_key` had to cut: then the user key must be found elsewhere."""
    return len(short) == CUT_KEY_BYTES


def pack_node_key(node_id: int, chunk: bytes, *, longer: bool = False) -> bytes:
    """Key in `current_ext`. A chunk has 1 .. KEY_CHUNK bytes; exactly KEY_CHUNK if longer keys hang below."""
    if not 0 < node_id <= _U64_MAX:
        raise SchemaError(f"{node_id} is not a node id")
    if not 0 < len(chunk) <= KEY_CHUNK or (longer and len(chunk) != KEY_CHUNK):
        raise SchemaError(f"a chunk of {len(chunk)} bytes")
    return U64.pack(node_id) + chunk + LONGER if longer else U64.pack(node_id) + chunk


def unpack_node_key(raw: bytes) -> tuple[int, bytes, bool]:
    """(node id, chunk, longer)."""
    size = len(raw) - NODE_ID_BYTES
    if not 0 < size <= LONGER_KEY_BYTES:
        raise SchemaError(f"current_ext: a key of {len(raw)} bytes")
    node_id = int.from_bytes(raw[:NODE_ID_BYTES], "big")
    longer = size == LONGER_KEY_BYTES
    if node_id == 0 or (longer and raw[-1:] != LONGER):
        raise SchemaError("current_ext: neither a chunk nor a branch")
    return node_id, raw[NODE_ID_BYTES : NODE_ID_BYTES + KEY_CHUNK], longer


# --- leases, members, alarms --------------------------------------------------------------------------------

LEASE_ID: Final = Struct(">q")
LEASE: Final = Struct(">qq")
"""ttl_s, remaining_s (0 = no checkpoint yet)."""
ALARM: Final = Struct(">QI")
"""member id, alarm type."""


def pack_lease_id(lease_id: int) -> bytes:
    """8 bytes, signed (ids are int64 for clients; 0 means "no lease" and is refused)."""
    if lease_id == 0 or not -_I64_MAX - 1 <= lease_id <= _I64_MAX:
        raise SchemaError(f"{lease_id} is not a lease id")
    return LEASE_ID.pack(lease_id)


def unpack_lease_id(raw: bytes) -> int:
    if len(raw) != LEASE_ID.size:
        raise SchemaError(f"lease id: expected {LEASE_ID.size} bytes, got {len(raw)}")
    lease_id = int.from_bytes(raw, "big", signed=True)
    if lease_id == 0:
        raise SchemaError("0 is not a lease id")
    return lease_id


def pack_lease(ttl_s: int, remaining_s: int) -> bytes:
    if not (0 < ttl_s <= _I64_MAX and 0 <= remaining_s <= ttl_s):
        raise SchemaError(f"lease: ttl {ttl_s} s, remaining {remaining_s} s")
    return LEASE.pack(ttl_s, remaining_s)


def unpack_lease(raw: bytes) -> tuple[int, int]:
    """(ttl_s, remaining_s)."""
    if len(raw) != LEASE.size:
        raise SchemaError(f"lease: expected {LEASE.size} bytes, got {len(raw)}")
    ttl_s, remaining_s = LEASE.unpack(raw)
    if not (ttl_s > 0 and 0 <= remaining_s <= ttl_s):
        raise SchemaError(f"lease: ttl {ttl_s} s, remaining {remaining_s} s")
    return ttl_s, remaining_s


def pack_lease_key(lease_id: int, user_key: bytes) -> tuple[bytes, bytes]:
    """(key, value) in `lease_keys`; the value is b"" unless the user key had to be cut."""
    short = short_key(user_key)
    return pack_lease_id(lease_id) + short, user_key if is_cut(short) else b""


def unpack_lease_key(key: bytes, value: bytes) -> tuple[int, bytes]:
    """(lease id, user key)."""
    lease_id, short = unpack_lease_id(key[:8]), key[8:]
    if not is_cut(short):
        if value or not 0 < len(short) <= KEY_CHUNK:
            raise SchemaError("lease_keys: an uncut key with a value, or of a wrong length")
        return lease_id, short
    if len(value) <= KEY_CHUNK or short_key(value) != short:
        raise SchemaError("lease_keys: the whole key does not match its short form")
    return lease_id, value


def pack_alarm(member_id: int, alarm_type: int) -> bytes:
    """12 bytes: member id, alarm type (1 = NOSPACE, 2 = CORRUPT)."""
    if not (0 <= member_id <= _U64_MAX and 0 < alarm_type <= _U32_MAX):
        raise SchemaError(f"alarm {alarm_type} of member {member_id:x}")
    return ALARM.pack(member_id, alarm_type)


def unpack_alarm(raw: bytes) -> tuple[int, int]:
    """(member id, alarm type)."""
    if len(raw) != ALARM.size:
        raise SchemaError(f"alarm: expected {ALARM.size} bytes, got {len(raw)}")
    member_id, alarm_type = ALARM.unpack(raw)
    if alarm_type == 0:
        raise SchemaError("alarm: type 0 is no alarm")
    return member_id, alarm_type

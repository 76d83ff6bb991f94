"""One log entry holds many requests: how they are packed, and what kinds there are.

Layout of an entry's data, integers big endian:

    version 1B = 1 | proposer member id 8B | batch number 8B | count 4B | count x (kind 1B, length 4B, request)

A request is the client's own protobuf message, byte for byte, or one of raftkv's messages where etcd's API has none.
Only the proposer's waiting clients get the results; they are found by (proposer, batch number), then by position
(RF-54). Knows nothing of what a request means.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct, error
from typing import Final, NamedTuple

from raftkv.apply.errors import MalformedEntry
from raftkv.auth import Identity

BATCH_VERSION: Final = 1


class Kind(IntEnum):
    """What a request is. Numbers are on disk: never reuse one."""

    PUT = 1
    """etcdserverpb.PutRequest"""
    DELETE_RANGE = 2
    """etcdserverpb.DeleteRangeRequest"""
    TXN = 3
    """etcdserverpb.TxnRequest"""
    COMPACT = 4
    """etcdserverpb.CompactionRequest"""
    LEASE_GRANT = 5
    """etcdserverpb.LeaseGrantRequest, the id already chosen and the TTL already raised to the minimum"""
    LEASE_REVOKE = 6
    """etcdserverpb.LeaseRevokeRequest"""
    ALARM = 7
    """etcdserverpb.AlarmRequest"""
    PUBLISH = 8
    """raftkvpb.MemberRecord with ID, name, clientURLs and data_id: a member tells its attributes (CL-02). The first
    raftkv wrote etcdserverpb.Member, which reads the same"""
    CLUSTER_VERSION = 9
    """ASCII, like 3.6.0 (F-76)"""
    LEASE_CHECKPOINT = 25
    """raftkvpb.LeaseCheckpoints: how much the leader says is left of long leases (L-54)"""
    LEASE_EXPIRE = 11
    """raftkvpb.LeaseExpiry: the leader's revoke of a lease that has run out (L-14)"""
    MEMBER_UPDATE = 10
    """etcdserverpb.MemberUpdateRequest. The other changes of members concern consensus and are entries of their own"""
    AS_USER = 12
    """A request of one of the kinds in CLIENT_KINDS, and who makes it. See `encode_as_user`"""
    AUTH_ENABLE = 13
    """etcdserverpb.AuthEnableRequest"""
    AUTH_DISABLE = 14
    """etcdserverpb.AuthDisableRequest"""
    AUTHENTICATE = 15
    """raftkvpb.Authentication: a member has found a password right (AU-41)"""
    USER_ADD = 16
    """etcdserverpb.AuthUserAddRequest. Here and in the change of a password only the hash is set, never the password"""
    USER_DELETE = 17
    """etcdserverpb.AuthUserDeleteRequest"""
    USER_CHANGE_PASSWORD = 18
    """etcdserverpb.AuthUserChangePasswordRequest"""
    USER_GRANT_ROLE = 19
    """etcdserverpb.AuthUserGrantRoleRequest"""
    USER_REVOKE_ROLE = 20
    """etcdserverpb.AuthUserRevokeRoleRequest"""
    ROLE_ADD = 21
    """etcdserverpb.AuthRoleAddRequest"""
    ROLE_DELETE = 22
    """etcdserverpb.AuthRoleDeleteRequest"""
    ROLE_GRANT_PERMISSION = 23
    """etcdserverpb.AuthRoleGrantPermissionRequest"""
    ROLE_REVOKE_PERMISSION = 24
    """etcdserverpb.AuthRoleRevokePermissionRequest"""


AUTH_CHANGES: Final = frozenset(
    {
        Kind.AUTH_ENABLE,
        Kind.AUTH_DISABLE,
        Kind.USER_ADD,
        Kind.USER_DELETE,
        Kind.USER_CHANGE_PASSWORD,
        Kind.USER_GRANT_ROLE,
        Kind.USER_REVOKE_ROLE,
        Kind.ROLE_ADD,
        Kind.ROLE_DELETE,
        Kind.ROLE_GRANT_PERMISSION,
        Kind.ROLE_REVOKE_PERMISSION,
    }
)
CLIENT_KINDS: Final = AUTH_CHANGES | {
    Kind.PUT,
    Kind.DELETE_RANGE,
    Kind.TXN,
    Kind.COMPACT,
    Kind.LEASE_GRANT,
    Kind.LEASE_REVOKE,
    Kind.ALARM,
    Kind.MEMBER_UPDATE,
}
"""What clients ask for. The others only members say to each other, in nobody's name."""


class Batch(NamedTuple):
    proposer: int
    number: int
    requests: list[tuple[int, bytes]]
    """(kind, message); a kind that this version does not know is kept, and refused when applied."""


_HEAD: Final = Struct(">BQQI")
_ITEM: Final = Struct(">BI")
_AS_USER: Final = Struct(">QBI")
HEAD_BYTES: Final = _HEAD.size
ITEM_BYTES: Final = _ITEM.size


def encode_batch(proposer: int, number: int, requests: Sequence[tuple[int, bytes]]) -> bytes:
    pack = _ITEM.pack
    parts = [_HEAD.pack(BATCH_VERSION, proposer, number, len(requests))]
    for kind, message in requests:
        parts.append(pack(kind, len(message)))
        parts.append(message)
    return b"".join(parts)


def count_requests(data: bytes) -> int:
    """Requests in an entry's data, without decoding them; 0 for an empty entry or one that is damaged."""
    return int(_HEAD.unpack_from(data)[3]) if len(data) >= HEAD_BYTES else 0


def decode_batch(data: bytes) -> Batch:
    """Raises MalformedEntry when the bytes are not exactly one batch."""
    unpack, step = _ITEM.unpack_from, ITEM_BYTES
    requests: list[tuple[int, bytes]] = []
    try:
        version, proposer, number, count = _HEAD.unpack_from(data)
        position = HEAD_BYTES
        for _ in range(count):
            kind, size = unpack(data, position)
            position += step
            requests.append((kind, data[position : position + size]))
            position += size
    except error as damage:
        raise MalformedEntry(f"an entry of {len(data)} bytes ends in the middle of a request") from damage
    if version != BATCH_VERSION:
        raise MalformedEntry(f"an entry of format {version}; this raftkv reads format {BATCH_VERSION}: upgrade it")
    if position != len(data):
        raise MalformedEntry(f"an entry of {len(data)} bytes whose requests take {position}")
    return Batch(proposer, number, requests)


# --- in whose name ----------------------------------------------------------------------------------------------------
#
#     auth revision 8B | kind 1B | length of the user name 4B | user name, UTF-8 | request


def encode_as_user(identity: Identity, kind: int, message: bytes) -> bytes:
    """The message of an AS_USER request; `kind` is one of CLIENT_KINDS. NO_IDENTITY is an identity too (AU-48)."""
    assert kind in CLIENT_KINDS, "what members say to each other is in nobody's name"
    name = identity.user.encode()
    return _AS_USER.pack(identity.auth_revision, kind, len(name)) + name + message


def decode_as_user(data: bytes) -> tuple[Identity, int, bytes]:
    """(identity, kind, message). Raises MalformedEntry for what `encode_as_user` does not make."""
    try:
        revision, kind, size = _AS_USER.unpack_from(data)
        start = _AS_USER.size + size
        user = data[_AS_USER.size : start].decode()
    except (error, UnicodeDecodeError) as damage:
        raise MalformedEntry(f"a user's request of {len(data)} bytes does not say whose it is") from damage
    if start > len(data):
        raise MalformedEntry(f"a user's request of {len(data)} bytes ends in the middle of the user's name")
    if kind not in CLIENT_KINDS:
        raise MalformedEntry(f"a user's request is of kind {kind}, which no user can make: upgrade this raftkv")
    return Identity(user, revision), kind, data[start:]

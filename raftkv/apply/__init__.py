"""Committed entries become results: the log's requests, transactions, alarms, changes of the membership, the hash of
all that was done, and the applier that does it."""

from raftkv.apply.access import (
    Caller,
    check_access,
    check_alarm,
    check_delete_range,
    check_lease_read,
    check_lease_write,
    check_put,
    check_range,
    check_txn,
)
from raftkv.apply.alarms import CORRUPT, NOSPACE, Alarms
from raftkv.apply.applier import COPIES_OF_VALUE, Applied, Applier, Result
from raftkv.apply.batch import (
    AUTH_CHANGES,
    CLIENT_KINDS,
    ITEM_BYTES,
    Kind,
    decode_as_user,
    decode_batch,
    encode_as_user,
    encode_batch,
)
from raftkv.apply.errors import ApplyError, CorruptAlarm, MalformedEntry, NoSpaceAlarm
from raftkv.apply.member_change import MemberChange, encode_member_change
from raftkv.apply.quota import LEASE_GRANT_COST_BYTES, PUT_OVERHEAD_BYTES, txn_cost
from raftkv.apply.read_only_txn import ReadOnlyTxn
from raftkv.apply.state_hash import RecentHashes, first_difference

__all__ = [
    "AUTH_CHANGES",
    "CLIENT_KINDS",
    "COPIES_OF_VALUE",
    "CORRUPT",
    "ITEM_BYTES",
    "LEASE_GRANT_COST_BYTES",
    "NOSPACE",
    "PUT_OVERHEAD_BYTES",
    "Alarms",
    "Applied",
    "Applier",
    "ApplyError",
    "Caller",
    "CorruptAlarm",
    "Kind",
    "MalformedEntry",
    "MemberChange",
    "NoSpaceAlarm",
    "ReadOnlyTxn",
    "RecentHashes",
    "Result",
    "check_access",
    "check_alarm",
    "check_delete_range",
    "check_lease_read",
    "check_lease_write",
    "check_put",
    "check_range",
    "check_txn",
    "decode_as_user",
    "decode_batch",
    "encode_as_user",
    "encode_batch",
    "encode_member_change",
    "first_difference",
    "txn_cost",
]

"""Committed entries become results: the log's requests, transactions, alarms, changes of the membership, the hash of
all that was done, and the applier that does it."""

from raftkv.apply.alarms import CORRUPT, NOSPACE, Alarms
from raftkv.apply.applier import Applied, Applier, Result
from raftkv.apply.batch import ITEM_BYTES, Kind, decode_batch, encode_batch
from raftkv.apply.errors import ApplyError, CorruptAlarm, MalformedEntry, NoSpaceAlarm
from raftkv.apply.member_change import MemberChange, encode_member_change
from raftkv.apply.quota import LEASE_GRANT_COST_BYTES, PUT_OVERHEAD_BYTES, txn_cost
from raftkv.apply.state_hash import RecentHashes, first_difference
from raftkv.apply.txn import run_read_only_txn

__all__ = [
    "CORRUPT",
    "ITEM_BYTES",
    "LEASE_GRANT_COST_BYTES",
    "NOSPACE",
    "PUT_OVERHEAD_BYTES",
    "Alarms",
    "Applied",
    "Applier",
    "ApplyError",
    "CorruptAlarm",
    "Kind",
    "MalformedEntry",
    "MemberChange",
    "NoSpaceAlarm",
    "RecentHashes",
    "Result",
    "decode_batch",
    "encode_batch",
    "encode_member_change",
    "first_difference",
    "run_read_only_txn",
    "txn_cost",
]

"""The one table of differences that are meant, or that an old etcd has and the contract's etcd has not.

Owns which difference is forgiven, under which rule and why. Each row is as narrow as it can be: it looks at the
operation, at the path and at both values. A difference that no row takes is a fault of one of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from differ import known_matches as matches
from differ.client import Moment
from differ.compare import Difference, Finding
from differ.ops import Op

Version = tuple[int, ...]
Matches = Callable[[Finding, Difference], bool]


@dataclass(frozen=True, slots=True)
class Known:
    """One row. `before`: only with an etcd older than this. `diverges`: whether the stores differ from here on."""

    name: str
    rule: str
    reason: str
    matches: Matches
    before: Version | None = None
    diverges: Callable[[Finding], bool] | None = None

    def applies(self, etcd: Version) -> bool:
        return self.before is None or etcd < self.before


@dataclass(frozen=True, slots=True)
class Avoided:
    """An operation that cannot be played on such an etcd: it ends the process, or the stores would differ after it."""

    name: str
    rule: str
    reason: str
    matches: Callable[[Op, Moment], bool]
    before: Version | None = None
    clusters_only: bool = False


def avoided(op: Op, etcd: Version, moment: Moment, members: int = 1) -> str | None:
    """Name of the row because of which this operation is left out, None if it is to be played."""
    for row in AVOIDED:
        applies = (row.before is None or etcd < row.before) and (members > 1 or not row.clusters_only)
        if applies and row.matches(op, moment):
            return row.name
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    rows: list[str]
    """Names of the rows that took a difference."""
    unexplained: list[Difference]
    diverges: bool


def explain(finding: Finding, etcd: Version) -> Verdict:
    """Which differences are known, and which are not."""
    rows: list[Known] = []
    unexplained = []
    for difference in finding.differences:
        row = next((row for row in TABLE if row.applies(etcd) and row.matches(finding, difference)), None)
        if row is None:
            unexplained.append(difference)
        else:
            rows.append(row)
    return Verdict(
        list(dict.fromkeys(row.name for row in rows)),
        unexplained,
        any(row.diverges is not None and row.diverges(finding) for row in rows),
    )


TABLE: Final = (
    Known(
        "status-fields", "16", "fields of Status that etcd has from 3.6 on", matches.newer_status_field, before=(3, 6)
    ),
    Known(
        "hash-revision", "MT-24", "HashKVResponse.hash_revision is new in 3.6", matches.newer_hash_field, before=(3, 6)
    ),
    Known(
        "check-order-in-txn",
        "TXN-42",
        "such an etcd looks at all puts of a transaction before it looks at its ranges, 3.6 at one after the other",
        matches.other_check_first,
        before=(3, 6),
    ),
    Known(
        "nested-puts-cost-nothing",
        "AL-21",
        "such an etcd does not count the puts of nested transactions under NOSPACE",
        matches.nested_puts_under_nospace,
        before=(3, 6),
        diverges=matches.etcd_wrote,
    ),
    Known(
        "rights-in-txn",
        "TXN-64",
        "such an etcd asks neither for the rights that nested transactions need nor for those of prev_kv and leases",
        matches.rights_in_txn,
        before=(3, 6),
        diverges=matches.etcd_wrote,
    ),
    Known(
        "claims-natural-codes",
        "8",
        "etcd refuses in Lock and Election with UNKNOWN only; here the same text has its code of section 9",
        matches.natural_code,
    ),
    Known(
        "not-enough-started",
        "G-58",
        "etcd answers this refusal with UNKNOWN; the documented code is FAILED_PRECONDITION",
        matches.not_enough_started,
    ),
    Known(
        "promotion-by-a-follower",
        "CL-44",
        "a follower of such an etcd asks the leader again and again about a member that cannot be promoted",
        matches.promotion_by_a_follower,
        before=(3, 6),
    ),
    Known(
        "lost-member-change",
        "CL-23",
        "a change of members right after another one is lost in etcd, about every twelfth: the call waits in vain",
        matches.lost_member_change,
        diverges=matches.always,
    ),
    Known(
        "rights-on-no-keys",
        "AU-70",
        "whether etcd grants a request on an interval without keys depends on how its tree of grants is balanced",
        matches.rights_on_no_keys,
        diverges=matches.raftkv_wrote,
    ),
    Known(
        "watch-without-end",
        "AU-71",
        "of a watcher without an end such an etcd asks only for the right to its first key",
        matches.watch_without_end,
        before=(3, 6),
        diverges=matches.always,
    ),
    Known(
        "granted-twice",
        "AU-32",
        "etcd may keep a permission twice if the role has another one with the same key and another end",
        matches.granted_twice,
    ),
    Known(
        "stored-root-role",
        "AU-34",
        "such an etcd shows a stored role of the name root as it is stored: with no permission",
        matches.stored_root_role,
        before=(3, 6),
    ),
    Known(
        "refused-watch",
        "W-23",
        "such an etcd refuses a watcher for want of rights with the id that was asked for and always with one reason",
        matches.refused_watch,
        before=(3, 6),
    ),
    Known(
        "downgrade-cancel",
        "MT-56",
        "to cancel when there is nothing to cancel is an error before 3.6",
        matches.nothing_to_cancel,
        before=(3, 6),
    ),
    Known(
        "hash-at-the-compacted",
        "MT-20",
        "such an etcd has no hash of the compacted revision itself",
        matches.hash_at_the_compacted,
        before=(3, 6),
    ),
    Known(
        "sort-option",
        "RNG-01",
        "etcd before 3.6 takes unknown sort orders and targets for something",
        matches.unknown_sort,
        before=(3, 6),
    ),
    Known(
        "negative-watch-id",
        "W-07",
        "ids below 0 are refused like used ones: -1 means no watcher in responses",
        matches.negative_watch_id,
    ),
    Known(
        "hash-of-a-compaction",
        "MT-20",
        "etcd answers a revision at or below its last compactions, 0 too, with the hash it noted at a compaction",
        matches.hash_of_a_compaction,
    ),
    Known(
        "empty-range-end",
        "KV-21",
        "a range_end that is sent although it is empty is none; to etcd it means all keys from here on",
        matches.empty_range_end,
    ),
    Known(
        "negative-range-in-txn",
        "TXN-45",
        "a revision below 0 means the current one in a transaction as it does outside",
        matches.negative_revision_in_txn,
        diverges=matches.raftkv_wrote,
    ),
)


# --- what is told but lost --------------------------------------------------------------------------------------------

TOMBSTONES_KEPT: Final = (3, 5, 16)
"""From here on etcd keeps a tombstone at the compacted revision itself (CMP-07)."""
TOMBSTONE_ROW: Final = Known(
    "lost-tombstone",
    "CMP-07",
    "such an etcd drops a tombstone at the compacted revision itself, so a watcher from there does not tell it",
    lambda _finding, _difference: False,
    before=TOMBSTONES_KEPT,
)
"""Applied to events before they are compared, by `without_lost_tombstones`."""


def without_lost_tombstones(etcd: list[Any], raftkv: list[Any], compacted: int, version: Version) -> list[Any]:
    """raftkv's events without the deletes at the compacted revision that an old etcd has dropped (CMP-07)."""
    if version >= TOMBSTONES_KEPT or len(etcd) >= len(raftkv):
        return raftkv
    return [event for event in raftkv if not (event.type == 1 and event.kv.mod_revision == compacted)]


# --- what is left out or said otherwise -------------------------------------------------------------------------------

TOKENS_IGNORED: Final = (3, 6)
"""From here on a token is not looked at while authentication is off (AU-13)."""
TOKEN_ROW: Final = Avoided(
    "token-while-off",
    "AU-13",
    "such an etcd refuses tokens that it does not know also while authentication is off: calls are made without",
    lambda _op, _moment: False,
    before=TOKENS_IGNORED,
)
"""Applied by the runner to calls with a token: only the token is left out."""

NEWLY_GUARDED: Final = frozenset(
    {
        "KV.Compact", "Lease.LeaseGrant", "Lease.LeaseRevoke", "Lease.LeaseTimeToLive", "Lease.LeaseLeases",
        "Cluster.MemberList", "Maintenance.Alarm", "Maintenance.Status", "Maintenance.Hash", "Maintenance.HashKV",
        "Maintenance.Defragment", "Maintenance.MoveLeader", "Maintenance.Downgrade",
    }
)  # fmt: skip
"""Calls whose rights an etcd before 3.6 asks for less, or later."""
GUARDED: Final = (3, 6)
GUARD_ROW: Final = Avoided(
    "calls-open-to-all",
    "AU-73",
    "such an etcd asks for no rights, or fewer: the call is made as root instead",
    lambda _op, _moment: False,
    before=GUARDED,
)
"""Applied by the runner while authentication is on."""

AVOIDED: Final = (
    TOKEN_ROW,
    GUARD_ROW,
    Avoided(
        "grant-of-nothing",
        "AU-32",
        "such an etcd grants permissions on intervals that are empty or have no key",
        matches.grants_empty_interval,
        before=(3, 6),
    ),
    Avoided(
        "open-ended-delete",
        "TXN-22",
        "etcd ends if a put must keep what a delete without an end took away before it",
        matches.open_ended_delete_with_keeping_put,
    ),
    Avoided(
        "hashed-password",
        "AU-20",
        "UserAdd of etcd does not look at hashedPassword: the account would have the empty password there",
        matches.adds_hashed_password,
    ),
    Avoided(
        "rights-under-alarm",
        "AU-73",
        "while there is an alarm such an etcd lets everybody write: alarms and authentication are kept apart",
        matches.alarm_with_rights,
        before=(3, 6),
    ),
    Avoided(
        "txn-with-unreadable-range",
        "TXN-47",
        "in clusters of such an etcd only the asked member refuses it: the others write, and the members differ",
        matches.writes_and_reads_what_cannot_be_read,
        before=(3, 6),
        clusters_only=True,
    ),
    Avoided("alarm-action", "AL-01", "an unknown alarm action ends the etcd process", matches.unknown_alarm_action),
    Avoided(
        "sort-target",
        "RNG-01",
        "an unknown sort target ends such an etcd process",
        matches.unknown_target,
        before=(3, 6),
    ),
    Avoided(
        "sort-in-txn",
        "RNG-01",
        "such an etcd commits a transaction with an unknown sort option, or ends",
        matches.unknown_sort_in_txn,
        before=(3, 6),
    ),
    Avoided(
        "watch-below-zero",
        "W-22",
        "such an etcd makes a watcher that starts below 0, which takes an id",
        matches.starts_below_zero,
        before=(3, 6),
    ),
)

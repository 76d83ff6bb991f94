"""What a script is: operations as plain data, with stand-ins for what is only known while it runs.

Owns the operations and how they are printed. Knows no server: the same script is played on any pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

Fields = dict[str, Any]
"""Fields of a request by name: values, nested dicts and lists of them, and stand-ins."""


class Rev(NamedTuple):
    """A revision: `offset` from where the script began ("start"), from the current or from the compacted one."""

    base: str
    offset: int

    def __repr__(self) -> str:
        return f"<{self.base}{self.offset:+d}>" if self.offset else f"<{self.base}>"


class GrantedLease(NamedTuple):
    """The id of the script's n-th lease whose id the server chose; 0x7777 if there are not so many."""

    number: int

    def __repr__(self) -> str:
        return f"<lease {self.number}>"


class LeaseKey(NamedTuple):
    """`name/` and the id of a lease in hexadecimal: the key of a lock or a campaign (LK-01)."""

    name: bytes
    lease: Any

    def __repr__(self) -> str:
        return f"<{self.name!r}/{self.lease!r}>"


class LeaderRev(NamedTuple):
    """The create revision with which the campaign for this name, with this lease, was last won; 0 if it was not."""

    name: bytes
    lease: Any

    def __repr__(self) -> str:
        return f"<revision of {self.name!r}/{self.lease!r}>"


class MemberId(NamedTuple):
    """The id of a member by rank: 0 leads."""

    rank: int

    def __repr__(self) -> str:
        return f"<member {self.rank}>"


class AddedMember(NamedTuple):
    """The id of the n-th member that the script added."""

    number: int

    def __repr__(self) -> str:
        return f"<added member {self.number}>"


class PeerUrl(NamedTuple):
    """The peer URL of a member by rank."""

    rank: int

    def __repr__(self) -> str:
        return f"<peer URL {self.rank}>"


class ClusterVersion(NamedTuple):
    """major.minor of the cluster version with so many added to the minor."""

    minor: int

    def __repr__(self) -> str:
        return f"<cluster version {self.minor:+d}>"


class Blob(NamedTuple):
    """Bytes too many to print: one letter, so many times."""

    size: int
    letter: bytes = b"x"

    def __repr__(self) -> str:
        return f"<{self.size} x {self.letter!r}>"


# --- operations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call. `method` is "KV.Put"; `tail` is appended to the encoded request."""

    method: str
    fields: Fields = field(default_factory=dict)
    member: int = 0
    user: str = ""
    tail: bytes = b""
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class WatchOpen:
    """Open the watch stream of this slot; the one that is open there is closed."""

    slot: int
    member: int = 0
    user: str = ""


@dataclass(frozen=True, slots=True)
class WatchCreate:
    slot: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class WatchCancel:
    """`settled`: only when everything before it has been delivered; otherwise it races with the deliveries."""

    slot: int
    watch_id: int
    settled: bool = True


@dataclass(frozen=True, slots=True)
class WatchProgress:
    slot: int


@dataclass(frozen=True, slots=True)
class WatchEmpty:
    """A WatchRequest in which nothing is set (W-33)."""

    slot: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Write to a key of every watcher and wait until they have all told it; compare what they told."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """One stream, one request for each of these leases, half-close."""

    leases: tuple[Any, ...]
    member: int = 0
    user: str = ""


@dataclass(frozen=True, slots=True)
class Expire:
    """Grant the lease with the least time, put these keys with it, wait until both servers have ended it."""

    lease: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class MoveLeader:
    """Make the member of this rank the leader."""

    rank: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Read a whole snapshot; its form is judged, its bytes are not compared."""

    member: int = 0
    user: str = ""


@dataclass(frozen=True, slots=True)
class Observe:
    """Open an Observe stream where somebody leads, read what it says; then proclaim this and read what it says next."""

    name: bytes
    proclaim: Fields | None = None
    member: int = 0
    user: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Lock.Lock or Election.Campaign. If another holds the name, it waits, is seen so, and the holder's key goes."""

    method: str
    fields: Fields
    member: int = 0
    user: str = ""


Op = (
    Call
    | WatchOpen
    | WatchCreate
    | WatchCancel
    | WatchProgress
    | WatchEmpty
    | Settle
    | KeepAlive
    | Expire
    | MoveLeader
    | Snapshot
    | Observe
    | Claim
)


@dataclass(frozen=True, slots=True)
class Script:
    """`compact_at_end`: whether the clean-up also drops the history, or the next script sees it."""

    seed: int
    ops: tuple[Op, ...]
    compact_at_end: bool = True


# --- printing ---------------------------------------------------------------------------------------------------------

_SHOWN_BYTES: Final = 80


def describe(op: Op) -> str:
    """One line: the operation as it could be typed."""
    if isinstance(op, Call):
        words = [_fields_text(op.fields)] if op.fields else []
        words += [f"raw_tail={op.tail!r}"] if op.tail else []
        text = f"{op.method}({', '.join(words)})"
        text += f" as {op.user}" if op.user else ""
        text += f" with {dict(op.metadata)}" if op.metadata else ""
        return text + (f" on member {op.member}" if op.member else "")
    names = [name for name in type(op).__slots__ if getattr(op, name) not in ("", ())]
    return f"{type(op).__name__}({', '.join(f'{name}={_value_text(getattr(op, name))}' for name in names)})"


def _fields_text(fields: Fields) -> str:
    return ", ".join(f"{name}={_value_text(value)}" for name, value in fields.items())


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + _fields_text(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value_text(each) for each in value) + "]"
    if isinstance(value, bytes) and len(value) > _SHOWN_BYTES:
        return f"<{len(value)} bytes {value[:16]!r}...{value[-4:]!r}>"
    return repr(value)

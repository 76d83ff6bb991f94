"""From a domain error to the exact code and text that clients know (contract section 9).

The one table. Clients match on the text to the letter (ER-01), so texts are data here and are written nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv import apply, backend, lease, membership, mvcc
from raftkv.rpc.codes import Code
from raftkv.server import errors as node

if TYPE_CHECKING:
    from raftkv.rpc.service import Call


class Status(NamedTuple):
    code: Code
    text: str


EMPTY_KEY: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPS: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DUPLICATE_KEY: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")
COMPACTED: Final = Status(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION: Final = Status(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NO_SPACE: Final = Status(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LEASE_NOT_FOUND: Final = Status(Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE: Final = Status(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
MEMBER_NOT_FOUND: Final = Status(Code.NOT_FOUND, "etcdserver: member not found")
MEMBER_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
PEER_URL_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
REQUEST_TOO_LARGE: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: request is too large")
TOO_MANY_REQUESTS: Final = Status(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
NO_LEADER: Final = Status(Code.UNAVAILABLE, "etcdserver: no leader")
LEADER_CHANGED: Final = Status(Code.UNAVAILABLE, "etcdserver: leader changed")
STOPPED: Final = Status(Code.UNAVAILABLE, "etcdserver: server stopped")
TIMED_OUT: Final = Status(Code.UNAVAILABLE, "etcdserver: request timed out")
CORRUPT: Final = Status(Code.DATA_LOSS, "etcdserver: corrupt cluster")
BAD_LEADER_TRANSFEREE: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
NOT_PRIMARY_LESSOR: Final = Status(Code.UNKNOWN, "not a primary lessor")
PROPOSAL_DROPPED: Final = Status(Code.UNKNOWN, "raft proposal dropped")

_BY_TYPE: Final[dict[type[Exception], Status]] = {
    apply.NoSpaceAlarm: NO_SPACE,
    apply.CorruptAlarm: CORRUPT,
    mvcc.KeyNotFoundError: KEY_NOT_FOUND,
    mvcc.CompactedError: COMPACTED,
    mvcc.FutureRevisionError: FUTURE_REVISION,
    lease.LeaseNotFound: LEASE_NOT_FOUND,
    lease.LeaseExists: LEASE_EXISTS,
    lease.LeaseTTLTooLarge: LEASE_TTL_TOO_LARGE,
    membership.MemberNotFound: MEMBER_NOT_FOUND,
    membership.MemberRemoved: MEMBER_NOT_FOUND,
    membership.MemberExists: MEMBER_EXISTS,
    membership.PeerURLExists: PEER_URL_EXISTS,
    backend.TooManyPinsError: TOO_MANY_REQUESTS,
    backend.BackendError: STOPPED,
    node.RequestTimedOut: TIMED_OUT,
    node.TooManyRequests: TOO_MANY_REQUESTS,
    node.LeaderChanged: LEADER_CHANGED,
    node.ProposalLost: PROPOSAL_DROPPED,
    node.NoLeader: NO_LEADER,
    node.Stopped: STOPPED,
}


def status_of(error: Exception) -> Status:
    """The row of the table; an error that has none goes out as UNKNOWN with its own text (G-57)."""
    return _BY_TYPE.get(type(error)) or Status(Code.UNKNOWN, str(error) or type(error).__name__)


def refuse(call: Call, status: Status) -> None:
    call.fail(status.code, status.text)

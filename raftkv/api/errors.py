"""From a domain error to the exact code and text that clients know (contract section 9).

The one table. Clients match on the text to the letter (ER-01), so texts are data here and are written nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv import apply, auth, backend, lease, membership, mvcc
from raftkv.rpc.codes import Code
from raftkv.rpc.service import TEXT_DEADLINE
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
INVALID_CLIENT_API_VERSION: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: invalid client api version")
COMPACTED: Final = Status(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION: Final = Status(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NO_SPACE: Final = Status(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LEASE_NOT_FOUND: Final = Status(Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE: Final = Status(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
MEMBER_NOT_FOUND: Final = Status(Code.NOT_FOUND, "etcdserver: member not found")
MEMBER_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
PEER_URL_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
MEMBER_NOT_LEARNER: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
LEARNER_NOT_READY: Final = Status(
    Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member which is in sync with leader"
)
TOO_MANY_LEARNERS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")
BAD_URLS: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
NOT_ENOUGH_STARTED: Final = Status(
    Code.FAILED_PRECONDITION, "etcdserver: re-configuration failed due to not enough started members"
)
UNHEALTHY: Final = Status(Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
NOT_FOR_LEARNERS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")
REQUEST_TOO_LARGE: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: request is too large")
TOO_MANY_REQUESTS: Final = Status(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
USER_EMPTY: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
USER_NOT_FOUND: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: user name not found")
USER_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: user name already exists")
ROLE_EMPTY: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
ROLE_NOT_FOUND: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: role name not found")
ROLE_EXISTS: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: role name already exists")
ROLE_NOT_GRANTED: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
PERMISSION_NOT_GIVEN: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: permission not given")
PERMISSION_NOT_GRANTED: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")
PERMISSION_DENIED: Final = Status(Code.PERMISSION_DENIED, "etcdserver: permission denied")
ROOT_USER_NOT_EXIST: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")
ROOT_ROLE_NOT_EXIST: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role")
INVALID_AUTH_MANAGEMENT: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: invalid auth management")
AUTH_NOT_ENABLED: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
AUTH_FAILED: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
AUTH_OLD_REVISION: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
INVALID_AUTH_TOKEN: Final = Status(Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
PASSWORDLESS_USER: Final = Status(Code.UNKNOWN, "auth: authentication failed, password was given for no password user")
NO_LEADER: Final = Status(Code.UNAVAILABLE, "etcdserver: no leader")
LEADER_CHANGED: Final = Status(Code.UNAVAILABLE, "etcdserver: leader changed")
STOPPED: Final = Status(Code.UNAVAILABLE, "etcdserver: server stopped")
TIMED_OUT: Final = Status(Code.UNAVAILABLE, "etcdserver: request timed out")
TIMED_OUT_LEADER_FAILED: Final = Status(
    Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"
)
TIMED_OUT_CONNECTION_LOST: Final = Status(
    Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"
)
TIMED_OUT_APPLY_LAGS: Final = Status(
    Code.UNAVAILABLE, "etcdserver: request timed out, waiting for the applied index took too long"
)
NO_LEADER_IN_TIME: Final = Status(Code.DEADLINE_EXCEEDED, TEXT_DEADLINE)
NOT_LEADER: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: not leader")
TRANSFER_TOO_SLOW: Final = Status(Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long")
CORRUPT: Final = Status(Code.DATA_LOSS, "etcdserver: corrupt cluster")
BAD_LEADER_TRANSFEREE: Final = Status(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
WRONG_DOWNGRADE_FORMAT: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")
INVALID_DOWNGRADE_TARGET: Final = Status(Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")
CLUSTER_VERSION_UNKNOWN: Final = Status(
    Code.FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade"
)
UNKNOWN_METHOD: Final = Status(Code.UNKNOWN, "etcdserver: unknown method")
NOT_PRIMARY_LESSOR: Final = Status(Code.UNKNOWN, "not a primary lessor")
PROPOSAL_DROPPED: Final = Status(Code.UNKNOWN, "raft proposal dropped")
SESSION_EXPIRED: Final = Status(Code.UNKNOWN, "mutex: session is expired")
ELECTION_NOT_LEADER: Final = Status(Code.UNKNOWN, "election: not leader")
ELECTION_NO_LEADER: Final = Status(Code.UNKNOWN, "election: no leader")
LEADER_KEY_MISSING: Final = Status(Code.UNKNOWN, '"leader" field must be provided')

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
    membership.MemberNotLearner: MEMBER_NOT_LEARNER,
    membership.LearnerNotReady: LEARNER_NOT_READY,
    membership.TooManyLearners: TOO_MANY_LEARNERS,
    membership.NotEnoughStarted: NOT_ENOUGH_STARTED,
    membership.ImpossibleChange: NOT_ENOUGH_STARTED,
    membership.UnhealthyCluster: UNHEALTHY,
    auth.UserEmpty: USER_EMPTY,
    auth.UserNotFound: USER_NOT_FOUND,
    auth.UserExists: USER_EXISTS,
    auth.RoleEmpty: ROLE_EMPTY,
    auth.RoleNotFound: ROLE_NOT_FOUND,
    auth.RoleExists: ROLE_EXISTS,
    auth.RoleNotGranted: ROLE_NOT_GRANTED,
    auth.PermissionNotGiven: PERMISSION_NOT_GIVEN,
    auth.PermissionNotGranted: PERMISSION_NOT_GRANTED,
    auth.PermissionDenied: PERMISSION_DENIED,
    auth.RootUserNotExist: ROOT_USER_NOT_EXIST,
    auth.RootRoleNotExist: ROOT_ROLE_NOT_EXIST,
    auth.InvalidAuthManagement: INVALID_AUTH_MANAGEMENT,
    auth.AuthNotEnabled: AUTH_NOT_ENABLED,
    auth.AuthFailed: AUTH_FAILED,
    auth.AuthOldRevision: AUTH_OLD_REVISION,
    auth.InvalidAuthToken: INVALID_AUTH_TOKEN,
    auth.PasswordlessUser: PASSWORDLESS_USER,
    backend.TooManyPinsError: TOO_MANY_REQUESTS,
    backend.BackendError: STOPPED,
    node.RequestTimedOut: TIMED_OUT,
    node.TimedOutByLeaderFailure: TIMED_OUT_LEADER_FAILED,
    node.TimedOutByConnectionLoss: TIMED_OUT_CONNECTION_LOST,
    node.ApplyLags: TIMED_OUT_APPLY_LAGS,
    node.NoLeaderInTime: NO_LEADER_IN_TIME,
    node.TooManyRequests: TOO_MANY_REQUESTS,
    node.LeaderChanged: LEADER_CHANGED,
    node.ProposalLost: PROPOSAL_DROPPED,
    node.NoLeader: NO_LEADER,
    node.NotLeader: NOT_LEADER,
    node.BadTransferee: BAD_LEADER_TRANSFEREE,
    node.TransferTooSlow: TRANSFER_TOO_SLOW,
    node.NotPrimaryLessor: NOT_PRIMARY_LESSOR,
    node.Stopped: STOPPED,
}


def status_of(error: Exception) -> Status:
    """The row of the table; an error that has none goes out as UNKNOWN with its own text (G-57).

    What the leader answered to a forwarded call has been through this table there.
    """
    if isinstance(error, node.Forwarded):
        return Status(error.code, error.text)
    return _BY_TYPE.get(type(error)) or Status(Code.UNKNOWN, str(error) or type(error).__name__)


def refuse(call: Call, status: Status) -> None:
    call.fail(status.code, status.text)

"""Every row of the contract's error table (section 9), and where the tests make a server say it.

Owns the list alone: `test_contract_errors.py` makes the rows that a client can bring about, on a server that runs;
`test_api_error_rows.py` sends the errors of the others through raftkv's own table, and sees to it that no row is left
out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import grpc

Code = grpc.StatusCode

BY_CALL: Final = "by call"
"""A client brings it about: test_contract_errors.py."""
BY_TABLE: Final = "by table"
"""It takes bad luck or a bad moment: test_api_error_rows.py."""


class Row(NamedTuple):
    name: str
    """In the Go client's package of errors."""
    code: grpc.StatusCode
    text: str
    made: str
    """BY_CALL, BY_TABLE, or why raftkv never says it."""


ROWS: Final = (
    Row("ErrGRPCEmptyKey", Code.INVALID_ARGUMENT, "etcdserver: key is not provided", BY_CALL),
    Row("ErrGRPCKeyNotFound", Code.INVALID_ARGUMENT, "etcdserver: key not found", BY_CALL),
    Row("ErrGRPCValueProvided", Code.INVALID_ARGUMENT, "etcdserver: value is provided", BY_CALL),
    Row("ErrGRPCLeaseProvided", Code.INVALID_ARGUMENT, "etcdserver: lease is provided", BY_CALL),
    Row("ErrGRPCTooManyOps", Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", BY_CALL),
    Row("ErrGRPCDuplicateKey", Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", BY_CALL),
    Row("ErrGRPCInvalidClientAPIVersion", Code.INVALID_ARGUMENT, "etcdserver: invalid client api version", BY_CALL),
    Row("ErrGRPCInvalidSortOption", Code.INVALID_ARGUMENT, "etcdserver: invalid sort option", BY_CALL),
    Row("ErrGRPCCompacted", Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", BY_CALL),
    Row("ErrGRPCFutureRev", Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", BY_CALL),
    Row("ErrGRPCNoSpace", Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", BY_CALL),
    Row("ErrGRPCLeaseNotFound", Code.NOT_FOUND, "etcdserver: requested lease not found", BY_CALL),
    Row("ErrGRPCLeaseExist", Code.FAILED_PRECONDITION, "etcdserver: lease already exists", BY_CALL),
    Row("ErrGRPCLeaseTTLTooLarge", Code.OUT_OF_RANGE, "etcdserver: too large lease TTL", BY_CALL),
    Row(
        "ErrGRPCWatchCanceled",
        Code.CANCELLED,
        "etcdserver: watch canceled",
        "a server would have to cancel a stream of its own accord; raftkv ends streams with UNAVAILABLE (ER-03)",
    ),
    Row("ErrGRPCMemberExist", Code.FAILED_PRECONDITION, "etcdserver: member ID already exist", BY_TABLE),
    Row("ErrGRPCPeerURLExist", Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists", BY_CALL),
    Row(
        "ErrGRPCMemberNotEnoughStarted",
        Code.FAILED_PRECONDITION,
        "etcdserver: re-configuration failed due to not enough started members",
        BY_CALL,
    ),
    Row("ErrGRPCMemberBadURLs", Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid", BY_CALL),
    Row("ErrGRPCMemberNotFound", Code.NOT_FOUND, "etcdserver: member not found", BY_CALL),
    Row("ErrGRPCMemberNotLearner", Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member", BY_CALL),
    Row(
        "ErrGRPCLearnerNotReady",
        Code.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
        BY_CALL,
    ),
    Row("ErrGRPCTooManyLearners", Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster", BY_CALL),
    Row(
        "ErrGRPCClusterIDMismatch",
        Code.FAILED_PRECONDITION,
        "etcdserver: cluster ID mismatch",
        "said between members only, over HTTP with status 412 (AL-13)",
    ),
    Row("ErrGRPCRequestTooLarge", Code.INVALID_ARGUMENT, "etcdserver: request is too large", BY_CALL),
    Row("ErrGRPCRequestTooManyRequests", Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", BY_TABLE),
    Row("ErrGRPCRootUserNotExist", Code.FAILED_PRECONDITION, "etcdserver: root user does not exist", BY_CALL),
    Row("ErrGRPCRootRoleNotExist", Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role", BY_CALL),
    Row("ErrGRPCUserAlreadyExist", Code.FAILED_PRECONDITION, "etcdserver: user name already exists", BY_CALL),
    Row("ErrGRPCUserEmpty", Code.INVALID_ARGUMENT, "etcdserver: user name is empty", BY_CALL),
    Row("ErrGRPCUserNotFound", Code.FAILED_PRECONDITION, "etcdserver: user name not found", BY_CALL),
    Row("ErrGRPCRoleAlreadyExist", Code.FAILED_PRECONDITION, "etcdserver: role name already exists", BY_CALL),
    Row("ErrGRPCRoleNotFound", Code.FAILED_PRECONDITION, "etcdserver: role name not found", BY_CALL),
    Row("ErrGRPCRoleEmpty", Code.INVALID_ARGUMENT, "etcdserver: role name is empty", BY_CALL),
    Row(
        "ErrGRPCAuthFailed",
        Code.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        BY_CALL,
    ),
    Row("ErrGRPCPermissionNotGiven", Code.INVALID_ARGUMENT, "etcdserver: permission not given", BY_CALL),
    Row("ErrGRPCPermissionDenied", Code.PERMISSION_DENIED, "etcdserver: permission denied", BY_CALL),
    Row("ErrGRPCRoleNotGranted", Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user", BY_CALL),
    Row(
        "ErrGRPCPermissionNotGranted",
        Code.FAILED_PRECONDITION,
        "etcdserver: permission is not granted to the role",
        BY_CALL,
    ),
    Row("ErrGRPCAuthNotEnabled", Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", BY_CALL),
    Row("ErrGRPCInvalidAuthToken", Code.UNAUTHENTICATED, "etcdserver: invalid auth token", BY_CALL),
    Row("ErrGRPCInvalidAuthMgmt", Code.INVALID_ARGUMENT, "etcdserver: invalid auth management", BY_CALL),
    Row("ErrGRPCAuthOldRevision", Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", BY_CALL),
    Row("ErrGRPCNoLeader", Code.UNAVAILABLE, "etcdserver: no leader", BY_CALL),
    Row("ErrGRPCNotLeader", Code.FAILED_PRECONDITION, "etcdserver: not leader", BY_CALL),
    Row("ErrGRPCLeaderChanged", Code.UNAVAILABLE, "etcdserver: leader changed", BY_TABLE),
    Row(
        "ErrGRPCNotCapable",
        Code.FAILED_PRECONDITION,
        "etcdserver: not capable",
        "a member of an older cluster version would say so; raftkv has one version, and all of its calls",
    ),
    Row("ErrGRPCStopped", Code.UNAVAILABLE, "etcdserver: server stopped", BY_TABLE),
    Row("ErrGRPCTimeout", Code.UNAVAILABLE, "etcdserver: request timed out", BY_TABLE),
    Row(
        "ErrGRPCTimeoutDueToLeaderFail",
        Code.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
        BY_TABLE,
    ),
    Row(
        "ErrGRPCTimeoutDueToConnectionLost",
        Code.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to connection lost",
        BY_TABLE,
    ),
    Row(
        "ErrGRPCTimeoutWaitAppliedIndex",
        Code.UNAVAILABLE,
        "etcdserver: request timed out, waiting for the applied index took too long",
        BY_TABLE,
    ),
    Row("ErrGRPCUnhealthy", Code.UNAVAILABLE, "etcdserver: unhealthy cluster", BY_CALL),
    Row("ErrGRPCCorrupt", Code.DATA_LOSS, "etcdserver: corrupt cluster", BY_CALL),
    Row(
        "ErrGRPCNotSupportedForLearner", Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner", BY_CALL
    ),
    Row("ErrGRPCBadLeaderTransferee", Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee", BY_CALL),
    Row(
        "ErrGRPCWrongDowngradeVersionFormat",
        Code.INVALID_ARGUMENT,
        "etcdserver: wrong downgrade target version format",
        BY_CALL,
    ),
    Row(
        "ErrGRPCInvalidDowngradeTargetVersion",
        Code.INVALID_ARGUMENT,
        "etcdserver: invalid downgrade target version",
        BY_CALL,
    ),
    Row(
        "ErrGRPCClusterVersionUnavailable",
        Code.FAILED_PRECONDITION,
        "etcdserver: cluster version not found during downgrade",
        BY_TABLE,
    ),
    Row(
        "ErrGRPCDowngradeInProcess",
        Code.FAILED_PRECONDITION,
        "etcdserver: cluster has a downgrade job in progress",
        "no downgrade can be under way (MT-58)",
    ),
    Row(
        "ErrGRPCNoInflightDowngrade",
        Code.FAILED_PRECONDITION,
        "etcdserver: no inflight downgrade job",
        "cancelling without a job is OK as of 3.6 (MT-56)",
    ),
    Row(
        "ErrGRPCCanceled",
        Code.CANCELLED,
        "etcdserver: request canceled",
        "a text of the Go client; on the wire it is `context canceled` (ER-04)",
    ),
    Row(
        "ErrGRPCDeadlineExceeded",
        Code.DEADLINE_EXCEEDED,
        "etcdserver: context deadline exceeded",
        "a text of the Go client; on the wire it is `context deadline exceeded` (ER-04)",
    ),
)

BY_NAME: Final = {row.name: row for row in ROWS}

"""Codes and texts that clients match on to the letter (contract section 9, ER-01)."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import FakeCall

from raftkv import apply, auth, lease, membership, mvcc
from raftkv.api import errors
from raftkv.api.errors import Status, refuse, status_of
from raftkv.rpc.codes import Code
from raftkv.server import errors as node

TABLE = {
    "EMPTY_KEY": (3, "etcdserver: key is not provided"),
    "KEY_NOT_FOUND": (3, "etcdserver: key not found"),
    "VALUE_PROVIDED": (3, "etcdserver: value is provided"),
    "LEASE_PROVIDED": (3, "etcdserver: lease is provided"),
    "TOO_MANY_OPS": (3, "etcdserver: too many operations in txn request"),
    "DUPLICATE_KEY": (3, "etcdserver: duplicate key given in txn request"),
    "INVALID_SORT_OPTION": (3, "etcdserver: invalid sort option"),
    "INVALID_CLIENT_API_VERSION": (3, "etcdserver: invalid client api version"),
    "COMPACTED": (11, "etcdserver: mvcc: required revision has been compacted"),
    "FUTURE_REVISION": (11, "etcdserver: mvcc: required revision is a future revision"),
    "NO_SPACE": (8, "etcdserver: mvcc: database space exceeded"),
    "LEASE_NOT_FOUND": (5, "etcdserver: requested lease not found"),
    "LEASE_EXISTS": (9, "etcdserver: lease already exists"),
    "LEASE_TTL_TOO_LARGE": (11, "etcdserver: too large lease TTL"),
    "MEMBER_NOT_FOUND": (5, "etcdserver: member not found"),
    "MEMBER_EXISTS": (9, "etcdserver: member ID already exist"),
    "PEER_URL_EXISTS": (9, "etcdserver: Peer URLs already exists"),
    "MEMBER_NOT_LEARNER": (9, "etcdserver: can only promote a learner member"),
    "LEARNER_NOT_READY": (9, "etcdserver: can only promote a learner member which is in sync with leader"),
    "TOO_MANY_LEARNERS": (9, "etcdserver: too many learner members in cluster"),
    "BAD_URLS": (3, "etcdserver: given member URLs are invalid"),
    "NOT_ENOUGH_STARTED": (9, "etcdserver: re-configuration failed due to not enough started members"),
    "UNHEALTHY": (14, "etcdserver: unhealthy cluster"),
    "NOT_FOR_LEARNERS": (9, "etcdserver: rpc not supported for learner"),
    "REQUEST_TOO_LARGE": (3, "etcdserver: request is too large"),
    "TOO_MANY_REQUESTS": (8, "etcdserver: too many requests"),
    "USER_EMPTY": (3, "etcdserver: user name is empty"),
    "USER_NOT_FOUND": (9, "etcdserver: user name not found"),
    "USER_EXISTS": (9, "etcdserver: user name already exists"),
    "ROLE_EMPTY": (3, "etcdserver: role name is empty"),
    "ROLE_NOT_FOUND": (9, "etcdserver: role name not found"),
    "ROLE_EXISTS": (9, "etcdserver: role name already exists"),
    "ROLE_NOT_GRANTED": (9, "etcdserver: role is not granted to the user"),
    "PERMISSION_NOT_GIVEN": (3, "etcdserver: permission not given"),
    "PERMISSION_NOT_GRANTED": (9, "etcdserver: permission is not granted to the role"),
    "PERMISSION_DENIED": (7, "etcdserver: permission denied"),
    "ROOT_USER_NOT_EXIST": (9, "etcdserver: root user does not exist"),
    "ROOT_ROLE_NOT_EXIST": (9, "etcdserver: root user does not have root role"),
    "INVALID_AUTH_MANAGEMENT": (3, "etcdserver: invalid auth management"),
    "AUTH_NOT_ENABLED": (9, "etcdserver: authentication is not enabled"),
    "AUTH_FAILED": (3, "etcdserver: authentication failed, invalid user ID or password"),
    "AUTH_OLD_REVISION": (3, "etcdserver: revision of auth store is old"),
    "INVALID_AUTH_TOKEN": (16, "etcdserver: invalid auth token"),
    "PASSWORDLESS_USER": (2, "auth: authentication failed, password was given for no password user"),
    "NO_LEADER": (14, "etcdserver: no leader"),
    "LEADER_CHANGED": (14, "etcdserver: leader changed"),
    "STOPPED": (14, "etcdserver: server stopped"),
    "TIMED_OUT": (14, "etcdserver: request timed out"),
    "TIMED_OUT_LEADER_FAILED": (14, "etcdserver: request timed out, possibly due to previous leader failure"),
    "TIMED_OUT_CONNECTION_LOST": (14, "etcdserver: request timed out, possibly due to connection lost"),
    "TIMED_OUT_APPLY_LAGS": (14, "etcdserver: request timed out, waiting for the applied index took too long"),
    "NO_LEADER_IN_TIME": (4, "context deadline exceeded"),
    "NOT_LEADER": (9, "etcdserver: not leader"),
    "TRANSFER_TOO_SLOW": (2, "etcdserver: request timed out, leader transfer took too long"),
    "CORRUPT": (15, "etcdserver: corrupt cluster"),
    "BAD_LEADER_TRANSFEREE": (9, "etcdserver: bad leader transferee"),
    "WRONG_DOWNGRADE_FORMAT": (3, "etcdserver: wrong downgrade target version format"),
    "INVALID_DOWNGRADE_TARGET": (3, "etcdserver: invalid downgrade target version"),
    "CLUSTER_VERSION_UNKNOWN": (9, "etcdserver: cluster version not found during downgrade"),
    "UNKNOWN_METHOD": (2, "etcdserver: unknown method"),
    "NOT_PRIMARY_LESSOR": (2, "not a primary lessor"),
    "PROPOSAL_DROPPED": (2, "raft proposal dropped"),
    "SESSION_EXPIRED": (2, "mutex: session is expired"),
    "ELECTION_NOT_LEADER": (2, "election: not leader"),
    "ELECTION_NO_LEADER": (2, "election: no leader"),
    "LEADER_KEY_MISSING": (2, '"leader" field must be provided'),
}

BY_TYPE: dict[type[Exception], str] = {
    apply.NoSpaceAlarm: "NO_SPACE",
    apply.CorruptAlarm: "CORRUPT",
    mvcc.KeyNotFoundError: "KEY_NOT_FOUND",
    mvcc.CompactedError: "COMPACTED",
    mvcc.FutureRevisionError: "FUTURE_REVISION",
    lease.LeaseNotFound: "LEASE_NOT_FOUND",
    lease.LeaseExists: "LEASE_EXISTS",
    lease.LeaseTTLTooLarge: "LEASE_TTL_TOO_LARGE",
    membership.MemberNotFound: "MEMBER_NOT_FOUND",
    membership.MemberRemoved: "MEMBER_NOT_FOUND",
    membership.MemberExists: "MEMBER_EXISTS",
    membership.PeerURLExists: "PEER_URL_EXISTS",
    membership.MemberNotLearner: "MEMBER_NOT_LEARNER",
    membership.LearnerNotReady: "LEARNER_NOT_READY",
    membership.TooManyLearners: "TOO_MANY_LEARNERS",
    membership.NotEnoughStarted: "NOT_ENOUGH_STARTED",
    membership.ImpossibleChange: "NOT_ENOUGH_STARTED",
    membership.UnhealthyCluster: "UNHEALTHY",
    auth.UserEmpty: "USER_EMPTY",
    auth.UserNotFound: "USER_NOT_FOUND",
    auth.UserExists: "USER_EXISTS",
    auth.RoleEmpty: "ROLE_EMPTY",
    auth.RoleNotFound: "ROLE_NOT_FOUND",
    auth.RoleExists: "ROLE_EXISTS",
    auth.RoleNotGranted: "ROLE_NOT_GRANTED",
    auth.PermissionNotGiven: "PERMISSION_NOT_GIVEN",
    auth.PermissionNotGranted: "PERMISSION_NOT_GRANTED",
    auth.PermissionDenied: "PERMISSION_DENIED",
    auth.RootUserNotExist: "ROOT_USER_NOT_EXIST",
    auth.RootRoleNotExist: "ROOT_ROLE_NOT_EXIST",
    auth.InvalidAuthManagement: "INVALID_AUTH_MANAGEMENT",
    auth.AuthNotEnabled: "AUTH_NOT_ENABLED",
    auth.AuthFailed: "AUTH_FAILED",
    auth.AuthOldRevision: "AUTH_OLD_REVISION",
    auth.InvalidAuthToken: "INVALID_AUTH_TOKEN",
    auth.PasswordlessUser: "PASSWORDLESS_USER",
    node.RequestTimedOut: "TIMED_OUT",
    node.TimedOutByLeaderFailure: "TIMED_OUT_LEADER_FAILED",
    node.TimedOutByConnectionLoss: "TIMED_OUT_CONNECTION_LOST",
    node.ApplyLags: "TIMED_OUT_APPLY_LAGS",
    node.NoLeaderInTime: "NO_LEADER_IN_TIME",
    node.TooManyRequests: "TOO_MANY_REQUESTS",
    node.LeaderChanged: "LEADER_CHANGED",
    node.ProposalLost: "PROPOSAL_DROPPED",
    node.NoLeader: "NO_LEADER",
    node.NotLeader: "NOT_LEADER",
    node.BadTransferee: "BAD_LEADER_TRANSFEREE",
    node.TransferTooSlow: "TRANSFER_TOO_SLOW",
    node.NotPrimaryLessor: "NOT_PRIMARY_LESSOR",
    node.Stopped: "STOPPED",
}


def test_every_row_has_the_contracts_code_and_text() -> None:
    rows = {name: value for name, value in vars(errors).items() if isinstance(value, Status)}
    assert {name: (int(row.code), row.text) for name, row in rows.items()} == TABLE


@pytest.mark.parametrize(("kind", "name"), BY_TYPE.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_domain_error_goes_out_as_its_row(kind: type[Exception], name: str) -> None:
    error: Any = kind.__new__(kind)
    code, text = TABLE[name]
    assert status_of(error) == (code, text)


OF_NO_CLIENT = {membership.DataDirectoryChanged}
"""Only a member publishes itself, and no client waits for that."""


def test_every_result_of_applying_has_a_row() -> None:
    """What is refused at apply reaches a client through the table alone."""
    for family in (apply.ApplyError, auth.AuthError, membership.MembershipError):
        assert set(family.__subclasses__()) - OF_NO_CLIENT <= BY_TYPE.keys()


def test_every_failure_of_the_node_has_a_row() -> None:
    """But for what the leader answered, which has been through the table there."""
    kinds = {kind for kind in vars(node).values() if isinstance(kind, type) and issubclass(kind, node.NodeError)}
    assert kinds - {node.NodeError, node.Forwarded} <= BY_TYPE.keys()
    assert status_of(node.Forwarded(Code.NOT_FOUND, "as the leader put it")) == (Code.NOT_FOUND, "as the leader put it")


def test_an_error_without_a_row_shows_its_own_text() -> None:
    """G-57."""
    assert status_of(RuntimeError("what happened")) == (Code.UNKNOWN, "what happened")
    assert status_of(RuntimeError()) == (Code.UNKNOWN, "RuntimeError")


def test_refusing_ends_the_call_with_the_row() -> None:
    call: Any = FakeCall()
    refuse(call, errors.EMPTY_KEY)
    assert call.failure == (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")

"""The rows of the error table that take bad luck: the error inside goes through raftkv's table (contract section 9).

And the meta test: no row of the table is left out, and what raftkv says is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from api_support import FakeCall, FakeNode, raw
from helpers.error_rows import BY_CALL, BY_NAME, BY_TABLE, ROWS

from raftkv import membership
from raftkv.api import errors
from raftkv.api.downgrade import Downgrade
from raftkv.api.errors import Status, refuse, status_of
from raftkv.apply import Kind
from raftkv.pb import rpc_pb2
from raftkv.server import errors as node_errors


def _proposal(error: Exception) -> Callable[[FakeNode], Any]:
    """A put that ends so."""

    def put(node: FakeNode) -> Any:
        call: Any = FakeCall()
        node.propose = lambda _kind, _message, finish, context: finish(context, error)  # type: ignore[method-assign]
        node.context().propose(call, Kind.PUT, raw(rpc_pb2.PutRequest(key=b"k")))
        return call.failure

    return put


def _table(error: Exception) -> Callable[[FakeNode], Any]:
    def look_up(_node: FakeNode) -> Any:
        call: Any = FakeCall()
        refuse(call, status_of(error))
        return call.failure

    return look_up


def _downgrade_without_version(node: FakeNode) -> Any:
    call: Any = FakeCall()
    Downgrade(node.context()).downgrade(call, raw(rpc_pb2.DowngradeRequest(version="3.5")))
    return call.failure


MADE: dict[str, Callable[[FakeNode], Any]] = {
    "ErrGRPCMemberExist": _table(membership.MemberExists()),
    "ErrGRPCRequestTooManyRequests": _proposal(node_errors.TooManyRequests()),
    "ErrGRPCLeaderChanged": _table(node_errors.LeaderChanged()),
    "ErrGRPCStopped": _proposal(node_errors.Stopped()),
    "ErrGRPCTimeout": _proposal(node_errors.RequestTimedOut()),
    "ErrGRPCTimeoutDueToLeaderFail": _proposal(node_errors.TimedOutByLeaderFailure()),
    "ErrGRPCTimeoutDueToConnectionLost": _proposal(node_errors.TimedOutByConnectionLoss()),
    "ErrGRPCTimeoutWaitAppliedIndex": _table(node_errors.ApplyLags()),
    "ErrGRPCClusterVersionUnavailable": _downgrade_without_version,
}


@pytest.mark.parametrize("name", MADE)
def test_row(fake_node: FakeNode, name: str) -> None:
    """ER-01, G-52, G-55, G-56."""
    row = BY_NAME[name]
    code, text = MADE[name](fake_node)
    assert (int(code), text) == (row.code.value[0], row.text)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (node_errors.ProposalLost(), "raft proposal dropped"),
        (node_errors.NotPrimaryLessor(), "not a primary lessor"),
        (node_errors.TransferTooSlow(), "etcdserver: request timed out, leader transfer took too long"),
        (RuntimeError("any other text"), "any other text"),
    ],
)
def test_an_error_without_a_row_is_unknown(fake_node: FakeNode, error: Exception, text: str) -> None:
    """G-54, G-57, L-26, MT-43."""
    code, told = _table(error)(fake_node)
    assert (int(code), told) == (2, text)


# --- the table as a whole ---------------------------------------------------------------------------------------------

WITHOUT_ROW = {
    "NO_LEADER_IN_TIME",  # ER-04
    "TRANSFER_TOO_SLOW",
    "NOT_PRIMARY_LESSOR",
    "PROPOSAL_DROPPED",
    "UNKNOWN_METHOD",
}
"""What raftkv says beside the table (G-57)."""


def test_every_row_is_made_or_has_a_reason() -> None:
    assert MADE.keys() == {row.name for row in ROWS if row.made == BY_TABLE}
    for row in ROWS:
        assert row.made in (BY_CALL, BY_TABLE) or len(row.made.split()) > 4, f"{row.name}: a reason is a sentence"
    assert len(BY_NAME) == len(ROWS) == 63


def test_what_raftkv_says_is_the_table() -> None:
    """Neither a row that nobody knows, nor one that somebody makes and raftkv has not."""
    told = {name: row for name, row in vars(errors).items() if isinstance(row, Status)}
    known = {(row.code.value[0], row.text) for row in ROWS}
    strangers = {name for name, row in told.items() if (int(row.code), row.text) not in known}
    assert {name for name in strangers if told[name].text.startswith("etcdserver: ")} <= WITHOUT_ROW
    made = {(row.code.value[0], row.text) for row in ROWS if row.made in (BY_CALL, BY_TABLE)}
    assert made <= {(int(row.code), row.text) for row in told.values()}

"""Why a request was not done in time: which of the texts of G-51 and G-52, at every boundary."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.raft import NOBODY
from raftkv.server.errors import (
    NoLeaderInTime,
    RequestTimedOut,
    TimedOutByConnectionLoss,
    TimedOutByLeaderFailure,
)
from raftkv.server.waiting import Waiting

ME, ONE, TWO = 1, 2, 3
ELECTION_S = 1.0
STARTED_S = 100.0


class Scene:
    """Member 1 of `voters`; `since`: since when it can reach the others."""

    def __init__(self, *voters: int, since: dict[int, float] | None = None) -> None:
        self.since = {ONE: 0.0, TWO: 0.0} if since is None else since
        self.waiting = Waiting(ME, ELECTION_S, self.since.get, lambda: voters or (ME, ONE, TWO))

    def error(self, *, proposed: bool = True) -> type[Exception]:
        return type(self.waiting.proposal_error(STARTED_S, proposed=proposed))


def led_by(leader: int, elected_s: float = 0.0, *voters: int, **settings: Any) -> Scene:
    scene = Scene(*voters, **settings)
    scene.waiting.on_leader(leader, elected_s)
    return scene


# --- without a leader -------------------------------------------------------------------------------------------------


def test_what_waited_for_a_leader_in_vain_says_so() -> None:
    """G-51: surely not applied."""
    assert led_by(NOBODY).error(proposed=False) is NoLeaderInTime
    assert Scene().error(proposed=False) is NoLeaderInTime, "there was none since the start"


def test_what_is_in_the_log_of_a_leader_that_is_gone_may_still_be_applied() -> None:
    """G-52, RF-70: a leader in a minority steps down; what it has proposed is not withdrawn."""
    scene = led_by(ME)
    scene.waiting.on_leader(NOBODY, STARTED_S + 3.0)
    assert scene.error(proposed=True) is RequestTimedOut


def test_what_came_while_a_leader_was_known_counts_as_accepted() -> None:
    """G-52: it was held back only because that leader could not be reached any more."""
    scene = led_by(ONE)
    scene.waiting.on_leader(NOBODY, STARTED_S + 1.0)
    assert scene.error(proposed=False) is RequestTimedOut
    scene.waiting.on_leader(ONE, STARTED_S - 2.0)
    scene.waiting.on_leader(NOBODY, STARTED_S - 1.0)
    assert scene.error(proposed=False) is NoLeaderInTime, "it was lost before this one came"


def test_with_a_leader_what_was_not_proposed_timed_out_like_any_other() -> None:
    assert led_by(ONE).error(proposed=False) is RequestTimedOut


# --- about when a leader was lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elected_after_s", "error"),
    [
        (-5.0, RequestTimedOut),
        (-0.001, RequestTimedOut),
        (0.0, RequestTimedOut),
        (0.001, TimedOutByLeaderFailure),
        (1.0, TimedOutByLeaderFailure),
        (2 * ELECTION_S - 0.001, TimedOutByLeaderFailure),
        (2 * ELECTION_S, RequestTimedOut),
        (4.0, RequestTimedOut),
    ],
)
def test_a_request_made_when_the_old_leader_was_dying(elected_after_s: float, error: type[Exception]) -> None:
    """G-52: within two election timeouts before the next one was elected."""
    assert led_by(ONE, STARTED_S + elected_after_s).error() is error


def test_the_same_leader_seen_again_was_not_elected_again() -> None:
    """Nor is the moment when there was none an election."""
    scene = led_by(ONE, 0.0)
    scene.waiting.on_leader(ONE, STARTED_S + 1.0)
    assert scene.error() is RequestTimedOut
    scene.waiting.on_leader(NOBODY, STARTED_S + 1.0)
    assert scene.error() is RequestTimedOut
    scene.waiting.on_leader(ONE, STARTED_S + 1.5)
    assert scene.error() is TimedOutByLeaderFailure


def test_a_lost_leader_explains_more_than_a_lost_connection() -> None:
    assert led_by(ONE, STARTED_S + 1.0, since={}).error() is TimedOutByLeaderFailure


# --- the connection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "error"),
    [
        ({ONE: STARTED_S - 1.0}, RequestTimedOut),
        ({ONE: STARTED_S}, RequestTimedOut),
        ({ONE: STARTED_S + 0.001, TWO: 0.0}, TimedOutByConnectionLoss),
        ({TWO: 0.0}, TimedOutByConnectionLoss),
    ],
)
def test_a_follower_needs_its_leader(since: dict[int, float], error: type[Exception]) -> None:
    """G-52: without a break since the request was made. Whom else it reaches does not matter."""
    assert led_by(ONE, since=since).error() is error


@pytest.mark.parametrize(
    ("voters", "since", "error"),
    [
        ((ME,), {}, RequestTimedOut),
        ((ME, ONE), {ONE: 0.0}, RequestTimedOut),
        ((ME, ONE), {}, TimedOutByConnectionLoss),
        ((ME, ONE, TWO), {ONE: 0.0}, RequestTimedOut),
        ((ME, ONE, TWO), {ONE: STARTED_S + 0.001}, TimedOutByConnectionLoss),
        ((ME, ONE, TWO), {9: 0.0, 8: 0.0}, TimedOutByConnectionLoss),
        ((ME, ONE, TWO, 4, 5), {ONE: 0.0, TWO: 0.0}, RequestTimedOut),
        ((ME, ONE, TWO, 4, 5), {ONE: 0.0}, TimedOutByConnectionLoss),
        ((ME, ONE, TWO, 4), {ONE: 0.0}, TimedOutByConnectionLoss),
    ],
)
def test_a_leader_needs_a_quorum(voters: tuple[int, ...], since: dict[int, float], error: type[Exception]) -> None:
    """G-52: of voters; itself it always reaches."""
    assert led_by(ME, 0.0, *voters, since=since).error() is error


# --- for changes of the membership ------------------------------------------------------------------------------------


def test_who_was_connected_all_the_time() -> None:
    """CL-24: voters only, and this one in any case."""
    scene = Scene(ME, ONE, TWO, 4, since={ONE: 95.0, TWO: 95.001, 9: 0.0})
    assert scene.waiting.connected_for(5.0, now=100.0) == {ME, ONE}
    assert scene.waiting.connected_for(4.0, now=100.0) == {ME, ONE, TWO}

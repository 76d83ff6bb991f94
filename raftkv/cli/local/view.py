"""What a local cluster looks like at one moment: every member's process, and what those that answer say of themselves.

Asks GET /raftkv/member of each; what the dead and the paused are, and how far they lag, their leader tells. Owns the
questions and their putting together; how it is shown is another's affair.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from raftkv.cli.local.directory import HOST, LocalCluster, LocalMember
from raftkv.cli.local.processes import State

ANSWER_TIMEOUT_S: Final = 1.0
_PAGE: Final = "/raftkv/member"

STARTING: Final = "starting"
"""It runs, and does not take clients yet: it waits for a leader, or has not come that far."""
SILENT: Final = "no answer"
"""It takes connections, and says nothing in time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One member. None: not known."""

    name: str
    state: str
    """running, paused, dead, starting or no answer."""
    pid: int | None = None
    id: str | None = None
    role: str | None = None
    """leader, follower, candidate, pre-candidate or learner."""
    term: int | None = None
    index: int | None = None
    """Commit index."""
    applied: int | None = None
    lag: int | None = None
    """Entries that the leader has committed and this member has not applied; of one that cannot be asked, that it is
    not known to have."""
    db_size_bytes: int | None = None
    rtt_s: float | None = None
    """The member's last round trip to the leader."""
    page: dict[str, Any] | None = None
    """All that it said."""


@dataclass(frozen=True)
class View:
    rows: tuple[Row, ...]
    leader: str | None
    """Name of the member that leads, as it says itself."""
    term: int | None
    """The highest that anybody knows."""
    alarms: tuple[str, ...]
    """Such as "CORRUPT at m2"."""

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


Answer = tuple[LocalMember, int | None, str, dict[str, Any] | None]
"""Member, pid, state, page."""


def look(cluster: LocalCluster) -> View:
    """Blocks no longer than ANSWER_TIMEOUT_S: members are asked side by side."""
    with ThreadPoolExecutor(len(cluster.members)) as pool:
        return make_view(list(pool.map(_ask, cluster.members)))


def _ask(member: LocalMember) -> Answer:
    state, pid = member.process.state, member.process.pid
    if state is not State.RUNNING:
        return member, pid, state.value, None
    connection = http.client.HTTPConnection(HOST, member.client_port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", _PAGE)
        response = connection.getresponse()
        body = response.read()
        if response.status == http.HTTPStatus.OK:
            return member, pid, state.value, json.loads(body)
    except TimeoutError:
        return member, pid, SILENT, None
    except (OSError, http.client.HTTPException, ValueError):
        pass  # nobody listens yet, or it has just ended
    finally:
        connection.close()
    state = member.process.state
    return member, pid, STARTING if state is State.RUNNING else state.value, None


def make_view(answers: Iterable[Answer]) -> View:
    answers = list(answers)
    pages = [page for *_, page in answers if page is not None]
    # After a pause an old leader may still take itself for one: the higher term is right.
    leader = max((page for page in pages if page["role"] == "leader"), key=lambda page: page["term"], default=None)
    return View(
        rows=tuple(_row(answer, leader, _known_ids(pages)) for answer in answers),
        leader=leader["name"] if leader is not None else None,
        term=max((page["term"] for page in pages), default=None),
        alarms=_alarms(pages),
    )


def _known_ids(pages: list[dict[str, Any]]) -> dict[str, str]:
    """Name -> id, of all that anybody knows of."""
    known = {peer["name"]: peer["id"] for page in pages for peer in page["peers"] if peer["name"]}
    return known | {page["name"]: page["id"] for page in pages}


def _alarms(pages: list[dict[str, Any]]) -> tuple[str, ...]:
    names = {id_: name for name, id_ in _known_ids(pages).items()}
    raised = {(each["alarm"], each["member"]) for page in pages for each in page["alarms"]}
    return tuple(f"{alarm} at {names.get(id_, id_)}" for alarm, id_ in sorted(raised))


def _row(answer: Answer, leader: dict[str, Any] | None, ids: dict[str, str]) -> Row:
    member, pid, state, page = answer
    id_ = ids.get(member.name)
    if page is None:
        return Row(name=member.name, state=state, pid=pid, id=id_, lag=_lag_of_absent(id_, leader))
    return Row(
        name=member.name,
        state=state,
        pid=pid,
        id=id_,
        role="learner" if page["is_learner"] else page["role"],
        term=page["term"],
        index=page["commit_index"],
        applied=page["applied_index"],
        lag=None if leader is None else max(0, leader["commit_index"] - page["applied_index"]),
        db_size_bytes=page["db"]["size_bytes"],
        rtt_s=None if leader is None else _rtt(page, leader["id"]),
        page=page,
    )


def _rtt(page: dict[str, Any], leader_id: str) -> float | None:
    rtt: float | None = next((peer["rtt_s"] for peer in page["peers"] if peer["id"] == leader_id), None)
    return rtt


def _lag_of_absent(id_: str | None, leader: dict[str, Any] | None) -> int | None:
    if leader is None:
        return None
    progress = next((peer["progress"] for peer in leader["peers"] if peer["id"] == id_), None)
    # A leader that never met it knows nothing of what it has.
    if not progress or not progress["match_index"]:
        return None
    missing: int = leader["commit_index"] - progress["match_index"]
    return max(0, missing)

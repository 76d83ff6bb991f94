"""The HTTP side beside the probes: the gateway's paths (H-20), /debug/vars (H-62), counts of checks (H-57)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from test_listen_pages import ALL, FakeNode, ask

from raftkv.api.pages import Guard, Pages
from raftkv.raft import PeerStatus, ProgressState, Role
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.server.errors import RequestTimedOut


class Gateway:
    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def handle(self, exchange: HttpExchange, headers: Any) -> None:
        self.asked.append((exchange.target, dict(headers)))


def pages_of(node: Any, guard: Guard = ALL) -> Pages:
    return Pages(node, guard)


def request(pages: Pages, target: str, method: str = "POST", *, probe: bool = False, **headers: str) -> list[Any]:
    answers: list[Any] = []
    exchange = HttpExchange(
        method, target, list(headers.items()), b"", "", None, lambda *answer: answers.append(answer)
    )
    (pages.handle_probe if probe else pages.handle)(exchange)
    return answers


@pytest.mark.parametrize("target", ["/v3/kv/put", "/v3beta/kv/put", "/v3/"])
def test_the_gateway_is_there_when_it_was_attached(target: str) -> None:
    """H-20: without it its paths are unknown. H-08: where only probes are served it never is."""
    pages = pages_of(FakeNode())
    [(status, _, _)] = request(pages, target)
    assert status == 404
    gateway: Any = Gateway()
    pages.attach(gateway)
    assert request(pages, target) == []
    [(asked, headers)] = gateway.asked
    assert (asked, headers["access-control-allow-origin"]) == (target, "*")
    [(status, _, _)] = request(pages, target, probe=True)
    assert status == 404


def test_the_gateway_is_guarded() -> None:
    """H-09, H-10."""
    gateway: Any = Gateway()
    pages = pages_of(FakeNode(), Guard(("good.example",), ("*",)))
    pages.attach(gateway)
    [(status, _, _)] = request(pages, "/v3/kv/put", host="evil.example")
    assert status == 421
    [(status, headers, body)] = request(pages, "/v3/kv/put", "OPTIONS", host="good.example")
    assert (status, body) == (200, b"")
    assert dict(headers)["access-control-allow-methods"] == "POST, GET, OPTIONS, PUT, DELETE"
    assert gateway.asked == []


def test_raft_as_it_sees_itself() -> None:
    """H-62."""
    node: Any = FakeNode()
    progress = PeerStatus(
        match=7, next=8, state=ProgressState.REPLICATE, is_learner=False, recent_active=True, inflight_msgs=0,
        inflight_bytes=0,
    )  # fmt: skip
    node.raft_status = lambda: SimpleNamespace(
        id=0xAB, term=3, vote=0xAB, committed=7, lead=0xAB, role=Role.LEADER, applied=6, progress={0xCD: progress},
        lead_transferee=0,
    )  # fmt: skip
    [answer] = ask(node, "/debug/vars")
    page = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert page.pop("file_descriptor_limit") > 0
    assert page == {
        "raft.status": {
            "id": "ab",
            "term": 3,
            "vote": "ab",
            "commit": 7,
            "lead": "ab",
            "raftState": "StateLeader",
            "applied": 6,
            "progress": {"cd": {"match": 7, "next": 8, "state": "StateReplicate"}},
            "leadtransferee": "0",
        }
    }


@pytest.mark.parametrize("target", ["/debug/vars", "/health", "/version", "/livez", "/readyz/non_learner"])
def test_pages_are_read(target: str) -> None:
    """H-44, H-56, H-60."""
    [answer] = ask(FakeNode(), target, "POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("target", ["/debug/pprof/", "/debug/pprof/heap", "/debug/requests", "/debug/events"])
def test_what_belongs_to_go_is_not_there(target: str) -> None:
    """H-63, H-64."""
    assert ask(FakeNode(), target)[0].status == 404


def test_every_role_and_state_has_its_name() -> None:
    from raftkv.api import debug_vars

    assert set(debug_vars._ROLES) == set(Role)
    assert set(debug_vars._PROGRESS) == set(ProgressState)


def test_checks_are_counted() -> None:
    """H-57: each check that was made, and how the last one went."""
    node = FakeNode()
    pages = pages_of(node)

    def counts(kind: str, name: str) -> tuple[int, int, int]:
        count = pages.check_counts[kind, name]
        return count.passed, count.passes, count.failed

    assert set(pages.check_counts) == {
        ("livez", "serializable_read"),
        ("readyz", "data_corruption"),
        ("readyz", "serializable_read"),
        ("readyz", "linearizable_read"),
        ("readyz", "non_learner"),
    }
    assert counts("readyz", "linearizable_read") == (0, 0, 0)
    request(pages, "/readyz", "GET")
    request(pages, "/readyz/linearizable_read", "GET", probe=True)
    assert counts("readyz", "linearizable_read") == (1, 2, 0)
    assert counts("readyz", "serializable_read") == (1, 1, 0)
    assert counts("livez", "serializable_read") == (0, 0, 0)
    node.index_error = RequestTimedOut()
    request(pages, "/readyz", "GET")
    request(pages, "/readyz?exclude=linearizable_read", "GET")
    assert counts("readyz", "linearizable_read") == (0, 2, 1)
    assert counts("readyz", "serializable_read") == (1, 3, 0)

"""GET /raftkv/member: what a member says of itself and of the others."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from raftkv.api.pages import Guard, Pages
from raftkv.apply import CORRUPT
from raftkv.raft import ConfState, PeerStatus, ProgressState, Role, Status
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.version import RAFTKV_VERSION

OWN, OTHER, AWAY = 0x8E9E05C52164694D, 0xA1, 0xB2


def link(peer_id: int, **fields: Any) -> SimpleNamespace:
    plain = {
        "url": f"http://peer-{peer_id:x}:2380",
        "up": True,
        "up_since_s": 90.0,
        "version": "0.1.0",
        "rtt_s": 0.0004321987,
        "mean_rtt_s": 0.0005,
        "disconnects": 1,
        "lost": 2,
        "sent_bytes": 3000,
    }
    return SimpleNamespace(peer_id=peer_id, **plain | fields)


def node(**status: Any) -> Any:
    """What the page asks of a node: a leader of three, one of which it has lost."""
    plain: dict[str, Any] = {
        "id": OWN,
        "role": Role.LEADER,
        "term": 4,
        "vote": OWN,
        "lead": OWN,
        "committed": 120,
        "applied": 119,
        "last_index": 121,
        "conf_state": ConfState(voters=(OTHER, AWAY, OWN)),
        "lead_transferee": 0,
        "uncommitted_bytes": 0,
        "saves_in_flight": 0,
        "pending_reads": 0,
        "progress": {OTHER: PeerStatus(118, 120, ProgressState.REPLICATE, False, True, 1, 70)},
    }
    links = [link(OTHER), link(AWAY, up=False, up_since_s=None, version="")]
    return SimpleNamespace(
        config=SimpleNamespace(name="m1", quota_backend_bytes=None),
        member_id=OWN,
        cluster_id=0xC,
        is_learner=False,
        applier=SimpleNamespace(index=120),
        store=SimpleNamespace(current_revision=77),
        backend=SimpleNamespace(size_bytes=8192, in_use_bytes=4096),
        alarms=SimpleNamespace(active=lambda: [(AWAY, CORRUPT)]),
        members=SimpleNamespace(get=lambda id_: SimpleNamespace(name="m2") if id_ == OTHER else None),
        peering=SimpleNamespace(links=links),
        now=lambda: 100.5,
        raft_status=lambda: Status(**plain | status),
    )


def ask(node: Any, method: str = "GET", guard: Guard | None = None, probe: bool = False) -> tuple[int, Any]:
    answers: list[tuple[int, Any]] = []
    exchange = HttpExchange(
        method,
        "/raftkv/member",
        [("host", "localhost:2379")],
        b"",
        "",
        None,
        lambda status, headers, body: answers.append((status, (dict(headers), body))),
    )
    pages = Pages(node, guard or Guard(("*",), ()))
    (pages.handle_probe if probe else pages.handle)(exchange)
    [(status, (headers, body))] = answers
    if status == 200:
        assert headers["content-type"] == "application/json"
        return status, json.loads(body)
    return status, body


def test_a_leader_says_all_it_knows() -> None:
    status, page = ask(node())
    assert status == 200
    peers = page.pop("peers")
    assert page == {
        "name": "m1",
        "id": "8e9e05c52164694d",
        "cluster_id": "c",
        "version": RAFTKV_VERSION,
        "role": "leader",
        "is_learner": False,
        "term": 4,
        "vote": "8e9e05c52164694d",
        "leader": "8e9e05c52164694d",
        "commit_index": 120,
        "applied_index": 120,
        "last_index": 121,
        "revision": 77,
        "db": {"size_bytes": 8192, "in_use_bytes": 4096, "quota_bytes": None},
        "alarms": [{"member": "b2", "alarm": "CORRUPT"}],
    }
    assert peers[0] == {
        "id": "a1",
        "name": "m2",
        "url": "http://peer-a1:2380",
        "version": "0.1.0",
        "connected_for_s": 10.5,
        "rtt_s": 0.000432,
        "mean_rtt_s": 0.0005,
        "disconnects": 1,
        "lost_messages": 2,
        "sent_bytes": 3000,
        "progress": {
            "state": "replicate",
            "match_index": 118,
            "next_index": 120,
            "is_learner": False,
            "is_active": True,
            "inflight_messages": 1,
            "inflight_bytes": 70,
        },
    }


def test_a_member_that_is_away_has_no_round_trip() -> None:
    """What was measured on a connection that is gone is no news."""
    away = ask(node())[1]["peers"][1]
    assert (away["name"], away["connected_for_s"], away["rtt_s"], away["mean_rtt_s"]) == ("", None, None, None)
    assert away["progress"] is None


def test_a_follower_without_a_leader() -> None:
    page = ask(node(role=Role.PRE_CANDIDATE, lead=0, vote=0, progress={}))[1]
    assert (page["role"], page["leader"], page["vote"]) == ("pre-candidate", None, None)
    assert all(peer["progress"] is None for peer in page["peers"])


def test_a_link_that_has_not_measured_yet() -> None:
    made = node()
    made.peering.links = [link(OTHER, rtt_s=None, mean_rtt_s=0.0)]
    [peer] = ask(made)[1]["peers"]
    assert (peer["rtt_s"], peer["mean_rtt_s"]) == (None, None)


def test_who_may_ask() -> None:
    """H-08, H-09: as for the other pages."""
    strict = Guard(("kv.example",), ())
    assert ask(node(), guard=strict)[0] == 421
    assert ask(node(), guard=strict, probe=True)[0] == 200
    assert ask(node(), method="POST")[0] == 405


@pytest.mark.parametrize("id_", [OWN, OTHER])
def test_ids_are_texts(id_: int) -> None:
    """A number of 64 bits would come out of JavaScript, and of jq, as another one."""
    assert ask(node(lead=id_))[1]["leader"] == f"{id_:x}"

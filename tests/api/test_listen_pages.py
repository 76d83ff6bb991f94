"""The HTTP pages on a node that can be made to fail: probes (10.3, 10.4), host check (H-09), CORS (H-10)."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from raftkv.api.pages import Guard, Pages
from raftkv.apply import CORRUPT, NOSPACE
from raftkv.rpc.http_exchange import HttpExchange
from raftkv.server.errors import RequestTimedOut

ALL = Guard(("*",), ("*",))


class FakeNode:
    """Healthy until told otherwise."""

    def __init__(self) -> None:
        self.raised: list[int] = []
        self.leader_id = 1
        self.member_id = 1
        self.is_learner = False
        self.read_error: Exception | None = None
        self.index_error: Exception | None = None
        self.waiting: list[Any] = []
        self.hold_reads = False
        self.applier = SimpleNamespace(cluster_version="3.6.0")
        self.backend = SimpleNamespace(read=lambda: None)
        self.store = SimpleNamespace(get=self._get)
        self.members = SimpleNamespace(get=lambda _: SimpleNamespace(is_learner=self.is_learner))
        self.alarms = SimpleNamespace(active=self._active)

    def _active(self, wanted: int = 0) -> list[tuple[int, int]]:
        return [(1, alarm) for alarm in self.raised if wanted in (0, alarm)]

    def _get(self, _txn: None, _key: bytes) -> None:
        if self.read_error is not None:
            raise self.read_error

    def linearizable(self, read: Any, context: Any) -> None:
        if self.hold_reads:
            self.waiting.append((read, context))
        else:
            read(context, self.index_error)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    node: FakeNode, target: str, method: str = "GET", guard: Guard = ALL, probe: bool = False, **headers: str
) -> list[Answer]:
    """The answer so far: empty while the page waits for something."""
    answers: list[Answer] = []

    def respond(status: int, fields: Any, body: bytes) -> None:
        answers.append(Answer(status, dict(fields), body))

    exchange = HttpExchange(method, target, list(headers.items()), b"", "", None, respond)
    pages = Pages(node, guard)  # type: ignore[arg-type]  # what the pages use of a Node
    (pages.handle_probe if probe else pages.handle)(exchange)
    return answers


def reply(node: FakeNode, target: str) -> tuple[int, bytes]:
    [answer] = ask(node, target)
    return answer.status, answer.body


READY = b"[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/livez", b"ok\n"),
        ("/readyz", b"ok\n"),
        ("/livez?verbose", b"[+]serializable_read ok\nok\n"),
        ("/readyz?verbose=false", READY),
        ("/readyz/non_learner?verbose", b"[+]non_learner ok\nok\n"),
        ("/livez/serializable_read", b"ok\n"),
        ("/livez?verbose&exclude=serializable_read", b"ok\n"),
        ("/readyz?verbose&exclude=linearizable_read&exclude=data_corruption&exclude=other",
         b"[+]serializable_read ok\n[+]non_learner ok\nok\n"),
        # H-53: a sub-path is its one check.
        ("/readyz/non_learner?verbose&exclude=non_learner", b"[+]non_learner ok\nok\n"),
    ],
)  # fmt: skip
def test_probe_of_a_healthy_member(target: str, body: bytes) -> None:
    """H-50 to H-53."""
    assert reply(FakeNode(), target) == (200, body)


def test_probe_headers() -> None:
    """H-56."""
    [answer] = ask(FakeNode(), "/readyz", probe=True)
    assert answer.headers == {
        "content-type": "text/plain; charset=utf-8",
        "x-content-type-options": "nosniff",
    }


def test_without_quorum() -> None:
    """H-55: the member lives, but is not ready. H-51: the failure lists every check, asked or not."""
    node = FakeNode()
    node.index_error = RequestTimedOut()
    assert reply(node, "/livez") == (200, b"ok\n")
    status, body = reply(node, "/readyz")
    assert status == 503
    assert body.splitlines() == [
        b"[+]data_corruption ok",
        b"[+]serializable_read ok",
        b"[-]linearizable_read failed: etcdserver: request timed out",
        b"[+]non_learner ok",
    ]
    assert reply(node, "/readyz?exclude=linearizable_read") == (200, b"ok\n")


def test_corrupt_data() -> None:
    """H-54."""
    node = FakeNode()
    node.raised = [NOSPACE]
    assert reply(node, "/readyz") == (200, b"ok\n")
    node.raised = [NOSPACE, CORRUPT]
    assert reply(node, "/livez") == (200, b"ok\n")
    assert reply(node, "/readyz/data_corruption") == (
        503,
        b"[-]data_corruption failed: alarm activated: CORRUPT\n",
    )


def test_learner() -> None:
    node = FakeNode()
    node.is_learner = True
    assert reply(node, "/readyz/non_learner") == (
        503,
        b"[-]non_learner failed: not supported for learner\n",
    )


def test_store_that_cannot_be_read() -> None:
    node = FakeNode()
    node.read_error = OSError("bad disk")
    assert reply(node, "/livez") == (503, b"[-]serializable_read failed: bad disk\n")
    assert reply(node, "/health") == (503, b'{"health":"false","reason":"RANGE ERROR:bad disk"}\n')


def test_probe_waits_for_the_read() -> None:
    node = FakeNode()
    node.hold_reads = True
    answers = ask(node, "/readyz")
    assert not answers
    read, context = node.waiting.pop()
    read(context, None)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok\n")]


def test_health() -> None:
    """H-40 to H-43."""
    node = FakeNode()
    healthy = (200, b'{"health":"true","reason":""}')
    assert reply(node, "/health") == healthy
    node.leader_id = 0
    assert reply(node, "/health") == (503, b'{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert reply(node, "/health?serializable=1")[0] == 503
    assert reply(node, "/health?serializable=true") == healthy
    node.raised = [NOSPACE]
    assert reply(node, "/health") == (503, b'{"health":"false","reason":"ALARM NOSPACE"}\n')
    assert reply(node, "/health?exclude=NOSPACE&serializable=true") == healthy


@pytest.mark.parametrize("target", ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version"])
@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_only_get(target: str, method: str) -> None:
    """H-44, H-56, H-60."""
    [answer] = ask(FakeNode(), target, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("target", ["/", "/livez/", "/livez/non_learner", "/metricsx", "/v3/kv/range"])
def test_everything_else_is_missing(target: str) -> None:
    """H-07."""
    assert reply(FakeNode(), target) == (404, b"404 page not found\n")


def test_probes_have_no_version() -> None:
    """H-08: the metrics URLs serve the health pages only."""
    assert ask(FakeNode(), "/version")[0].status == 200
    assert ask(FakeNode(), "/version", probe=True)[0].status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("kv.example", 200),
        ("KV.Example:2379", 200),
        ("[::1]:2379", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("kv.example.evil.example", 421),
        ("", 421),
    ],
)
def test_host_check(host: str, status: int) -> None:
    """H-09."""
    guard = Guard(("kv.example", "::1"), ("*",))
    [answer] = ask(FakeNode(), "/version", guard=guard, host=host)
    assert answer.status == status
    if status == 421:
        assert answer.headers["content-type"].startswith("text/plain")
        assert b"--host-whitelist" in answer.body
        assert "access-control-allow-origin" not in answer.headers


def test_host_check_comes_before_options() -> None:
    guard = Guard(("kv.example",), ("*",))
    assert ask(FakeNode(), "/version", "OPTIONS", guard, host="evil.example")[0].status == 421


def test_probes_have_no_host_check() -> None:
    guard = Guard(("kv.example",), ("*",))
    assert ask(FakeNode(), "/livez", guard=guard, probe=True, host="127.0.0.1")[0].status == 200


CORS = {
    "access-control-allow-methods": "POST, GET, OPTIONS, PUT, DELETE",
    "access-control-allow-headers": "accept, content-type, authorization",
}


def cors_headers(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_every_origin() -> None:
    """H-10: also without an Origin header, and on errors."""
    for target in ("/version", "/livez", "/nothing"):
        [answer] = ask(FakeNode(), target)
        assert cors_headers(answer) == CORS | {"access-control-allow-origin": "*"}


def test_named_origins() -> None:
    guard = Guard(("*",), ("https://ui.example",))
    [allowed] = ask(FakeNode(), "/version", guard=guard, origin="https://ui.example")
    assert cors_headers(allowed) == CORS | {"access-control-allow-origin": "https://ui.example"}
    [other] = ask(FakeNode(), "/version", guard=guard, origin="https://evil.example")
    [none] = ask(FakeNode(), "/version", guard=guard)
    for answer in (other, none):
        assert (answer.status, cors_headers(answer)) == (200, {})


def test_options() -> None:
    """H-10."""
    [answer] = ask(FakeNode(), "/anything", "OPTIONS")
    assert (answer.status, answer.body) == (200, b"")
    assert cors_headers(answer)["access-control-allow-origin"] == "*"

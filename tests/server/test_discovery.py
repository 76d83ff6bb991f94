"""Who the members of a new cluster are, by the registry of another etcd (F-74)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from trio import PEER_SERVER_LIMITS, bound_socket

from raftkv.config import StartError, load
from raftkv.pb import rpc_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Service, build_routes
from raftkv.server import discovery as module
from raftkv.server.discovery import _as_members, _Registry, discovered

PREFIX = b"/_etcd/registry/t/members/"
SIZE = b"/_etcd/registry/t/_config/size"


class Keys:
    """The keys of a discovery service, and those who ask."""

    def __init__(self, **entries: str) -> None:
        self.values = {PREFIX + name.encode(): text.encode() for name, text in entries.items()}
        self.values[SIZE] = b"3"
        self.puts = 0
        self.closed = False

    async def call(self, path: bytes, request: Any, kind: Any) -> Any:
        await asyncio.sleep(0)
        if path == b"/etcdserverpb.KV/Put":
            self.puts += 1
            self.values[request.key] = request.value
            return rpc_pb2.PutResponse()
        if not request.range_end:
            found = [request.key] if request.key in self.values else []
        else:
            assert (request.sort_order, request.sort_target) == (1, 2), "in the order in which they came"
            found = [key for key in self.values if request.key <= key < request.range_end]
        return rpc_pb2.RangeResponse(kvs=[{"key": key, "value": self.values[key]} for key in found])  # type: ignore[list-item]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.01)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def join(keys: Keys, own: str, contents: str = "") -> Any:
    return _Registry(keys, "t").join(own, contents or f"m{own}=http://h{own}:1")


def test_members_wait_for_each_other_and_find_the_same() -> None:
    keys = Keys()

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(join(keys, each) for each in "cab"))

    found = run(all_of_them())
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {"a", "b", "c"}
    assert found[0]["a"] == "ma=http://ha:1"
    assert keys.puts == 3


def test_who_registered_before_goes_on() -> None:
    """A member that was started again before the cluster was complete."""
    keys = Keys(a="ma=http://ha:1", b="mb=http://hb:1", c="mc=http://hc:1")
    assert set(run(join(keys, "b"))) == {"a", "b", "c"}
    assert keys.puts == 0
    assert run(join(keys, "b", "new=http://hb:1"))["b"] == "new=http://hb:1"


@pytest.mark.parametrize("others", [3, 5])
def test_a_full_cluster_takes_nobody(others: int) -> None:
    keys = Keys(**{f"{number}": f"m{number}=http://h{number}:1" for number in range(others)})
    with pytest.raises(StartError, match="discovery: cluster is full: 3 members") as refused:
        run(join(keys, "late"))
    assert "member add" in str(refused.value.hint)
    assert keys.puts == 0
    # The first three are the cluster, whoever came behind them at the same moment.
    assert list(run(join(keys, "1"))) == ["0", "1", "2"]


def test_who_registers_at_the_same_moment_and_comes_too_late_is_told() -> None:
    keys = Keys(a="ma=http://ha:1", b="mb=http://hb:1")

    async def both() -> list[Any]:
        return await asyncio.gather(join(keys, "x"), join(keys, "y"), return_exceptions=True)

    results = run(both())
    assert sorted(type(each).__name__ for each in results) == ["StartError", "dict"]


def test_two_with_the_same_urls_do_not_overwrite_each_other_for_ever() -> None:
    class Contested(Keys):
        async def call(self, path: bytes, request: Any, kind: Any) -> Any:
            answer = await super().call(path, request, kind)
            if self.puts:
                self.values[PREFIX + b"x"] = b"other=http://hx:1"
            return answer

    keys = Contested()
    with pytest.raises(StartError, match="another member has registered with the same peer URLs, as 'other="):
        run(join(keys, "x"))
    assert keys.puts == 1


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"three", b"\xff", "\u0663".encode(), b"9" * 5000])
def test_a_size_that_is_none(text: bytes) -> None:
    keys = Keys()
    keys.values[SIZE] = text
    with pytest.raises(StartError, match="discovery: size key is bad") as refused:
        run(join(keys, "a"))
    assert f"etcdctl put {SIZE.decode()} 3" in str(refused.value.hint)


def test_no_size() -> None:
    keys = Keys()
    del keys.values[SIZE]
    with pytest.raises(StartError, match="discovery: size key not found"):
        run(join(keys, "a"))
    assert keys.puts == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not name=URL"),
        ("http://h:1", "not name=URL"),
        ("x=http://h:1,y=http://h:2", "not name=URL"),
        ("x=ftp://h", "not name=URL"),
        ("one=http://h:9", "has that name or URL"),
        ("x=http://h1:1", "has that name or URL"),
    ],
)
def test_registrations_of_which_no_cluster_can_be_made(text: str, problem: str) -> None:
    with pytest.raises(StartError, match=problem):
        _as_members({"1": "one=http://h1:1,one=http://h1:2", "2": text})


# --- the service that is asked ----------------------------------------------------------------------------------------


class RegistryServer:
    """A discovery service on a real port: refuses or hangs as told, and wants a token where it has a user."""

    def __init__(self, user: str = "") -> None:
        self._sock = bound_socket()
        self.endpoint = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self.keys = Keys(b="b=http://127.0.0.1:2")
        self.keys.values[SIZE] = b"2"
        self.answers: list[tuple[Code, str] | bytes] = []
        """Given before any true one."""
        self.user = user
        self.tokens = 0
        self.after_put: Callable[[], None] = lambda: None

    async def open(self) -> Listener:
        kv = Service("etcdserverpb.KV").unary("Range", self._range).unary("Put", self._put)
        auth = Service("etcdserverpb.Auth").unary("Authenticate", self._authenticate)
        listener = Listener(asyncio.get_running_loop(), build_routes((kv, auth)), None, PEER_SERVER_LIMITS)
        await listener.start(self._sock)
        return listener

    def _range(self, call: Any, message: bytes) -> None:
        self._serve(call, b"/etcdserverpb.KV/Range", rpc_pb2.RangeRequest.FromString(message))

    def _put(self, call: Any, message: bytes) -> None:
        self._serve(call, b"/etcdserverpb.KV/Put", rpc_pb2.PutRequest.FromString(message))

    def _serve(self, call: Any, path: bytes, request: Any) -> None:
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, bytes):
                call.reply(answer)
            else:
                call.fail(*answer)
        elif self.user and call.metadata("token") != f"token{self.tokens}":
            call.fail(Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
        else:

            async def answer_later() -> None:
                answer = await self.keys.call(path, request, None)
                if isinstance(answer, rpc_pb2.PutResponse):
                    self.after_put()
                call.reply(answer.SerializeToString())

            self._task = asyncio.ensure_future(answer_later())

    def _authenticate(self, call: Any, message: bytes) -> None:
        request = rpc_pb2.AuthenticateRequest.FromString(message)
        if (request.name, request.password) != (self.user, "secret"):
            call.fail(Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
            return
        self.tokens += 1
        call.reply(rpc_pb2.AuthenticateResponse(token=f"token{self.tokens}").SerializeToString())


def discover(service: RegistryServer, *flags: str) -> Any:
    own = "--initial-advertise-peer-urls=http://127.0.0.1:1"
    endpoints = f"--discovery-endpoints=127.0.0.1:1,{service.endpoint}"

    async def story() -> Any:
        listener = await service.open()
        try:
            return await discovered(load(["--name=a", own, endpoints, "--discovery-token=t", *flags], {}))
        finally:
            listener.close()

    return run(story())


def test_the_first_endpoint_that_answers_is_asked() -> None:
    """F-74; CL-05: the token takes the place of --initial-cluster-token."""
    found = discover(RegistryServer())
    members = {name: [str(url) for url in urls] for name, urls in found.initial_cluster.items()}
    assert members == {"b": ["http://127.0.0.1:2"], "a": ["http://127.0.0.1:1"]}
    assert found.initial_cluster_token == "t"


def test_what_passes_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    service = RegistryServer()
    service.answers = [(Code.UNAVAILABLE, "etcdserver: no leader"), (Code.DEADLINE_EXCEEDED, "too late")] * 2
    assert set(discover(service).initial_cluster) == {"a", "b"}
    assert [each.getMessage() for each in caplog.records].count(
        "the discovery service does not answer; trying again"
    ) == 4


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((Code.PERMISSION_DENIED, "etcdserver: permission denied"), "refuses: etcdserver: permission denied"),
        ((Code.INVALID_ARGUMENT, "etcdserver: user name is empty"), "refuses: etcdserver: user name is empty"),
        ((Code.UNIMPLEMENTED, "unknown service"), "refuses: unknown service"),
        (b"\xff\xff\xff", "is no etcd"),
    ],
)
def test_what_will_not_pass_ends_the_start(answer: Any, problem: str) -> None:
    service = RegistryServer()
    service.answers = [answer]
    with pytest.raises(StartError, match=problem) as refused:
        discover(service)
    assert "--discovery-endpoints" in str(refused.value.hint)


@pytest.mark.parametrize(
    "flags", [["--discovery-user=u:secret"], ["--discovery-user=u", "--discovery-password=secret"]]
)
def test_a_user_and_a_token_that_ends_meanwhile(flags: list[str]) -> None:
    service = RegistryServer(user="u")
    service.keys.values[SIZE] = b"3"

    def end_the_token_and_come() -> None:
        service.tokens += 1
        service.keys.values[PREFIX + b"c"] = b"c=http://127.0.0.1:3"

    service.after_put = end_the_token_and_come
    assert set(discover(service, *flags).initial_cluster) == {"a", "b", "c"}
    assert service.tokens == 3, "two were given, and one ended"


def test_a_wrong_password_ends_the_start() -> None:
    with pytest.raises(StartError, match="invalid user ID or password"):
        discover(RegistryServer(user="u"), "--discovery-user=u:wrong")


def test_members_that_are_given_need_no_service() -> None:
    config = load(["--name=a", "--initial-cluster=a=http://localhost:2380"], {})
    assert run(discovered(config)) is config

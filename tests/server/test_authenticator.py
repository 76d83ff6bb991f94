"""Passwords and tokens on one member: what is compared where, which tokens stand for whom, and for how long."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest

from raftkv.apply import Kind
from raftkv.auth import (
    NO_IDENTITY,
    AuthError,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    Identity,
    InvalidAuthToken,
    PasswordlessUser,
    SimpleTokens,
)
from raftkv.pb import auth_pb2, peer_pb2, rpc_pb2
from raftkv.server import authenticator as module
from raftkv.server.authenticator import Authenticator, PasswordTooLong
from raftkv.server.errors import NodeError, NoLeaderInTime, RequestTimedOut, Stopped, TooManyRequests

TTL_S = 300
TIMEOUT_S = 7.0
REVISION = 44
"""Of the key-value store, in headers."""


class FakeAuth:
    """Users by name; `authenticated` is what applying does."""

    def __init__(self) -> None:
        self.enabled = True
        self.revision = 5
        self.tokens = SimpleTokens()
        self.users: dict[str, auth_pb2.User] = {}

    def user(self, name: str) -> auth_pb2.User | None:
        return self.users.get(name)

    def add(self, name: str, password: bytes, no_password: bool = False) -> None:
        options = auth_pb2.UserAddOptions(no_password=no_password)
        self.users[name] = auth_pb2.User(name=name.encode(), password=password, options=options)


class FakeNode:
    """Applies what is proposed in the next turn of the loop, at the next index."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.auth = FakeAuth()
        self.applier = SimpleNamespace(index=10)
        self.config = SimpleNamespace(auth_token_ttl_s=TTL_S, bcrypt_cost=4, request_timeout_s=TIMEOUT_S)
        self.clock = 100.0
        self.read_error: NodeError | None = None
        self.proposal_error: NodeError | None = None
        self.proposed: list[peer_pb2.Authentication] = []
        self.before_apply: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.clock

    def linearizable(self, read: Callable[[Any, Any], None], context: Any) -> None:
        self.loop.call_soon(read, context, self.read_error)

    def propose(self, kind: int, message: bytes, finish: Callable[[Any, Any], None], context: Any) -> None:
        assert kind == Kind.AUTHENTICATE
        self.loop.call_soon(self._apply, message, finish, context)

    def _apply(self, message: bytes, finish: Callable[[Any, Any], None], context: Any) -> None:
        request = peer_pb2.Authentication.FromString(message)
        self.proposed.append(request)
        self.before_apply()
        self.applier.index += 1
        if self.proposal_error is not None:
            finish(context, self.proposal_error)
        elif request.auth_revision != self.auth.revision:
            finish(context, AuthOldRevision())
        else:
            token = f"{request.nonce}.{self.applier.index}" if request.nonce else ""
            if token:
                self.auth.tokens.assign(token, request.name)
            finish(context, (REVISION, rpc_pb2.AuthenticateResponse(token=token).SerializeToString()))


class FakeSigned:
    """Signed tokens that anybody could read."""

    def sign(self, user: str, auth_revision: int) -> str:
        return f"{user} as of {auth_revision}"

    def verify(self, token: str) -> Identity:
        match = re.fullmatch(r"(\w+) as of (\d+)", token)
        if match is None:
            raise InvalidAuthToken
        return Identity(match[1], int(match[2]))


@asynccontextmanager
async def _serving(signed: FakeSigned | None = None) -> AsyncIterator[tuple[Any, Authenticator]]:
    node: Any = FakeNode()
    node.auth.add("alice", bcrypt.hashpw(b"right", bcrypt.gensalt(4)))
    served = Authenticator(node, signed)
    try:
        yield node, served
    finally:
        served.close()


def _found(served: Authenticator, token: str) -> list[Any]:
    """What has been found so far; the list grows."""
    found: list[Any] = []
    served.identify(token, lambda context, result: context.append(result), found)
    return found


async def _refusal(served: Authenticator, name: str, password: str) -> type[Exception]:
    with pytest.raises((AuthError, NodeError)) as caught:
        await served.authenticate(name, password)
    return caught.type


# --- passwords --------------------------------------------------------------------------------------------------------


def test_the_right_password_gives_a_token() -> None:
    """AU-40, AU-43: sixteen letters and the index at which it was made. It is good at once, on this member."""

    async def run() -> None:
        async with _serving() as (node, served):
            revision, token = await served.authenticate("alice", "right")
            assert revision == REVISION
            assert re.fullmatch(r"[A-Za-z]{16}\.11", token)
            assert _found(served, token) == [Identity("alice", 5)]
            others = {(await served.authenticate("alice", "right"))[1].partition(".")[0] for _ in range(20)}
            assert len(others) == 20
            (first, *_) = node.proposed
            assert (first.name, first.auth_revision) == ("alice", 5)

    asyncio.run(run())


def test_who_cannot_log_in() -> None:
    """AU-40, AU-22; nothing of it reaches the log."""

    async def run() -> None:
        async with _serving() as (node, served):
            node.auth.add("passwordless", b"", no_password=True)
            node.auth.add("emptied", b"")
            node.auth.add("odd", b"not made by bcrypt")
            assert await _refusal(served, "alice", "wrong") is AuthFailed
            assert await _refusal(served, "alice", "") is AuthFailed
            assert await _refusal(served, "nobody", "right") is AuthFailed
            assert await _refusal(served, "emptied", "") is AuthFailed
            assert await _refusal(served, "odd", "not made by bcrypt") is AuthFailed
            assert await _refusal(served, "passwordless", "") is PasswordlessUser
            node.auth.enabled = False
            assert await _refusal(served, "alice", "right") is AuthNotEnabled
            assert node.proposed == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("cost", "configured", "compared"), [(16, 4, True), (17, 4, False), (17, 17, True), (31, 4, False)]
)
def test_a_hash_that_takes_too_long_to_compare_fits_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cost: int, configured: int, compared: bool
) -> None:
    """AU-20: clients may bring a hash of any cost, and whoever then logs in would keep a thread for days, which not
    even the end of the process can stop."""
    asked: list[bytes] = []
    monkeypatch.setattr(module, "_fits", lambda _password, kept: not asked.append(kept))
    kept = b"$2a$%02d$" % cost + bcrypt.hashpw(b"right", bcrypt.gensalt(4))[7:]

    async def run() -> None:
        async with _serving() as (node, served):
            node.config.bcrypt_cost = configured
            node.auth.add("patient", kept)
            if compared:
                await served.authenticate("patient", "right")
            else:
                assert await _refusal(served, "patient", "right") is AuthFailed

    asyncio.run(run())
    assert asked == ([kept] if compared else [])
    assert ("takes too long" in caplog.text) is not compared
    assert kept.decode()[7:] not in caplog.text


@pytest.mark.parametrize(
    "kept",
    [
        *(b"", b"$2a$04$", b"$2a$04$abc", b"$2a$04$" + b"." * 52, b"$2a$04$" + b"." * 54, b"$2a$4$" + b"." * 53),
        *(b"$2c$04$" + b"." * 53, b"$2a$04$" + b"\xff" * 53, b"$2a$04$" + b"." * 53 + b"\n", b"\xff" * 60),
    ],
)
def test_the_library_is_not_asked_about_what_no_bcrypt_made(monkeypatch: pytest.MonkeyPatch, kept: bytes) -> None:
    """AU-22: versions of it end in what is no Exception, and nobody would answer the call."""
    monkeypatch.setattr(module.bcrypt, "checkpw", lambda *_: pytest.fail("asked"))

    async def run() -> None:
        async with _serving() as (node, served):
            node.auth.add("odd", kept)
            assert await _refusal(served, "odd", "") is AuthFailed

    asyncio.run(run())


def test_failures_of_the_node_reach_the_client() -> None:
    """AU-41: the read index comes first, and the log last."""

    async def run() -> None:
        async with _serving() as (node, served):
            node.read_error = RequestTimedOut()
            assert await _refusal(served, "alice", "wrong") is RequestTimedOut
            node.read_error = None
            node.proposal_error = NoLeaderInTime()
            assert await _refusal(served, "alice", "right") is NoLeaderInTime

    asyncio.run(run())


def test_a_password_is_never_worked_on_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of milliseconds each, during which nobody would be served."""
    threads: list[threading.Thread] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*arguments)

        return note

    monkeypatch.setattr(module.bcrypt, "checkpw", noting(bcrypt.checkpw))
    monkeypatch.setattr(module.bcrypt, "hashpw", noting(bcrypt.hashpw))

    async def run() -> None:
        async with _serving() as (_, served):
            threads.clear()
            await served.authenticate("alice", "right")
            await served.hash("another")

    asyncio.run(run())
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def test_what_is_kept_of_a_password() -> None:
    """AU-20, AU-50: its hash of the cost that was asked for, in the form in which etcd writes it."""

    async def run() -> None:
        async with _serving() as (node, served):
            for cost in (4, 5):
                node.config.bcrypt_cost = cost
                for password in ("", "secret", "x" * 72, "ü" * 36, "with\0zero"):
                    hashed = await served.hash(password)
                    assert hashed.startswith(b"$2a$%02d$" % cost)
                    assert bcrypt.checkpw(password.encode(), hashed)
            assert await served.hash("secret") != await served.hash("secret"), "salted"
            for password in ("x" * 73, "ü" * 37):
                with pytest.raises(PasswordTooLong, match="bcrypt: password length exceeds 72 bytes"):
                    await served.hash(password)

    asyncio.run(run())


def test_bytes_that_bcrypt_never_looked_at_do_not_matter() -> None:
    """As with etcd: a password that was set by an older one may have been longer."""

    async def run() -> None:
        async with _serving() as (node, served):
            node.auth.add("long", bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)))
            await served.authenticate("long", "x" * 80)
            assert await _refusal(served, "long", "x" * 71) is AuthFailed

    asyncio.run(run())


def test_a_password_that_changes_while_it_is_checked() -> None:
    """AU-41: what was found right may be wrong by the time it is applied, so it is checked again."""

    async def run() -> None:
        async with _serving() as (node, served):

            def change() -> None:
                node.before_apply = lambda: None
                node.auth.add("alice", bcrypt.hashpw(b"new", bcrypt.gensalt(4)))
                node.auth.revision += 1

            node.before_apply = change
            assert await _refusal(served, "alice", "right") is AuthFailed
            assert len(node.auth.tokens) == 0
            node.auth.add("alice", bcrypt.hashpw(b"right", bcrypt.gensalt(4)))

            def change_another() -> None:
                node.before_apply = lambda: None
                node.auth.revision += 1

            node.before_apply = change_another
            _, token = await served.authenticate("alice", "right")
            assert _found(served, token) == [Identity("alice", node.auth.revision)]
            assert [each.auth_revision for each in node.proposed] == [5, 6, 7]

    asyncio.run(run())


def test_checking_again_has_an_end() -> None:
    async def run() -> None:
        async with _serving() as (node, served):

            def change() -> None:
                node.auth.revision += 1
                node.clock += 1

            node.before_apply = change
            assert await _refusal(served, "alice", "right") is RequestTimedOut
            assert len(node.proposed) == TIMEOUT_S

    asyncio.run(run())


def test_more_passwords_than_can_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """G-55: those who have a token are served meanwhile."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    go_on = threading.Event()

    def slow(_password: bytes, _kept: bytes) -> bool:
        return go_on.wait(20)

    monkeypatch.setattr(module, "_fits", slow)

    async def run() -> None:
        async with _serving() as (node, served):
            tries = [asyncio.ensure_future(served.authenticate("alice", "right")) for _ in range(6)]
            done, pending = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
            assert [type(each.exception()) for each in done] == [TooManyRequests]
            node.auth.tokens.assign("known.1", "alice")
            assert _found(served, "known.1") == [Identity("alice", 5)]
            go_on.set()
            await asyncio.gather(*pending)
            await served.authenticate("alice", "right")

    asyncio.run(run())


def test_a_member_that_stops_begins_nothing() -> None:
    async def run() -> None:
        async with _serving() as (_, served):
            served.close()
            assert await _refusal(served, "alice", "right") is Stopped
            with pytest.raises(Stopped):
                await served.hash("secret")

    asyncio.run(run())


# --- simple tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "x", "x.", "x.10", "x.-1", "x.0", "x.1x", "x.\u0661\u0661\u0661", "x.+99", "x.99 ", "99"),
        *("x." + "9" * 20, "x." + "9" * 26, "x." + "9" * 10_000, "\udcff.\udcff"),
    ],
)
def test_what_is_no_token_is_refused_at_once(token: str) -> None:
    """AU-47: only an index that may still come is worth waiting for."""

    async def run() -> None:
        async with _serving() as (_, served):
            (refusal,) = _found(served, token)
            assert isinstance(refusal, InvalidAuthToken)

    asyncio.run(run())


def test_a_token_of_another_member_is_waited_for() -> None:
    """AU-44: until this member has applied what the token speaks of; in the order of asking."""

    async def run() -> None:
        async with _serving() as (node, served):
            order: list[tuple[str, Any]] = []

            def ask(token: str) -> None:
                served.identify(token, lambda context, found: order.append((context, found)), token)

            for token in ("b.12", "a.13", "b.12", "a.12", "never.13"):
                ask(token)
            node.applier.index = 11
            served.on_applied(11)
            assert order == []
            node.auth.tokens.assign("a.12", "alice")
            node.auth.tokens.assign("b.12", "bob")
            node.applier.index = 12
            served.on_applied(12)
            assert order == [("b.12", ("bob", 5)), ("b.12", ("bob", 5)), ("a.12", ("alice", 5))]
            node.auth.tokens.assign("a.13", "anna")
            node.auth.revision = 6
            node.applier.index = 20
            served.on_applied(20)
            assert order[3] == ("a.13", ("anna", 6))
            assert order[4][0] == "never.13"
            assert isinstance(order[4][1], InvalidAuthToken)

    asyncio.run(run())


def test_more_tokens_than_can_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """G-55: anybody can speak of entries that will never come. Who has a token that is known need not wait."""
    monkeypatch.setattr(module, "MAX_HELD_TOKENS", 3)

    async def run() -> None:
        async with _serving() as (node, served):
            waiting = [_found(served, f"made-up.{each}") for each in range(90, 93)]
            (refusal,) = _found(served, "made-up.93")
            assert isinstance(refusal, TooManyRequests)
            assert waiting == [[], [], []]
            node.auth.tokens.assign("known.1", "alice")
            assert _found(served, "known.1") == [Identity("alice", 5)]
            node.applier.index = 90
            served.on_applied(90)
            assert _found(served, "made-up.94") == []

    asyncio.run(run())


def test_when_auth_is_turned_off_no_token_is_waited_for() -> None:
    """AU-13: also those of which nothing is known are good then."""

    async def run() -> None:
        async with _serving() as (node, served):
            waiting = [_found(served, token) for token in ("x.12", "x.99")]
            node.auth.enabled = False
            node.applier.index = 12
            served.on_applied(12)
            assert waiting == [[NO_IDENTITY], [NO_IDENTITY]]

    asyncio.run(run())


def test_nobody_waits_for_ever() -> None:
    """G-50, G-56."""

    async def run() -> None:
        async with _serving() as (node, served):
            first = _found(served, "x.99")
            node.clock += TIMEOUT_S - 1
            second = _found(served, "x.98")
            served.on_tick(node.clock)
            assert (first, second) == ([], [])
            node.clock += 1
            served.on_tick(node.clock)
            assert isinstance(first[0], InvalidAuthToken)
            assert second == []
            served.fail_all(Stopped())
            assert isinstance(second[0], Stopped)
            node.applier.index = 100
            served.on_applied(100)
            assert (len(first), len(second)) == (1, 1)

    asyncio.run(run())


def test_a_token_ends_when_it_is_not_used() -> None:
    """AU-43: each use gives it its whole life again."""

    async def run() -> None:
        async with _serving() as (node, served):
            _, token = await served.authenticate("alice", "right")
            _, idle = await served.authenticate("alice", "right")
            served.on_tick(node.clock)
            for _ in range(3):
                node.clock += TTL_S - 10
                served.on_tick(node.clock)
                assert _found(served, token) == [Identity("alice", 5)]
            assert isinstance(_found(served, idle)[0], InvalidAuthToken)
            assert len(node.auth.tokens) == 1, "what has ended takes no room"
            node.clock += TTL_S + 1
            assert isinstance(_found(served, token)[0], InvalidAuthToken)
            served.on_tick(node.clock)
            assert len(node.auth.tokens) == 0

    asyncio.run(run())


def test_tokens_are_not_looked_through_at_every_tick() -> None:
    async def run() -> None:
        async with _serving() as (node, served):
            looked: list[float] = []
            served._tokens = SimpleNamespace(expire=looked.append)
            for _ in range(30):
                node.clock += 0.1
                served.on_tick(node.clock)
            assert 2 <= len(looked) <= 3

    asyncio.run(run())


# --- signed tokens ----------------------------------------------------------------------------------------------------


def test_signed_tokens_are_made_and_read_here() -> None:
    """AU-45, AU-46: it says itself as of when it is; no other member has to hear of it."""

    async def run() -> None:
        async with _serving(FakeSigned()) as (node, served):
            assert await served.authenticate("alice", "right") == (REVISION, "alice as of 5")
            assert node.proposed[0].nonce == ""
            assert len(node.auth.tokens) == 0
            node.auth.revision = 9
            assert _found(served, "alice as of 5") == [Identity("alice", 5)]
            for token in ("x", "x.99", ""):
                (refusal,) = _found(served, token)
                assert isinstance(refusal, InvalidAuthToken)

    asyncio.run(run())


def test_the_work_goes_on_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns while a password is compared: this comparison ends only when it has."""
    turned, compare = threading.Event(), bcrypt.checkpw

    def compare_when_turned(password: bytes, kept: bytes) -> bool:
        assert turned.wait(30)
        return compare(password, kept)

    monkeypatch.setattr(module.bcrypt, "checkpw", compare_when_turned)

    async def run() -> None:
        async with _serving() as (node, served):
            node.auth.add("slow", bcrypt.hashpw(b"right", bcrypt.gensalt(4)))
            working = asyncio.ensure_future(served.authenticate("slow", "right"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not working.done()
            turned.set()
            await working

    asyncio.run(run())

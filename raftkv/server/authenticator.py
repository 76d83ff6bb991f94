"""Who somebody is: passwords, and the tokens that stand for them afterwards (contract 7.5).

A password is compared once, in a thread, for it costs tens of milliseconds on purpose; all later calls show a token.
Simple tokens are given out by applying, so every member knows them (AU-43); signed ones by this member alone. Owns the
threads, the randomness and the clock of all that; what a user may do is the AuthStore's affair.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import re
import secrets
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import bcrypt

from raftkv.apply import Kind
from raftkv.auth import (
    NO_IDENTITY,
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    Identity,
    InvalidAuthToken,
    PasswordlessUser,
)
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.server.errors import NodeError, RequestTimedOut, Stopped, TooManyRequests

if TYPE_CHECKING:
    from raftkv.server.node import Node

_log = logging.getLogger(__name__)

THREADS: Final = 2
"""Passwords that are worked on at a time; the rest of the machine is for those who have a token."""
MAX_WAITING: Final = 256
"""Passwords that wait for a thread: with the default cost about ten seconds' work. More are refused."""
MAX_PASSWORD_BYTES: Final = 72
"""What bcrypt looks at."""
MAX_FOREIGN_COST: Final = 16
"""Of a hash that a client made (AU-20): some four seconds' work, which a request can wait for. One of 31 would keep a
thread for days, for anybody who asks, and nothing can stop the thread, not even the end of the process."""
MAX_HELD_TOKENS: Final = 1024
"""Calls whose tokens tell of entries still to come. Anybody can make such tokens up: more are refused."""
NONCE_LETTERS: Final = 16
"""AU-43."""
EXPIRE_EVERY_S: Final = 1.0
_MAX_INDEX_DIGITS: Final = 20
_MAX_INDEX: Final = 2**64 - 1
_BCRYPT: Final = re.compile(rb"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
"""Asked before the library is, some versions of which do not survive what is shorter."""

Found: TypeAlias = Callable[[Any, "Identity | Exception"], None]
"""found(context, identity) or found(context, why not)."""

Result = TypeVar("Result")


class PasswordTooLong(NodeError):
    """The words are those of Go's bcrypt, so that tools show the same (AU-20)."""

    def __init__(self) -> None:
        super().__init__(f"bcrypt: password length exceeds {MAX_PASSWORD_BYTES} bytes")


class SignedTokens(Protocol):
    """See `jwt_tokens.JwtTokens`."""

    def sign(self, user: str, auth_revision: int) -> str: ...

    def verify(self, token: str) -> Identity: ...


class _Waiting(NamedTuple):
    """Somebody whose token tells of an entry that is not applied here yet. Ordered by that, then by arrival."""

    entry: int
    number: int
    until_s: float
    token: str
    found: Found
    context: Any


class Authenticator:
    def __init__(self, node: Node, signed: SignedTokens | None) -> None:
        """`signed`: None for simple tokens."""
        self._node = node
        self._auth = node.auth
        self._applier = node.applier
        self._tokens = node.auth.tokens
        self._signed = signed
        self._threads = ThreadPoolExecutor(THREADS, "bcrypt")
        self._in_threads = 0
        self._closed = False
        self._waiting: list[_Waiting] = []
        """A heap; bounded by MAX_HELD_TOKENS, and each by the request timeout."""
        self._arrivals = 0
        self._expired_s = 0.0
        self._tokens.ttl_s = node.config.auth_token_ttl_s

    # --- tokens -------------------------------------------------------------------------------------------------------

    def identify(self, token: str, found: Found, context: Any) -> None:
        """Tell whom the token stands for, perhaps at once: `found` gets the Identity, or InvalidAuthToken (AU-47), or
        TooManyRequests when too many tokens wait already."""
        if self._signed is not None:
            found(context, self._verified(token))
            return
        user = self._tokens.resolve(token, self._node.now())
        if user is not None:
            found(context, Identity(user, self._auth.revision))
            return
        index = _index_in(token)
        if index <= self._applier.index:
            found(context, InvalidAuthToken())
            return
        if len(self._waiting) >= MAX_HELD_TOKENS:
            found(context, TooManyRequests())
            return
        # Another member gave it out, and this one will hear of it (AU-44).
        self._arrivals += 1
        until_s = self._node.now() + self._node.config.request_timeout_s
        heapq.heappush(self._waiting, _Waiting(index, self._arrivals, until_s, token, found, context))

    def _verified(self, token: str) -> Identity | InvalidAuthToken:
        assert self._signed is not None
        try:
            return self._signed.verify(token)
        except InvalidAuthToken as refusal:
            return refusal

    def on_applied(self, applied: int) -> None:
        enabled = self._auth.enabled
        while self._waiting and (self._waiting[0].entry <= applied or not enabled):
            waiting = heapq.heappop(self._waiting)
            if enabled:
                self.identify(waiting.token, waiting.found, waiting.context)
            else:  # turned off meanwhile: what its token stands for is nobody's business any more (AU-13)
                waiting.found(waiting.context, NO_IDENTITY)

    def on_tick(self, now: float) -> None:
        if now - self._expired_s >= EXPIRE_EVERY_S:
            self._expired_s = now
            self._tokens.expire(now)
            late = [each for each in self._waiting if each.until_s <= now]
            if late:
                self._waiting = [each for each in self._waiting if each.until_s > now]
                heapq.heapify(self._waiting)
                self._refuse(sorted(late), InvalidAuthToken())

    def fail_all(self, error: NodeError) -> None:
        waiting, self._waiting = self._waiting, []
        self._refuse(sorted(waiting), error)

    @staticmethod
    def _refuse(waiting: list[_Waiting], error: Exception) -> None:
        for each in waiting:
            each.found(each.context, error)

    def close(self) -> None:
        """Nothing is begun any more; what a thread works on goes to nobody."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- passwords ----------------------------------------------------------------------------------------------------

    async def hash(self, password: str) -> bytes:
        """What may be kept of a password. Raises PasswordTooLong or TooManyRequests."""
        raw = password.encode()
        if len(raw) > MAX_PASSWORD_BYTES:
            raise PasswordTooLong
        # As etcd writes them.
        salt = bcrypt.gensalt(self._node.config.bcrypt_cost, prefix=b"2a")
        return await self._in_thread(lambda: bcrypt.hashpw(raw, salt))

    async def authenticate(self, name: str, password: str) -> tuple[int, str]:
        """Store revision for the header, and a new token. Raises AuthError or NodeError (AU-40, AU-41).

        A member that only verifies signed tokens raises jwt_tokens.VerifyOnly in the end.
        """
        node = self._node
        until_s = node.now() + node.config.request_timeout_s
        await self._linearizable()
        while True:
            checked_revision = self._auth.revision
            await self._check_password(name, password)
            try:
                revision, token = await self._propose(name, checked_revision)
            except AuthOldRevision:
                # Users or rights have changed meanwhile, perhaps this password.
                if node.now() >= until_s:
                    raise RequestTimedOut from None
            else:
                return revision, token

    async def _check_password(self, name: str, password: str) -> None:
        if not self._auth.enabled:
            raise AuthNotEnabled
        user = self._auth.user(name)
        if user is None:
            raise AuthFailed
        if user.options.no_password:
            raise PasswordlessUser
        raw, kept = password.encode()[:MAX_PASSWORD_BYTES], user.password
        if not self._can_compare(name, kept) or not await self._in_thread(lambda: _fits(raw, kept)):
            raise AuthFailed

    def _can_compare(self, name: str, kept: bytes) -> bool:
        """False when nothing is kept, or what no bcrypt made, or more work than anybody can wait for: no password fits
        (AU-22)."""
        made = _BCRYPT.fullmatch(kept)
        if made is None:
            return False
        cost, limit = int(made[1]), max(MAX_FOREIGN_COST, self._node.config.bcrypt_cost)
        if cost > limit:
            fields = {"user": name, "cost": cost, "limit": limit}
            _log.warning("nobody can log in as this user: comparing its password takes too long", extra={"kv": fields})
        return cost <= limit

    async def _propose(self, name: str, auth_revision: int) -> tuple[int, str]:
        """Have it confirmed that nothing changed since the password was checked, and a token made."""
        signed = self._signed
        nonce = "" if signed is not None else _make_nonce()
        request = peer_pb2.Authentication(name=name, auth_revision=auth_revision, nonce=nonce)
        applied: asyncio.Future[Any] = self._node.loop.create_future()
        self._node.propose(Kind.AUTHENTICATE, request.SerializeToString(), _settle, applied)
        result = await applied
        if type(result) is not tuple:
            raise result
        revision, body = result
        if signed is None:
            return revision, rpc_pb2.AuthenticateResponse.FromString(body).token
        return revision, await self._in_thread(lambda: signed.sign(name, auth_revision))

    async def _linearizable(self) -> None:
        read: asyncio.Future[Any] = self._node.loop.create_future()
        self._node.linearizable(_settle, read)
        error = await read
        if error is not None:
            raise error

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise Stopped
        if self._in_threads >= THREADS + MAX_WAITING:
            raise TooManyRequests
        self._in_threads += 1
        try:
            return await self._node.loop.run_in_executor(self._threads, work)
        finally:
            self._in_threads -= 1


def _settle(waiter: asyncio.Future[Any], result: Any) -> None:
    if not waiter.done():
        waiter.set_result(result)


def _make_nonce() -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(NONCE_LETTERS))


def _fits(password: bytes, kept: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, kept)
    except ValueError:  # a cost below 4, or a salt that no bcrypt would write
        return False


def _index_in(token: str) -> int:
    """The log index of a simple token; 0 for what cannot be one."""
    _, dot, digits = token.rpartition(".")
    if not dot or len(digits) > _MAX_INDEX_DIGITS or not (digits.isascii() and digits.isdecimal()):
        return 0
    index = int(digits)
    return index if index <= _MAX_INDEX else 0

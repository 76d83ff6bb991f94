"""The JSON gateway: what gRPC serves, for clients that speak HTTP and JSON (contract section 10.2).

Owns the way from a request to a handler: path, metadata, the messages of the body. It calls the very handlers that gRPC
calls, through the same gates, in this process. How messages look in JSON, and how an answer leaves, is told elsewhere
(`gateway_json`, `gateway_call`).
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

from raftkv.api.gateway_call import (
    Answer,
    GatewayCall,
    Headers,
    LinesAnswer,
    SocketAnswer,
    WholeAnswer,
    respond_error,
)
from raftkv.api.gateway_json import MalformedJSON, decode_text, fill, next_value
from raftkv.api.gateway_paths import BINDINGS, Binding
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.grpc import parse_timeout
from raftkv.rpc.service import MethodKind, StreamHandler, StreamReceiver, UnaryHandler

if TYPE_CHECKING:
    from raftkv.rpc.http_exchange import HttpExchange
    from raftkv.rpc.service import Routes
    from raftkv.rpc.stats import Stats
    from raftkv.server import Node

PREFIXES: Final = ("/v3/", "/v3beta/")
_OLD_PREFIX: Final = "/v3beta/"

MESSAGES_PER_TURN: Final = 64
"""Messages of one body that go to a stream in one turn of the loop."""
MAX_WAITING_TEXTS: Final = 1000
"""Of a WebSocket whose client sends faster than it reads. Beyond: RESOURCE_EXHAUSTED."""

_METADATA: Final = "grpc-metadata-"
_TEXT: Final = ("content-type", "text/plain; charset=utf-8")
_IGNORED_NAME: Final = (
    b"The name in this client's certificate is not taken for a user by the JSON gateway: send a token "
    b"(/v3/auth/authenticate) over a connection whose certificate names nobody, or call over gRPC.\n"
)
_TOO_FAST: Final = "too many messages that wait for their answers to be read"


class BadRequest(Exception):
    """Why a request reaches no handler. `args`: (code, text)."""


class Gateway:
    def __init__(self, node: Node, routes: Routes, stats: Stats) -> None:
        """`stats`: those of gRPC, whose methods are what is called."""
        self._node = node
        self._routes = routes
        self._stats = stats

    def handle(self, exchange: HttpExchange, headers: Headers) -> None:
        """Serve a request whose path begins with one of PREFIXES. `headers` go with any answer."""
        path, _, query = exchange.target.partition("?")
        if path.startswith(_OLD_PREFIX):  # H-23
            path = "/v3/" + path[len(_OLD_PREFIX) :]
        if exchange.tls_common_name and self._certificates_name_users():
            exchange.respond(HTTPStatus.BAD_REQUEST, [_TEXT, *headers], _IGNORED_NAME)
            return
        binding = BINDINGS.get(path)
        if binding is None:
            respond_error(exchange, headers, Code.NOT_FOUND, "Not Found")
            return
        try:
            if exchange.wants_socket:
                self._open_socket(exchange, binding, query)
            elif exchange.method != "POST":
                respond_error(exchange, headers, Code.UNIMPLEMENTED, "Method Not Allowed")  # H-21
            elif self._routes[binding.path].kind is MethodKind.UNARY:
                message = self.encode(binding, decode_text(exchange.body))
                self.call_unary(exchange, binding, metadata_of(exchange), message, WholeAnswer(exchange, headers))
            else:
                self._stream(exchange, binding, LinesAnswer(exchange, headers))
        except MalformedJSON as error:
            respond_error(exchange, headers, Code.INVALID_ARGUMENT, str(error))  # H-31
        except BadRequest as refusal:
            respond_error(exchange, headers, *refusal.args)

    def _certificates_name_users(self) -> bool:
        """Over gRPC, that is. Here they do not, and a client that counts on it had better be told (AU-62)."""
        return self._node.config.client_tls.client_cert_auth and self._node.auth.enabled

    # --- one message --------------------------------------------------------------------------------------------------

    def encode(self, binding: Binding, text: str) -> bytes:
        """The first object of a text, or an empty one, as a message. What follows it is not looked at, as in etcd.

        Raises MalformedJSON, BadRequest.
        """
        found = next_value(text, 0)
        return self.encode_value(binding, () if found is None else found[0])

    def encode_value(self, binding: Binding, value: Any) -> bytes:
        """Raises MalformedJSON, BadRequest."""
        message = binding.request()
        fill(message, value)
        encoded = message.SerializeToString()
        limit = self._node.config.max_recv_bytes
        if len(encoded) > limit:  # LIM-03
            text = f"grpc: received message larger than max ({len(encoded)} vs. {limit})"
            raise BadRequest(Code.RESOURCE_EXHAUSTED, text)
        return encoded

    # --- calls --------------------------------------------------------------------------------------------------------

    def call_unary(
        self, exchange: HttpExchange, binding: Binding, metadata: Mapping[str, str], message: bytes, answer: Answer
    ) -> None:
        """Raises BadRequest."""
        call = self.open(exchange, binding, metadata, answer)
        call.guard(cast(UnaryHandler, call.method.handler), call, message)

    def _stream(self, exchange: HttpExchange, binding: Binding, answer: Answer) -> None:
        """A stream whose requests are all in the body.

        Raises MalformedJSON if already the first is none, and BadRequest: the answer has not begun then.
        """
        text = decode_text(exchange.body)
        first = next_value(text, 0)
        if first is not None:
            self.encode_value(binding, first[0])
        self.open_stream(exchange, binding, metadata_of(exchange), answer).take_all(text)

    def open_stream(
        self, exchange: HttpExchange, binding: Binding, metadata: Mapping[str, str], answer: Answer
    ) -> Feed:
        """Raises BadRequest."""
        call = self.open(exchange, binding, metadata, answer)
        feed = Feed(self, call, binding)
        exchange.on_writable = feed.on_writable
        call.guard(feed.meet, cast(StreamHandler, call.method.handler))
        return feed

    def open(
        self, exchange: HttpExchange, binding: Binding, metadata: Mapping[str, str], answer: Answer
    ) -> GatewayCall:
        """Raises BadRequest when the metadata is not acceptable."""
        method = self._routes[binding.path]
        refused = None if method.admit is None else method.admit(metadata.get)
        if refused is not None:
            raise BadRequest(*refused)
        timeout = exchange.header("grpc-timeout")
        timeout_s = None if timeout is None else _timeout_s(timeout)
        stats = self._stats.of_method(binding.path)
        call = GatewayCall(exchange, method, metadata, binding.response, answer, stats, self._node.slices)
        if timeout_s is not None:
            call.expire_in(self._node.loop, timeout_s)
        return call

    def later(self, step: Callable[[], None]) -> None:
        self._node.loop.call_soon(step)

    # --- WebSockets ---------------------------------------------------------------------------------------------------

    def _open_socket(self, exchange: HttpExchange, binding: Binding, query: str) -> None:
        """H-28. A browser cannot set the header Authorization here: it names the token as a subprotocol."""
        if parse_qs(query).get("method", ["POST"])[0] != "POST":
            raise BadRequest(Code.UNIMPLEMENTED, "Method Not Allowed")
        metadata = metadata_of(exchange)
        offered = [each.strip() for each in (exchange.header("sec-websocket-protocol") or "").split(",")]
        if len(offered) == 2 and offered[0].lower() == "bearer":
            metadata["authorization"] = f"Bearer {offered[1]}"
        session = _SocketSession(self, exchange, binding, metadata, self._routes[binding.path].kind)
        exchange.open_socket(offered[0] or None, session.take)
        session.begin()


class _SocketSession:
    """A call over a WebSocket. Of a unary method the first message is the request."""

    __slots__ = ("_answer", "_binding", "_exchange", "_feed", "_gateway", "_is_stream", "_metadata", "_taken")

    def __init__(
        self,
        gateway: Gateway,
        exchange: HttpExchange,
        binding: Binding,
        metadata: Mapping[str, str],
        kind: MethodKind,
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._binding = binding
        self._metadata = metadata
        self._is_stream = kind is not MethodKind.UNARY
        self._answer = SocketAnswer(exchange, self._is_stream)
        self._feed: Feed | None = None
        self._taken = False

    def begin(self) -> None:
        if self._is_stream:
            self._guard(self._open_stream)

    def take(self, text: str) -> None:
        if self._feed is not None:
            self._feed.take(text)
        elif not self._is_stream and not self._taken:
            self._taken = True
            self._guard(self._call, text)

    def _open_stream(self) -> None:
        self._feed = self._gateway.open_stream(self._exchange, self._binding, self._metadata, self._answer)

    def _call(self, text: str) -> None:
        message = self._gateway.encode(self._binding, text)
        self._gateway.call_unary(self._exchange, self._binding, self._metadata, message, self._answer)

    def _guard(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except MalformedJSON as error:
            self._answer.fail(Code.INVALID_ARGUMENT, str(error))
        except BadRequest as refusal:
            self._answer.fail(*refusal.args)


class Feed:
    """The requests of one stream, handed on a few at a time, and no faster than their answers leave."""

    __slots__ = ("_at", "_binding", "_call", "_ends", "_gateway", "_receiver", "_scheduled", "_texts")

    def __init__(self, gateway: Gateway, call: GatewayCall, binding: Binding) -> None:
        self._gateway = gateway
        self._call = call
        self._binding = binding
        self._receiver: StreamReceiver | None = None
        self._texts: deque[str] = deque()
        """The body, or what came through a WebSocket: at most MAX_WAITING_TEXTS."""
        self._at = 0
        """How far the first has been read."""
        self._ends = False
        """Nothing more comes behind `_texts`."""
        self._scheduled = False

    def meet(self, handler: StreamHandler) -> None:
        self._receiver = handler(self._call)
        self._call.meet(self._receiver)

    def take_all(self, text: str) -> None:
        """A whole body."""
        self._ends = True
        self._texts.append(text)
        self._go_on()

    def take(self, text: str) -> None:
        """One message of a WebSocket."""
        if self._call.done:
            return
        if len(self._texts) >= MAX_WAITING_TEXTS:
            self._call.fail(Code.RESOURCE_EXHAUSTED, _TOO_FAST)
            return
        self._texts.append(text)
        self._go_on()

    def on_writable(self) -> None:
        self._call.on_writable()
        self._go_on()

    def _go_on(self) -> None:
        if not self._scheduled:
            self._call.guard(self._hand_on)

    def _hand_on_later(self) -> None:
        self._scheduled = False
        self._call.guard(self._hand_on)

    def _hand_on(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if self._call.done:
                self._texts.clear()
                return
            if self._call.full or not self._texts:
                return
            self._hand_on_one()
        if self._texts and not self._call.done:
            self._scheduled = True
            self._gateway.later(self._hand_on_later)

    def _hand_on_one(self) -> None:
        assert self._receiver is not None, "only a stream that was opened is fed"
        is_bidi = self._call.method.kind is MethodKind.BIDI
        try:
            found = next_value(self._texts[0], self._at)
            if found is None and not is_bidi:
                found = (), len(self._texts[0])  # an empty body is an empty object
            message = None if found is None else self._gateway.encode_value(self._binding, found[0])
        except MalformedJSON as error:
            self._call.fail(Code.INVALID_ARGUMENT, str(error))
            return
        except BadRequest as refusal:
            self._call.fail(*refusal.args)
            return
        if found is None:
            self._texts.popleft()
            self._at = 0
        else:
            self._at = found[1]
            assert message is not None, "a value was found"
            self._receiver.on_message(message)
        if not is_bidi:
            self._texts.clear()  # the server streams alone: there is one request
            self._ends = True
        if self._ends and not self._texts and not self._call.done:
            self._receiver.on_half_close()


# --- metadata ---------------------------------------------------------------------------------------------------------


def metadata_of(exchange: HttpExchange) -> dict[str, str]:
    """What a handler is told of the headers (H-29), presented as `Call.metadata` says.

    Raises BadRequest for a binary value that is not base64.
    """
    # There whether or not the client sent the header: it says that the call came this way (G-25).
    found = {"grpcgateway-accept": ""}
    for name, value in reversed(exchange.headers):  # so that the first of a name counts
        if name.startswith(_METADATA):
            key = name[len(_METADATA) :]
            found[key] = _binary(key, value) if key.endswith("-bin") else _text(value)
    for name, key in (("authorization", "authorization"), ("accept", "grpcgateway-accept")):
        given = exchange.header(name)
        if given is not None:
            found[key] = _text(given)
    return found


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("latin-1").decode("utf-8", "surrogateescape")


def _binary(key: str, value: str) -> str:
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(Code.INVALID_ARGUMENT, f"invalid binary header {key}: it is not base64") from None
    return raw.decode("utf-8", "surrogateescape")


def _timeout_s(value: str) -> float:
    try:
        return parse_timeout(value.encode("latin-1"))
    except RpcError:
        raise BadRequest(Code.INVALID_ARGUMENT, f"invalid grpc-timeout: {value}") from None

"""What all connections of one listener share: routes, limits, deadlines, and what a request head means.

Owns the step from a header list to a `CallHead`. Knows no connection and no stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.deadlines import Deadlines
from raftkv.rpc.grpc import (
    is_grpc_content_type,
    metadata_text,
    parse_timeout,
    unsupported_encoding_trailers,
)
from raftkv.rpc.headers import (
    Header,
    HeaderFields,
    MalformedHeadersError,
    check_request,
    check_request_trailers,
)
from raftkv.rpc.http_exchange import HttpHandler
from raftkv.rpc.limits import Limits
from raftkv.rpc.service import Method, MethodKind, Routes, unimplemented_text
from raftkv.rpc.stats import MethodStats, Stats

REMEMBERED_HEADS: Final = 1024
"""Heads kept for all connections. When full all are forgotten."""
REMEMBERED_HEAD_BYTES: Final = 2048
"""Larger header lists are interpreted every time."""

Refusal = tuple[Code, str, bytes]
"""Code, text and extra trailers of a call that ends at its head."""


class CallHead:
    """What a request head says, shared by every call that came with the same fields."""

    __slots__ = ("_metadata", "fast", "fields", "gzip", "is_trailers", "method", "refusal", "stats")

    def __init__(self) -> None:
        self.fields: HeaderFields | None = None
        """None: the list is no request (malformed, or trailers)."""
        self.is_trailers = False
        """Not a request head but fit to end one."""
        self.method: Method | None = None
        """None: not a gRPC call, or refused."""
        self.refusal: Refusal | None = None
        self.stats: MethodStats = _NO_STATS
        self.gzip = False
        self.fast = False
        """A unary method without content-length: a lone DATA frame is a whole request."""
        self._metadata: dict[str, str] | None = None

    def metadata(self, key: str) -> str | None:
        if self._metadata is None:
            assert self.fields is not None, "only a call has metadata"
            self._metadata = metadata_text(self.fields.fields)
        return self._metadata.get(key)


_NO_STATS: Final = MethodStats("")
"""Takes the counts of calls for paths that are not served: those are in Stats.calls_rejected."""


class ServerContext:
    def __init__(
        self,
        routes: Routes,
        http_handler: HttpHandler | None,
        limits: Limits,
        stats: Stats,
        request_sweep: Callable[[], None],
    ) -> None:
        self.routes: Final = routes
        self.http_handler: Final = http_handler
        self.limits: Final = limits
        self.stats: Final = stats
        self.deadlines: Final = Deadlines(request_sweep)
        self._heads: dict[tuple[Header, ...], CallHead] = {}

    def interpret(self, headers: list[Header]) -> tuple[CallHead, float | None]:
        """The head and the timeout in seconds.

        Clients send a new timeout with almost every call and the rest unchanged, so the rest is looked up
        as a whole.
        """
        rest = tuple([header for header in headers if header[0] != b"grpc-timeout"])
        head = self._heads.get(rest)
        if head is None:
            head = self._build(rest)
            if sum(len(name) + len(value) for name, value, _ in rest) <= REMEMBERED_HEAD_BYTES:
                if len(self._heads) >= REMEMBERED_HEADS:
                    self._heads.clear()
                self._heads[rest] = head
        if len(rest) == len(headers):
            return head, None
        return self._with_timeout(head, headers)

    def _with_timeout(self, head: CallHead, headers: list[Header]) -> tuple[CallHead, float | None]:
        at = len(headers) - 1
        while headers[at][0] != b"grpc-timeout":
            at -= 1
        if at + 1 < len(headers) and headers[at + 1][0].startswith(b":"):
            return CallHead(), None
        try:
            return head, parse_timeout(headers[at][1])
        except RpcError as error:
            refused = CallHead()
            refused.fields = head.fields
            refused.is_trailers = head.is_trailers
            refused.refusal = (error.code, error.text, b"")
            return refused, None

    def _build(self, headers: tuple[Header, ...]) -> CallHead:
        head = CallHead()
        try:
            head.fields = check_request(list(headers))
        except MalformedHeadersError:
            head.is_trailers = _is_trailers(headers)
            return head
        fields = dict(reversed(head.fields.fields))
        if not is_grpc_content_type(fields.get(b"content-type", b"")):
            return head
        path = head.fields.pseudo[b":path"]
        encoding = fields.get(b"grpc-encoding", b"identity")
        method = self.routes.get(path)
        if head.fields.pseudo[b":method"] != b"POST":
            head.refusal = (Code.INTERNAL, "gRPC requires the method POST", b"")
        elif method is None:
            head.refusal = (Code.UNIMPLEMENTED, unimplemented_text(self.routes, path), b"")
        elif encoding not in (b"identity", b"gzip"):
            head.refusal = (Code.UNIMPLEMENTED, *unsupported_encoding_trailers(encoding))
        elif method.admit is not None and (refused := method.admit(head.metadata)) is not None:
            head.refusal = (*refused, b"")
        else:
            head.method = method
            head.stats = self.stats.of_method(path, head.metadata("client-api-version"))
            head.gzip = encoding == b"gzip"
            head.fast = method.kind is MethodKind.UNARY and head.fields.content_length is None
        return head


def _is_trailers(headers: tuple[Header, ...]) -> bool:
    try:
        check_request_trailers(list(headers))
    except MalformedHeadersError:
        return False
    return True

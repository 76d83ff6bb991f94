"""What the services share: the node, the header, and the ways a call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from raftkv.api import errors
from raftkv.api.errors import refuse, status_of
from raftkv.api.header import HeaderEncoder
from raftkv.rpc.codes import Code

if TYPE_CHECKING:
    from raftkv.rpc.service import Call
    from raftkv.server import Node

Request = TypeVar("Request")
"""A protobuf message."""

REQUEST_HEADER_BYTES: Final = 18
"""What etcd's log adds to a request before it compares with --max-request-bytes (LIM-01): the same requests fit."""


class ApiContext:
    __slots__ = ("_applier", "_encoder", "_max_message_bytes", "_propose", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self._applier = node.applier
        self._encoder = HeaderEncoder(node.cluster_id, node.member_id)
        self._max_message_bytes = node.config.max_request_bytes - REQUEST_HEADER_BYTES
        self._propose = node.propose

    def header(self, revision: int) -> bytes:
        """Encoded header field with this revision and the term of the last applied entry (G-10 to G-12)."""
        return self._encoder.encode(revision, self._applier.term)

    def header_now(self) -> bytes:
        return self._encoder.encode(self.node.store.current_revision, self._applier.term)

    def header_without_revision(self) -> bytes:
        """For the Cluster service (G-15)."""
        return self._encoder.without_revision(self._applier.term)

    def propose(self, call: Call, kind: int, message: bytes, finish: Callable[[Call, Any], None] | None = None) -> None:
        """Have the request applied; `finish(call, result)` answers, by default with header and body."""
        if len(message) > self._max_message_bytes:
            refuse(call, errors.REQUEST_TOO_LARGE)
            return
        self._propose(kind, message, finish or self.finish, call)

    def finish(self, call: Call, result: Any) -> None:
        """Answer with what applying gave: (revision, body), or the refusal."""
        if type(result) is tuple:
            call.reply(self._encoder.encode(result[0], self._applier.term) + result[1])
        else:
            refuse(call, status_of(result))

    def parse(self, call: Call, read: Callable[[bytes], Request], message: bytes) -> Request | None:
        """The request, or None, and the call is refused, when the bytes are not one."""
        try:
            return read(message)
        except Exception as damage:
            self.refuse_malformed(call, damage)
            return None

    def refuse_malformed(self, call: Call, damage: Exception) -> None:
        """A message that is not what its method takes. The wording is grpc-go's, so that tools show the same."""
        call.fail(Code.INTERNAL, f"grpc: error unmarshalling request: {damage}")

    def refuse_no_space(self, call: Call) -> None:
        """Refused before it is proposed; the alarm tells the other members (AL-23)."""
        self.node.space.raise_alarm()
        refuse(call, errors.NO_SPACE)

    def unless_no_leader(self, call: Call) -> bool:
        """False, and the call is refused, when it asked for a leader and none is known (G-20)."""
        if self.node.leader_id or call.metadata("hasleader") != "true":
            return True
        refuse(call, errors.NO_LEADER)
        return False

"""What the services share: the node, the header, and the ways a call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from raftkv.api import errors
from raftkv.api.errors import refuse, status_of
from raftkv.api.header import HeaderEncoder
from raftkv.api.identity_gate import identify
from raftkv.api.registry_counts import RegistryCounts, new_registry_counts
from raftkv.apply import Kind, encode_as_user
from raftkv.auth import NO_IDENTITY, AuthError, Identity
from raftkv.pb.splice import framed, varint
from raftkv.rpc.codes import Code
from raftkv.server.list_budget import LARGE_BYTES

if TYPE_CHECKING:
    from raftkv.api.identity_gate import Check
    from raftkv.rpc.service import Call
    from raftkv.server import Node

Request = TypeVar("Request")
"""A protobuf message."""

REQUEST_HEADER_BYTES: Final = 18
"""What etcd's log adds to a request before it compares with --max-request-bytes (LIM-01): the same requests fit."""
_REQUEST_ID_BYTES: Final = 11
"""The part of it that is in a message of its own, where the user's name stands as well."""


class ApiContext:
    __slots__ = ("_applier", "_auth", "_encoder", "_max_message_bytes", "_permitted", "_propose", "node", "registry")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.registry: Final[RegistryCounts] = new_registry_counts()
        self._applier = node.applier
        self._auth = node.auth
        self._permitted: Call | None = None
        """Whose read has been found permitted and is being done: it asks once more on its way."""
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
        """Have the request applied; `finish(call, result)` answers, by default with header and body.

        With auth on it goes into the log in the name of whoever calls, and applying checks the rights (AU-49).
        """
        size = len(message)
        if self._auth.enabled:
            identity = self.identity(call)
            size += _header_bytes(identity)
            kind, message = Kind.AS_USER, encode_as_user(identity, kind, message)
        if size > self._max_message_bytes:
            refuse(call, errors.REQUEST_TOO_LARGE)
            return
        self._propose(kind, message, finish or self.finish, call)

    def finish(self, call: Call, result: Any) -> None:
        """Answer with what applying gave: (revision, body), or the refusal."""
        if type(result) is tuple:
            self.answer(call, self._encoder.encode(result[0], self._applier.term) + result[1])
        else:
            refuse(call, status_of(result))

    def answer(self, call: Call, message: bytes) -> None:
        """With what is in memory as a whole, and did not wait for that: it counts if it is large."""
        if len(message) <= LARGE_BYTES:
            call.reply(message)
            return
        share = self.node.list_budget.count(len(message))
        share.sends(len(message), call.cut_off)
        call.reply_in_parts([message], share.release)

    # --- who calls, and what they may do ------------------------------------------------------------------------------

    @staticmethod
    def identity(call: Call) -> Identity:
        """Whom the call is by, as far as is known: of a call that came before auth was on, nobody."""
        found = call.identity
        return NO_IDENTITY if found is None else found

    @staticmethod
    def note(call: Call, found: Identity | Exception) -> bool:
        """Remember who calls. False, and the call is refused, when it was a token that stands for nobody (AU-47)."""
        if isinstance(found, Exception):
            refuse(call, status_of(found))
            return False
        call.identity = found
        return True

    def permits(self, call: Call, check: Check) -> bool:
        """False, and the call is refused, when the check says so."""
        try:
            check(self.identity(call))
        except AuthError as refusal:
            refuse(call, status_of(refusal))
            return False
        return True

    def may_read(self, call: Call, check: Check, read: Callable[[Any, None], None], argument: Any) -> bool:
        """Whether a read whose index is confirmed may be done now; for while auth is on (AU-49).

        False: the call was refused, or `read(argument, None)` will be called, when it is known whose the token is now:
        users and rights have changed while the index was waited for.
        """
        if call is self._permitted:
            return True
        known = call.identity
        if known is not None and known.auth_revision >= self._auth.revision:
            return self.permits(call, check)
        identify(self, call, self._read_again, (call, check, read, argument))
        return False

    def _read_again(
        self, waiting: tuple[Call, Check, Callable[[Any, None], None], Any], found: Identity | Exception
    ) -> None:
        call, check, read, argument = waiting
        if self.note(call, found) and self.permits(call, check):
            self._permitted = call  # for a signed token is not newer than before
            read(argument, None)
            self._permitted = None

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


def _header_bytes(identity: Identity) -> int:
    """What a user adds to a request in etcd's log: user_name and auth_revision of its header (LIM-01)."""
    user, revision = identity
    if not user:
        return 0
    size = len(framed(b"\x12", user.encode())) + 1 + len(varint(revision))
    return size if _REQUEST_ID_BYTES + size < 128 else size + 1  # its own length takes a byte more

"""What both ends of a link agree on: method names, who one says one is, how a Raft message travels, what a refusal
says.

Members speak gRPC to each other on the peer URLs; the messages are in protos/peer.proto, Raft's own in `raftkv.wire`.
Every call carries the caller's identity as metadata, which the client's header cache makes free:

    raftkv-cluster   cluster id, hex                 another cluster is refused (H-71)
    raftkv-from      member id of the caller, hex    a removed member is refused for good (CL-06)
    raftkv-to        member id meant, hex            an address that now belongs to somebody else is noticed
    raftkv-data      the data directory's id, hex    one that lost its data is refused (RF-72)
    raftkv-urls      peer URLs of the caller         whoever does not know it yet can answer it all the same
    raftkv-protocol  version of all this             another one is refused (H-72)

A Raft message on a stream is its bytes behind their CRC-32C: TCP's own checksum is weak, and what is wrongly appended
cannot be taken back.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

from raftkv.rpc.codes import Code
from raftkv.wire import WireError, decode_message, message_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.raft import Message
    from raftkv.rpc.client_call import Metadata

PROTOCOL_VERSION: Final = "1"
SERVICE: Final = "raftkvpb.Peer"

MESSAGES: Final = b"/raftkvpb.Peer/Messages"
PROBE: Final = b"/raftkvpb.Peer/Probe"
MEMBERS: Final = b"/raftkvpb.Peer/Members"
FORWARD: Final = b"/raftkvpb.Peer/Forward"
OPEN_COPY: Final = b"/raftkvpb.Peer/OpenCopy"
READ_COPY: Final = b"/raftkvpb.Peer/ReadCopy"
CLOSE_COPY: Final = b"/raftkvpb.Peer/CloseCopy"
STATE_HASHES: Final = b"/raftkvpb.Peer/StateHashes"
DIVERGED: Final = b"/raftkvpb.Peer/Diverged"

KEY_CLUSTER: Final = "raftkv-cluster"
KEY_FROM: Final = "raftkv-from"
KEY_TO: Final = "raftkv-to"
KEY_DATA: Final = "raftkv-data"
KEY_URLS: Final = "raftkv-urls"
KEY_PROTOCOL: Final = "raftkv-protocol"

TEXT_OTHER_CLUSTER: Final = "cluster ID mismatch"
TEXT_REMOVED: Final = "the member has been permanently removed from the cluster"
TEXT_OTHER_DATA: Final = "the member has joined before with another data directory"
TEXT_WRONG_MEMBER: Final = "another member listens on this peer URL"
TEXT_PROTOCOL: Final = "incompatible peer protocol"
TEXT_NOT_LEADER: Final = "not the leader"

WELCOME: Final = Struct(">Q")
"""The one message that a receiver of Raft messages sends back: its data directory's id."""

_CRC: Final = Struct(">I")


class Identity(NamedTuple):
    """Who one is, as the metadata of every call says."""

    cluster_id: int
    member_id: int
    data_id: int
    """Random, made with the data directory; 0 for one that an early version made."""

    def metadata(self, to: int, urls: Sequence[str] = ()) -> Metadata:
        """`urls`: where the caller listens for other members, if it does."""
        return (
            (KEY_CLUSTER, f"{self.cluster_id:x}"),
            (KEY_FROM, f"{self.member_id:x}"),
            (KEY_TO, f"{to:x}"),
            (KEY_DATA, f"{self.data_id:x}"),
            (KEY_URLS, ",".join(urls)),
            (KEY_PROTOCOL, PROTOCOL_VERSION),
        )


class PeerCallError(Exception):
    """A call to another member did not work: it is away, or it said so."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text or code.name)
        self.code = code
        self.text = text


class Refused(PeerCallError):
    """Another member does not talk to this one. The base of the reasons that make a difference."""


class RefusedByCluster(Refused):
    """It belongs to another cluster (H-71)."""


class RefusedAsRemoved(Refused):
    """This member was removed (CL-34)."""


class RefusedWithOtherData(Refused):
    """This member's data directory is not the one it joined with (RF-72)."""


_REFUSALS: Final = {
    TEXT_OTHER_CLUSTER: RefusedByCluster,
    TEXT_REMOVED: RefusedAsRemoved,
    TEXT_OTHER_DATA: RefusedWithOtherData,
    TEXT_WRONG_MEMBER: Refused,
    TEXT_PROTOCOL: Refused,
}


def error_of(code: Code, text: str) -> PeerCallError:
    """The error that a status of a peer stands for."""
    if code is Code.FAILED_PRECONDITION:
        return _REFUSALS.get(text, PeerCallError)(code, text)
    return PeerCallError(code, text)


def seal(message: Message) -> bytes:
    """A Raft message as it travels: CRC-32C, 4 bytes big endian, then its bytes."""
    body = b"".join(message_parts(message))
    return _CRC.pack(google_crc32c.value(body)) + body


def unseal(data: bytes) -> Message:
    """Inverse of `seal`. Raises WireError for what it could not have written."""
    body = data[_CRC.size :]
    if len(data) < _CRC.size or google_crc32c.value(body) != _CRC.unpack_from(data)[0]:
        raise WireError(f"a message of {len(data)} bytes whose checksum does not match")
    return decode_message(body)

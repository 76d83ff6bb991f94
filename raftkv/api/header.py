"""The ResponseHeader of this member, encoded once and spliced in front of every reply (G-10 to G-18)."""

from __future__ import annotations

from typing import Final

from raftkv.pb.splice import framed, varint

_HEADER_TAG: Final = b"\x0a"


class HeaderEncoder:
    """Makes header fields (tag, length, ResponseHeader) ready to be followed by a response's body."""

    __slots__ = ("_ids", "_last", "_last_revision", "_term", "_term_bytes")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._term = -1
        self._term_bytes = b""
        self._last_revision = -1
        self._last = b""

    def encode(self, revision: int, term: int) -> bytes:
        """Header with the store revision and the term of the last applied entry."""
        if revision == self._last_revision and term == self._term:
            return self._last
        if term != self._term:
            self._term, self._term_bytes = term, b"\x20" + varint(term) if term else b""
        self._last_revision = revision
        self._last = header = framed(_HEADER_TAG, self._ids + b"\x18" + varint(revision) + self._term_bytes)
        return header

    def without_revision(self, term: int) -> bytes:
        """Header of the Cluster service: revision 0, which is not encoded (G-15)."""
        return framed(_HEADER_TAG, self._ids + (b"\x20" + varint(term) if term else b""))

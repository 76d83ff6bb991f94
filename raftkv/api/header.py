"""The ResponseHeader of this member, encoded once and spliced in front of every reply (G-10 to G-18)."""

from __future__ import annotations

from typing import Final

from raftkv.pb.splice import MAX_VARINT_BYTES, framed, varint

_HEADER_TAG: Final = b"\x0a"


class HeaderEncoder:
    """Makes header fields (tag, length, ResponseHeader) ready to be followed by a response's body."""

    __slots__ = ("_ids", "_prefixes", "_term", "_term_bytes")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)
        self._term = -1
        self._term_bytes = b""
        self._prefixes: list[bytes] = []
        """What stands before a revision of so many bytes: tag, length, ids, and the revision's own tag."""

    def encode(self, revision: int, term: int) -> bytes:
        """Header with the store revision and the term of the last applied entry."""
        if term != self._term:
            self._set_term(term)
        encoded = varint(revision)
        return self._prefixes[len(encoded)] + encoded + self._term_bytes

    def _set_term(self, term: int) -> None:
        self._term, self._term_bytes = term, b"\x20" + varint(term) if term else b""
        rest = len(self._ids) + 1 + len(self._term_bytes)
        self._prefixes = [
            _HEADER_TAG + varint(rest + size) + self._ids + b"\x18" for size in range(MAX_VARINT_BYTES + 1)
        ]

    def without_revision(self, term: int) -> bytes:
        """Header of the Cluster service: revision 0, which is not encoded (G-15)."""
        return framed(_HEADER_TAG, self._ids + (b"\x20" + varint(term) if term else b""))

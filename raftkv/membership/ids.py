"""Ids of members and clusters. Pure functions: all bootstrap members must reach the same ids on their own (CL-05)."""

import hashlib
from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], cluster_token: str) -> int:
    """Id of a bootstrap member: first 8 bytes, big endian, of SHA-1 over its sorted peer URLs and the token (CL-04)."""
    return _first_u64("".join(sorted(peer_urls)).encode() + cluster_token.encode())


def added_member_id(peer_urls: Iterable[str], unix_time_s: int) -> int:
    """Id of a member added to a running cluster: the moment stands where a bootstrap member has the token, so that a
    member that was removed can be added again at the same URLs, under another id (CL-04, CL-06)."""
    return member_id(peer_urls, str(unix_time_s))


def cluster_id(member_ids: Iterable[int]) -> int:
    """First 8 bytes, big endian, of SHA-1 over the ascending bootstrap member ids, 8 bytes each (CL-05)."""
    return _first_u64(b"".join(each.to_bytes(8, "big") for each in sorted(member_ids)))


def _first_u64(raw: bytes) -> int:
    return int.from_bytes(hashlib.sha1(raw, usedforsecurity=False).digest()[:8], "big")

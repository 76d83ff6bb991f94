"""Requests and bytes below /registry/, by the first word behind it: what a Kubernetes API server asks of each resource.

Owns the counters, and the bound on how many words are told apart: clients make keys up. Knows no request: who has
parsed one hands in its key, after a look at whether it begins with ROOT. That look is all that other keys pay.
"""

from __future__ import annotations

from typing import Final

ROOT: Final = b"/registry/"
METHODS: Final = ("Range", "RangeStream", "Put", "DeleteRange", "Txn", "Watch")
READS: Final = ("Range", "RangeStream")
"""Of them, those whose answers are counted."""
MAX_PREFIXES: Final = 256
"""Told apart per method; a cluster with many custom resources has some 150."""
MAX_PREFIX_BYTES: Final = 128
OTHER: Final = b"other"

_BEHIND_ROOT: Final = len(ROOT)


class PrefixCount:
    __slots__ = ("received_bytes", "requests", "sent_bytes")

    def __init__(self) -> None:
        self.requests = 0
        self.received_bytes = 0
        """Of the requests' messages."""
        self.sent_bytes = 0
        """Of the answers; counted by who makes them."""


class MethodCounts:
    """Of one method, by prefix."""

    __slots__ = ("by_prefix",)

    def __init__(self) -> None:
        self.by_prefix: Final[dict[bytes, PrefixCount]] = {}
        """`/registry/pods` -> its counts. At most MAX_PREFIXES and OTHER."""

    def note(self, key: bytes, size: int) -> PrefixCount:
        """Count a request of `size` bytes for a key below ROOT; where to count its answer."""
        end = key.find(b"/", _BEHIND_ROOT)
        prefix = key if end < 0 else key[:end]
        count = self.by_prefix.get(prefix) or self._new(prefix)
        count.requests += 1
        count.received_bytes += size
        return count

    def _new(self, prefix: bytes) -> PrefixCount:
        if len(self.by_prefix) >= MAX_PREFIXES or len(prefix) > MAX_PREFIX_BYTES or not prefix.isascii():
            prefix = OTHER
        return self.by_prefix.setdefault(prefix, PrefixCount())


RegistryCounts = dict[str, MethodCounts]
"""One for each of METHODS."""


def new_registry_counts() -> RegistryCounts:
    return {method: MethodCounts() for method in METHODS}

"""What a request to the store can be refused for.

    MvccError
    ├── CompactedError          the revision asked for is below the compact revision
    ├── FutureRevisionError     the revision asked for does not exist yet
    └── KeyNotFoundError        ignore_value or ignore_lease on a key that is not there

All three are the client's doing, so every member raises the same one for the same log entry (TXN-47). What a
damaged file does is `raftkv.backend.errors.SchemaError`, and is nobody's request's fault.
"""

from __future__ import annotations


class MvccError(Exception):
    """Base of the refusals of this room."""


class CompactedError(MvccError):
    """`revision` can no longer be read; `compacted` is the oldest that can (RNG-04, CMP-02)."""

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(f"revision {revision} is compacted, {compacted} is the oldest that can be read")
        self.revision = revision
        self.compacted = compacted


class FutureRevisionError(MvccError):
    """`revision` is above `current`, the newest there is (RNG-04, CMP-02, TXN-44)."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} is in the future, {current} is the newest")
        self.revision = revision
        self.current = current


class KeyNotFoundError(MvccError):
    """A put that keeps the value or the lease of a key needs that key (PUT-03)."""

"""An event as watchers get it: encoded once, shared by all.

Owns the bytes of `WatchResponse.events`: the stored Event of the `events` table, framed, with or without
`prev_kv`. A stored Event is spliced, never re-encoded; only the key and two numbers are read from it, where
history is walked. Knows nothing of watchers, sinks or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from raftkv.backend.errors import SchemaError
from raftkv.pb.splice import framed, varint

StoredEvent: TypeAlias = tuple[bytes, bytes, bytes | None, bool, bool]
"""(user key, Event bytes, prev frame, is_create, is_delete), as the Store's Writer reports a change.

Event bytes: a put is `12 len KeyValue`, a delete `08 01 12 len KeyValue{key, mod_revision}` (W-51, W-52).
Prev frame: `12 len KeyValue` of the key one revision earlier; None for a creation (W-53).
"""

RevisionEvents: TypeAlias = tuple[int, Sequence[StoredEvent]]
"""One main revision with its events by ascending sub-revision (W-54). No revision is without events
(KV-02)."""

NOPUT: Final = 1
NODELETE: Final = 2
WITH_PREV: Final = 4
"""Bits of a *variant*: what a watcher wants of the events in its range. Watchers of one range and one variant
get the very same bytes."""

_ENTRY_TAG: Final = b"\x5a"
"""WatchResponse.events: field 11, length-delimited."""
_PREV_TAG: Final = b"\x1a"
"""Event.prev_kv: field 3, length-delimited."""
_KV_TAG: Final = 0x12
_TYPE_TAG: Final = 0x08
_KEY_TAG: Final = 0x0A
_CREATE_TAG: Final = 0x10
_MOD_TAG: Final = 0x18


class SharedEvent:
    """One event and the forms that watchers have asked for so far."""

    __slots__ = (
        "_alone",
        "_alone_with_prev",
        "_plain",
        "_with_prev",
        "event",
        "kind",
        "prev_frame",
        "revision",
    )

    def __init__(self, revision: int, event: bytes, prev_frame: bytes | None) -> None:
        self.revision = revision
        self.event = event
        self.prev_frame = prev_frame
        self.kind = NODELETE if event[0] == _TYPE_TAG else NOPUT
        """The variant bit that keeps this event away (W-58)."""
        self._plain: bytes | None = None
        self._with_prev: bytes | None = None
        self._alone: EventBatch | None = None
        self._alone_with_prev: EventBatch | None = None

    def plain(self) -> bytes:
        """`5a len Event`, without prev_kv."""
        entry = self._plain
        if entry is None:
            event = self.event
            entry = self._plain = _ENTRY_TAG + varint(len(event)) + event
        return entry

    def with_prev(self) -> bytes:
        """`5a len Event`, with prev_kv if there is a previous value (W-53)."""
        prev_frame = self.prev_frame
        if prev_frame is None:
            return self.plain()
        entry = self._with_prev
        if entry is None:
            entry = self._with_prev = framed(_ENTRY_TAG, self.event + _PREV_TAG + prev_frame[1:])
        return entry

    def alone(self, header_revision: int, with_prev: bool) -> EventBatch:
        """The batch of just this event. An event lives for one round of deliveries, so it has one header."""
        batch = self._alone_with_prev if with_prev else self._alone
        if batch is None:
            entry = self.with_prev() if with_prev else self.plain()
            batch = EventBatch(header_revision, self.revision, self.revision, [entry])
            if with_prev:
                self._alone_with_prev = batch
            else:
                self._alone = batch
        return batch


class EventBatch:
    """What one WatchResponse carries, without its header's constant part and its watch id.

    Holds all events of every revision it touches that the watcher wants (W-55). Shared: never change one.
    """

    __slots__ = ("_body", "entries", "first_revision", "header_revision", "last_revision")

    def __init__(self, header_revision: int, first_revision: int, last_revision: int, entries: list[bytes]) -> None:
        self.header_revision = header_revision
        """For the response's header: the revision itself when live (W-56), the newest published in catch-up
        (W-57)."""
        self.first_revision = first_revision
        self.last_revision = last_revision
        self.entries = entries
        """One `5a len Event` per event, in order; never empty. Apart, because fragments are cut between them
        (W-81)."""
        self._body: bytes | None = entries[0] if len(entries) == 1 else None

    @property
    def body(self) -> bytes:
        """All entries in one piece, ready to follow the response's other fields. Joined once for all
        watchers."""
        body = self._body
        if body is None:
            body = self._body = b"".join(self.entries)
        return body


def make_batch(header_revision: int, events: Sequence[SharedEvent], variant: int) -> EventBatch | None:
    """The batch that watchers of this variant get; None when their filters leave nothing (W-58).

    A lone event has one batch for all ranges it is in, however many they are.
    """
    if variant & (NOPUT | NODELETE):
        events = [event for event in events if not event.kind & variant]
        if not events:
            return None
    if len(events) == 1:
        return events[0].alone(header_revision, bool(variant & WITH_PREV))
    entries = [event.with_prev() for event in events] if variant & WITH_PREV else [event.plain() for event in events]
    return EventBatch(header_revision, events[0].revision, events[-1].revision, entries)


def locate_key(event: bytes) -> tuple[int, int]:
    """(begin, end) of the user key inside stored Event bytes. Raises SchemaError if they are not an Event of
    ours."""
    try:
        at = 2 if event[0] == _TYPE_TAG else 0
        if event[at] != _KV_TAG:
            raise SchemaError(f"events: field tag {event[at]:#04x} where the KeyValue begins")
        at = _skip_varint(event, at + 1)
        if event[at] != _KEY_TAG:
            raise SchemaError(f"events: field tag {event[at]:#04x} where the key begins")
        size = event[at + 1]
        begin = at + 2
        if size > 0x7F:
            begin = _skip_varint(event, at + 1)
            size = _varint_value(event, at + 1, begin)
    except IndexError:
        raise SchemaError(f"events: an event of {len(event)} bytes ends inside its key") from None
    if begin + size > len(event):
        raise SchemaError(f"events: a key of {size} bytes in an event of {len(event)} bytes")
    return begin, begin + size


def is_creation(event: bytes, key_end: int) -> bool:
    """Whether stored Event bytes say create_revision == mod_revision. `key_end` comes from `locate_key`."""
    try:
        if event[0] == _TYPE_TAG or event[key_end] != _CREATE_TAG:
            return False
        create_end = _skip_varint(event, key_end + 1)
        mod_end = _skip_varint(event, create_end + 1)
        return event[create_end] == _MOD_TAG and event[create_end + 1 : mod_end] == event[key_end + 1 : create_end]
    except IndexError:
        raise SchemaError(f"events: an event of {len(event)} bytes ends inside its revisions") from None


def _skip_varint(raw: bytes, at: int) -> int:
    """Position after the varint at `at`."""
    while raw[at] > 0x7F:
        at += 1
    return at + 1


def _varint_value(raw: bytes, begin: int, end: int) -> int:
    value = 0
    for byte in reversed(raw[begin:end]):
        value = value << 7 | byte & 0x7F
    return value

"""Room on the disk: looked at once a second and before what adds is applied, and told to all members when there is none
(AL-23, AL-24).

Owns the moment at which the NOSPACE alarm is proposed, and the question whether a delete may begin. What is refused for
lack of room is the quota's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftkv.apply import NOSPACE, Kind
from raftkv.apply.quota import dearest_cost
from raftkv.backend import NoSpaceError
from raftkv.pb import rpc_pb2
from raftkv.raft import EntryType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.apply import Alarms, Applier
    from raftkv.backend import Backend
    from raftkv.raft import Entry
    from raftkv.server.proposals import Finish
    from raftkv.server.quota import Quota

_log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
NEAR_BYTES: Final = 64 << 20
"""With more than this left, nobody looks what a batch costs: a request costs little beside its bytes, and those are
bounded far below."""


class LogIsFull(Protocol):
    def __call__(self, *, room_was_made: bool) -> bool:
        """As of the last try, or, if room was made since then, as the file system says."""


class SpaceWatch:
    def __init__(
        self,
        member_id: int,
        backend: Backend,
        quota: Quota,
        alarms: Alarms,
        applier: Applier,
        log_is_full: LogIsFull,
        propose: Callable[[int, bytes, Finish, Any], None],
    ) -> None:
        self._member_id = member_id
        self._backend = backend
        self._quota = quota
        self._alarms = alarms
        self._applier = applier
        self._log_is_full = log_is_full
        self._propose = propose
        self._proposed = False
        """The alarm is on its way."""
        self._raised = False
        """It has been raised, and nobody was seen to disarm it."""
        self._last_s = 0.0

    def on_tick(self, now: float) -> None:
        if now - self._last_s >= INTERVAL_S:
            self._last_s = now
            self.look()

    def look(self, *, room_was_made: bool = False) -> None:
        was_full = self._quota.headroom_bytes == 0
        self._quota.retry(wal_is_full=self._log_is_full(room_was_made=room_was_made))
        if self._quota.headroom_bytes == 0 and not was_full:
            self.raise_alarm()

    def before_apply(self, entries: Sequence[Entry]) -> None:
        """These will be applied, whatever this member's quota says: no member may decide that alone. One that has no
        room for them by its own measure says so, even if no client ever asks it for anything (AL-24)."""
        if self._quota.headroom_bytes > NEAR_BYTES or self._is_told():
            return
        cost_bytes = dearest_cost(entry.data for entry in entries if entry.type is EntryType.NORMAL and entry.data)
        if not self._quota.allows(cost_bytes):
            self.raise_alarm()

    def after_apply(self) -> None:
        """Whoever disarms has made room, most likely. Look at once: until the next regular look the first write would
        be refused, and raise the alarm again (AL-28)."""
        if self._raised and not self._is_active():
            self._raised = False
            self.look(room_was_made=True)

    def _is_told(self) -> bool:
        return self._proposed or self._is_active()

    def _is_active(self) -> bool:
        return (self._member_id, NOSPACE) in self._alarms.active()

    def raise_alarm(self) -> None:
        """Tell all members, once, that this one has no room (AL-23)."""
        if self._is_told():
            return
        self._proposed = True
        message = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=self._member_id, alarm=NOSPACE)
        _log.warning(
            "no room for more data: writes are refused until space is made and the alarm disarmed",
            extra={"kv": {"size_bytes": self._backend.size_bytes, "disk_is_full": self._quota.disk_is_full}},
        )
        self._propose(Kind.ALARM, message.SerializeToString(), self._on_applied, None)

    def _on_applied(self, _context: None, _result: Any) -> None:
        self._proposed = False
        self._raised = True

    def room_to_delete(self, key: bytes, range_end: bytes) -> bool:
        """Deleting takes blocks too, for the copies of pages. On a full disk what is too much is refused (delete less
        at once, or make room), for once it is in the log it has to be applied."""
        if not range_end:
            return True
        try:
            self._backend.check_room(self._applier.pages_to_delete(key, range_end))
        except NoSpaceError:
            return False
        return True

"""Which member has raised which alarm. A deterministic state machine over the `alarms` table (AL-01 to AL-06).

Knows nothing of disks and quotas: whoever notices trouble proposes an alarm, and it holds for the whole cluster once
applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.backend.schema import pack_alarm, unpack_alarm
from raftkv.pb import rpc_pb2

if TYPE_CHECKING:
    from raftkv.backend import ReadTxn, Tables, WriteTxn

NONE: Final = rpc_pb2.NONE
NOSPACE: Final = rpc_pb2.NOSPACE
CORRUPT: Final = rpc_pb2.CORRUPT


class Alarms:
    __slots__ = ("_active", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._active: list[tuple[int, int]] = []
        """(member id, alarm type), ascending."""

    def load(self, txn: ReadTxn) -> None:
        self._active = [unpack_alarm(key) for key, _ in txn.cursor(self._tables.alarms)]

    def rebind(self, tables: Tables) -> None:
        """The environment was reopened: its old handles are dead."""
        self._tables = tables

    def active(self, alarm_type: int = NONE) -> list[tuple[int, int]]:
        """(member id, alarm type) of all, or of one type (AL-02)."""
        return [each for each in self._active if alarm_type in (NONE, each[1])]

    def activate(self, txn: WriteTxn, member_id: int, alarm_type: int) -> list[tuple[int, int]]:
        """Idempotent; the alarm raised, or nothing for type NONE (AL-03) and for types that do not exist."""
        if alarm_type not in (NOSPACE, CORRUPT):
            return []
        alarm = (member_id, alarm_type)
        if alarm not in self._active:
            txn.put(pack_alarm(*alarm), b"", db=self._tables.alarms)
            self._active = sorted([*self._active, alarm])
        return [alarm]

    def deactivate(self, txn: WriteTxn, member_id: int, alarm_type: int) -> list[tuple[int, int]]:
        """The alarm that went, or nothing when exactly this one was not active (AL-04)."""
        alarm = (member_id, alarm_type)
        if alarm not in self._active:
            return []
        txn.delete(pack_alarm(*alarm), db=self._tables.alarms)
        self._active = [each for each in self._active if each != alarm]
        return [alarm]

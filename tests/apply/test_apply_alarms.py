"""Which member has raised which alarm: AL-01 to AL-06, through the log."""

from __future__ import annotations

import pytest
from apply_support import Machine, alarm, disarm, raise_alarm

from raftkv.apply import CORRUPT, NOSPACE
from raftkv.pb import rpc_pb2

NONE = rpc_pb2.NONE
GET = rpc_pb2.AlarmRequest.GET


def listed(machine: Machine, alarm_type: int = NONE) -> list[tuple[int, int]]:
    return answer(machine.apply(alarm(GET, alarm_type, member_id=999))[0])


def answer(result: tuple[int, bytes]) -> list[tuple[int, int]]:
    response = rpc_pb2.AlarmResponse.FromString(result[1])
    return [(each.memberID, each.alarm) for each in response.alarms]


def test_get_lists_all_or_one_type_whoever_is_named(machine: Machine) -> None:
    """AL-02."""
    machine.apply(raise_alarm(CORRUPT, 1), raise_alarm(NOSPACE, 2), raise_alarm(NOSPACE, 1))
    assert listed(machine) == [(1, NOSPACE), (1, CORRUPT), (2, NOSPACE)]
    assert listed(machine, NOSPACE) == [(1, NOSPACE), (2, NOSPACE)]
    assert listed(machine, CORRUPT) == [(1, CORRUPT)]


def test_raising_twice_is_raising_once(machine: Machine) -> None:
    """AL-03: both answers list it."""
    results = machine.apply(raise_alarm(NOSPACE, 2**64 - 1), raise_alarm(NOSPACE, 2**64 - 1))
    assert [answer(result) for result in results] == [[(2**64 - 1, NOSPACE)]] * 2
    assert listed(machine) == [(2**64 - 1, NOSPACE)]


@pytest.mark.parametrize("alarm_type", [NONE, 17])
def test_no_alarm_of_no_type(machine: Machine, alarm_type: int) -> None:
    """AL-03."""
    assert answer(machine.apply(raise_alarm(alarm_type))[0]) == []
    assert listed(machine) == []


def test_disarming_needs_member_and_type(machine: Machine) -> None:
    """AL-04."""
    machine.apply(raise_alarm(NOSPACE, 1))
    for request in (disarm(NOSPACE, 2), disarm(CORRUPT, 1), disarm(NONE, 1), disarm(NOSPACE, 0)):
        assert answer(machine.apply(request)[0]) == []
    assert listed(machine) == [(1, NOSPACE)]
    assert answer(machine.apply(disarm(NOSPACE, 1))[0]) == [(1, NOSPACE)]
    assert listed(machine) == []


def test_alarms_use_no_revision(machine: Machine) -> None:
    assert [result[0] for result in machine.apply(raise_alarm(NOSPACE), disarm(NOSPACE), alarm(GET, NONE))] == [1] * 3

"""A member that has less room than the others says so, though no client ever asks it for anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from trio import Trio, play, until

from raftkv.apply import NOSPACE, Kind, NoSpaceAlarm
from raftkv.pb import rpc_pb2


def test_a_follower_over_its_own_quota_raises_its_alarm(tmp_path: Path) -> None:
    """AL-24, AL-25: it applies what the others apply, and all refuse from then on."""

    async def story(trio: Trio) -> None:
        small = (await trio.followers())[0]
        await small.end()
        await trio.restart(small, "--quota-backend-bytes=200000")
        leader = await trio.leader()
        assert leader is not small
        with suppress(NoSpaceAlarm):
            for number in range(20):
                await leader.put(b"%d" % number, bytes(40_000))
        own_alarm = [(small.id, NOSPACE)]
        await until(lambda: all(seat.node.alarms.active() == own_alarm for seat in trio.seats), "the alarm everywhere")
        with pytest.raises(NoSpaceAlarm):
            await leader.put(b"late")
        assert leader.node.quota.headroom_bytes > 1 << 30
        await trio.same()
        disarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=small.id, alarm=NOSPACE)
        await leader.apply(Kind.ALARM, disarm)
        # What costs nothing does not bring it back; what costs something does (AL-28).
        await leader.apply(Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"0"))
        assert await trio.same()
        assert leader.node.alarms.active() == []
        await leader.put(b"again", bytes(300))
        await until(lambda: leader.node.alarms.active() == own_alarm, "the alarm again")

    play(tmp_path, story)

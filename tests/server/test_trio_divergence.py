"""A store that differs from the others: found with the next message, named, and taken out of use (design §6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio import Seat, Trio, play, until

from raftkv.apply import CORRUPT, CorruptAlarm
from raftkv.server.errors import Diverged


def alter(seat: Seat) -> int:
    """Bits flip: it counts a revision that the others do not have. The index of the entry that will show it."""
    node = seat.node
    writer = node.store.writer(node.backend.begin_write())
    writer.begin()
    writer.put(b"ghost", b"", 0)
    writer.end()
    writer.finish()
    return node.applier.index + 1


@pytest.mark.parametrize("through", ["the altered one", "another"])
def test_a_follower_that_differs_ends_and_the_cluster_is_told(tmp_path: Path, through: str) -> None:
    """AL-10, AL-11: it names the first entry that differs. Nothing is written until somebody has looked."""

    async def story(trio: Trio) -> None:
        altered, other = await trio.followers()
        leader = await trio.leader()
        for number in range(5):
            await leader.put(b"k%d" % number)
        await trio.same()
        first = alter(altered)
        await (altered if through == "the altered one" else other).put(b"shows it")
        reason = await trio.ended(altered)
        assert isinstance(reason, Diverged)
        assert f"member, {altered.id:x}, differs" in str(reason)
        assert f"from entry {first} on" in str(reason)
        assert "raftkv rebuild" in str(reason)
        assert "etcdctl alarm disarm" in str(reason)
        for seat in (leader, other):
            await until(lambda seat=seat: seat.node.alarms.active(CORRUPT) == [(altered.id, CORRUPT)])  # type: ignore[misc]
            assert not seat.node.stopped.done()
            assert seat.look(b"shows it") == b"v"
        with pytest.raises(CorruptAlarm):
            await other.put(b"refused")

    play(tmp_path, story)


def test_a_leader_that_differs_ends_and_the_cluster_is_told(tmp_path: Path) -> None:
    """AL-11: the others find it out and tell it; whoever leads next raises the alarm for it."""

    async def story(trio: Trio) -> None:
        altered, (one, other) = await trio.leader(), await trio.followers()
        await one.put(b"k")
        await trio.same()
        first = alter(altered)
        await one.put(b"shows it")
        reason = await trio.ended(altered)
        assert isinstance(reason, Diverged)
        assert f"from entry {first} on" in str(reason)
        await altered.end(cut=True)
        for seat in (one, other):
            await until(lambda seat=seat: seat.node.alarms.active(CORRUPT) == [(altered.id, CORRUPT)])  # type: ignore[misc]

    play(tmp_path, story)

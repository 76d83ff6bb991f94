"""Watches while leaders die, stop and stand still: every event, once, in order, on every member."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from helpers.cluster import Cluster, Member
from helpers.cluster_load import ClusterLoad, check_all_members_have
from helpers.member_client import Told, WatchStream
from helpers.waiting import wait_until

pytestmark = [pytest.mark.crash, pytest.mark.slow]

_MARKER = b"load/~"
"""Put when all is over; its key sorts behind all others of the load."""
_ENOUGH = 60
_ROUNDS = 2


class FollowingWatch:
    """A client that watches one member and, when its stream ends, watches it again from where it was."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._streams: list[WatchStream] = []
        """All that were ever opened; at most the last is open."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch_again_and_again)

    def told(self) -> list[Told]:
        return [told for stream in list(self._streams) for told in stream.told()]

    def created(self) -> int:
        """How often the member accepted the watch."""
        return sum(response.created for stream in list(self._streams) for response in stream.responses)

    def canceled(self) -> bool:
        """Whether the member ended a watch for a reason of its own: it must not."""
        return any(response.canceled for stream in list(self._streams) for response in stream.responses)

    def __enter__(self) -> FollowingWatch:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch_again_and_again(self) -> None:
        while not self._stopping.is_set():
            told = self.told()
            next_revision = told[-1].revision + 1 if told else 1
            stream = WatchStream(self.member.client, b"load/", b"load0", next_revision)
            self._streams.append(stream)
            while stream.ended is None and not self._stopping.wait(0.05):
                pass
            stream.close()


def _kill(cluster: Cluster, leader: Member, load: ClusterLoad) -> None:
    leader.kill9()
    load.wait_more(_ENOUGH)
    cluster.restart(leader)


def _stop(cluster: Cluster, leader: Member, load: ClusterLoad) -> None:
    leader.terminate()
    load.wait_more(_ENOUGH)
    cluster.restart(leader)


def _pause(cluster: Cluster, leader: Member, load: ClusterLoad) -> None:
    leader.pause()
    cluster.leader()
    load.wait_more(_ENOUGH)
    leader.resume()
    cluster.leader()


_KILLED = pytest.param(
    _kill,
    True,
    id="killed",
    marks=pytest.mark.beyond_etcd("a killed member of etcd 3.5.1 may lose what it had applied (pull request 13908)"),
)


@pytest.mark.parametrize(
    ("hurt", "ends_streams"),
    [_KILLED, pytest.param(_stop, True, id="stopped"), pytest.param(_pause, False, id="paused")],
)
def test_watches_see_every_event_once_through_changes_of_the_leader(
    cluster: Cluster, hurt: Callable[[Cluster, Member, ClusterLoad], None], ends_streams: bool
) -> None:
    """W-54, W-91, G-22, RF-71: a watcher on each member; those whose member lives never lose their stream."""
    hurt_once: set[Member] = set()
    with ExitStack() as stack:
        watches = [stack.enter_context(FollowingWatch(member)) for member in cluster.members]
        wait_until("all members watch", lambda: all(watch.created() for watch in watches))
        load = stack.enter_context(ClusterLoad(cluster.members, "watched"))
        load.wait_more(_ENOUGH)
        for _round in range(_ROUNDS):
            leader = cluster.leader()
            hurt_once.add(leader)
            hurt(cluster, leader, load)
            load.wait_more(_ENOUGH)
        load.stop()
        marker = cluster.leader().client.put(_MARKER).header.revision
        for watch in watches:
            wait_until("the watch has all", lambda watch=watch: marker in [told.revision for told in watch.told()])  # type: ignore[misc]
        for watch in watches:
            _check_told_once_in_order(watch, load, marker)
            if not ends_streams or watch.member not in hurt_once:
                assert watch.created() == 1, f"{watch.member.name} was left alone, and its stream ended"
            assert not watch.canceled()
        assert watches[0].told() == watches[1].told() == watches[2].told(), "the members tell different histories"
    cluster.leader().client.delete(_MARKER)  # the check knows the keys of the load only
    check_all_members_have(cluster, load.history, watches=False)


def _check_told_once_in_order(watch: FollowingWatch, load: ClusterLoad, marker: int) -> None:
    all_told = watch.told()
    revisions = [told.revision for told in all_told]
    assert revisions == sorted(set(revisions)), f"{watch.member.name} told events twice or out of order"
    keys = [told.key for told in all_told]
    assert len(keys) == len(set(keys)), f"{watch.member.name} told a key twice, which is put once"
    told = {each.key: each.revision for each in all_told}
    missing = {key: rev for key, rev in load.history.acknowledged.items() if told.get(key) != rev}
    assert not missing, f"{watch.member.name} left out {len(missing)}: {sorted(missing.items())[:3]}"
    assert told[_MARKER] == marker

"""Three members that live together: elections, writes through any of them, and one that is cut off and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from trio import Seat, Trio, play, until

from raftkv.apply import Kind
from raftkv.mvcc import CompactedError, FutureRevisionError
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.rpc.channel import ChannelState
from raftkv.server.errors import NotLeader, Stopped
from raftkv.server.peers import link


def test_any_member_takes_writes_and_reads_what_any_took(tmp_path: Path) -> None:
    """RF-31, RF-54, RF-57: a follower forwards, and answers itself when it has applied the entry."""

    async def story(trio: Trio) -> None:
        leader = await trio.leader()
        for number, seat in enumerate(trio.seats):
            assert await seat.put(b"k%d" % number, seat.name.encode()) == number + 2
            assert seat.look(b"k%d" % number) == seat.name.encode()
        for seat in trio.seats:
            assert [await seat.get(b"k%d" % number) for number in range(3)] == [b"a", b"b", b"c"]
        await trio.same()
        assert await trio.leader() is leader
        assert {each.node.cluster_id for each in trio.seats} == {leader.node.cluster_id}

    play(tmp_path, story)


def test_a_refusal_comes_back_to_the_follower_that_was_asked(tmp_path: Path) -> None:
    """RF-52, RF-54."""

    async def story(trio: Trio) -> None:
        follower, _ = await trio.followers()

        def compact(revision: int) -> Awaitable[object]:
            return follower.apply(Kind.COMPACT, rpc_pb2.CompactionRequest(revision=revision))

        with pytest.raises(FutureRevisionError):
            await compact(99)
        await compact(1)
        with pytest.raises(CompactedError):
            await compact(1)

    play(tmp_path, story)


def test_many_writes_through_all_members_at_once_are_all_applied_once(tmp_path: Path) -> None:
    async def story(trio: Trio) -> None:
        writes = [seat.put(b"%s-%d" % (seat.name.encode(), at)) for at in range(100) for seat in trio.seats]
        revisions = await asyncio.gather(*writes)
        assert sorted(revisions) == list(range(2, 302))
        await trio.same()
        assert {seat.node.store.current_revision for seat in trio.seats} == {301}

    play(tmp_path, story)


def test_the_members_know_each_others_names_and_data(tmp_path: Path) -> None:
    """CL-02, RF-72: a member that serves has published itself, to all."""

    async def story(trio: Trio) -> None:
        await trio.same()
        first = trio.known(trio.seats[0])
        assert all(trio.known(seat) == first for seat in trio.seats)
        by_id = {each.id: each for each in first}
        for seat in trio.seats:
            assert by_id[seat.id].name == seat.name
            assert by_id[seat.id].data_id == seat.node.peering.identity.data_id != 0
        assert [each.id for each in first] == sorted(by_id)

    play(tmp_path, story)


async def _take_over(trio: Trio, gone: Seat) -> Seat:
    """Another leads, and the two that are left serve writes and reads."""
    leader = await trio.leader()
    assert leader is not gone
    for seat in trio.running:
        await seat.put(b"without " + gone.name.encode(), seat.name.encode())
    assert await leader.get(b"without " + gone.name.encode()) == trio.running[-1].name.encode()
    return leader


def test_a_leader_that_is_cut_off_is_replaced_and_catches_up_later(tmp_path: Path) -> None:
    """RF-71, RF-04: nothing that was acknowledged is lost; the old one comes back as a follower, from its log."""

    async def story(trio: Trio) -> None:
        old = await trio.leader()
        assert await old.put(b"k", b"acknowledged") == 2
        term = old.node.raft_status().term
        await old.end(cut=True)
        leader = await _take_over(trio, old)
        assert leader.look(b"k") == b"acknowledged"
        assert leader.node.raft_status().term > term
        await trio.restart(old)
        assert await old.get(b"k") == b"acknowledged"
        await trio.same()
        assert old.node.peering.installer.installed == 0

    play(tmp_path, story)


def test_a_leader_that_stops_hands_over_first(tmp_path: Path) -> None:
    """RF-23: the next one leads before the old one has closed; nobody waits for an election timeout."""

    async def story(trio: Trio) -> None:
        old = await trio.leader()
        term = old.node.raft_status().term
        await old.node.hand_over()
        leader = await trio.leader()
        assert leader is not old
        assert leader.node.raft_status().term == term + 1
        await old.end()
        await _take_over(trio, old)

    play(tmp_path, story)


def test_moving_the_leadership_ends_when_the_target_leads(tmp_path: Path) -> None:
    """MT-43, MT-40."""

    async def story(trio: Trio) -> None:
        leader, (target, other) = await trio.leader(), await trio.followers()
        move = leader.node.leadership.move
        await leader.change(lambda done: move(target.id, leader.node.now(), done, None))
        assert leader.node.leader_id == target.id
        await until(lambda: target.node.leads)
        with pytest.raises(NotLeader):
            await other.change(lambda done: other.node.leadership.move(leader.id, other.node.now(), done, None))

    play(tmp_path, story)


def test_a_minority_serves_no_linearizable_read_and_takes_no_write(tmp_path: Path) -> None:
    """RF-36, RF-70: what it knows may be old; what is local it still serves."""

    async def story(trio: Trio) -> None:
        leader, followers = await trio.leader(), await trio.followers()
        await leader.put(b"k")
        for each in followers:
            await each.end(cut=True)
        write, read = asyncio.ensure_future(leader.put(b"late")), asyncio.ensure_future(leader.get(b"k"))
        await until(lambda: not leader.node.leader_id, "it has stepped down (RF-04)")
        assert (write.done(), read.done()) == (False, False)
        assert (leader.look(b"k"), leader.look(b"late")) == (b"v", None)
        await leader.end(cut=True)
        for waiting in (write, read):
            with pytest.raises(Stopped):
                await waiting

    play(tmp_path, story)


def test_leases_are_renewed_through_any_member(tmp_path: Path) -> None:
    """L-24, L-32, L-21: the leader knows how long they live; a follower asks it."""

    async def story(trio: Trio) -> None:
        leader, followers = await trio.leader(), await trio.followers()
        revision, _ = await followers[0].apply(Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=7, TTL=60))
        assert revision == 1
        for seat in (leader, *followers):
            kept = await _ask(seat, peer_pb2.ForwardRequest.KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=7))
            assert rpc_pb2.LeaseKeepAliveResponse.FromString(kept).TTL == 60
            unknown = await _ask(seat, peer_pb2.ForwardRequest.KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=8))
            assert rpc_pb2.LeaseKeepAliveResponse.FromString(unknown) == rpc_pb2.LeaseKeepAliveResponse(ID=8)
            left = await _ask(seat, peer_pb2.ForwardRequest.TIME_TO_LIVE, rpc_pb2.LeaseTimeToLiveRequest(ID=7))
            answer = rpc_pb2.LeaseTimeToLiveResponse.FromString(left)
            assert (answer.ID, answer.grantedTTL) == (7, 60)
            assert 58 <= answer.TTL <= 60

    play(tmp_path, story)


async def _ask(seat: Seat, method: peer_pb2.ForwardRequest.Method.ValueType, request: object) -> bytes:
    body = request.SerializeToString()  # type: ignore[attr-defined]
    answer: bytes = await seat.change(lambda done: seat.node.leader_calls.call(method, body, done, None))
    return answer


def test_a_lease_outlives_a_change_of_leaders(tmp_path: Path) -> None:
    """L-52: the new leader gives it its time anew, and only a leader lets leases run out."""

    async def story(trio: Trio) -> None:
        old = await trio.leader()
        await old.apply(Kind.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=7, TTL=60))
        await old.apply(Kind.PUT, rpc_pb2.PutRequest(key=b"k", lease=7))
        await old.end(cut=True)
        for seat in trio.running:
            left = await _ask(seat, peer_pb2.ForwardRequest.TIME_TO_LIVE, rpc_pb2.LeaseTimeToLiveRequest(ID=7))
            assert rpc_pb2.LeaseTimeToLiveResponse.FromString(left).TTL >= 58
            assert await seat.get(b"k") == b""

    play(tmp_path, story)


def test_a_member_that_comes_back_is_connected_to_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the time of the next try has come: until then votes for it and answers to it are lost."""
    monkeypatch.setattr(link, "BACKOFF_FIRST_S", 3600.0)
    monkeypatch.setattr(link, "BACKOFF_MAX_S", 3600.0)

    async def story(trio: Trio) -> None:
        leader = await trio.leader()
        gone, other = await trio.followers()
        await gone.end()
        for seat in (leader, other):
            to_it = seat.node.peering.links.get(gone.id)
            assert to_it is not None
            await until(lambda to_it=to_it: to_it._channel.state is ChannelState.BACKING_OFF)
        await trio.restart(gone)
        for seat in (leader, other):
            await until(lambda seat=seat: seat.node.peering.links.connected_since(gone.id) is not None)

    play(tmp_path, story)

"""Tests of what does not work yet; for tests/server/test_trio_members.py once it does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_trio_members import SHORT_LOG, _leave_behind
from trio import Trio, play, until


@pytest.mark.parametrize("log", ["long enough", "too short"])
def test_a_member_that_missed_the_addition_of_its_leader_catches_up(tmp_path: Path, log: str) -> None:
    """Thesis §4.1: it hears of a leader that is no member it knows, and must be able to answer it."""

    async def story(trio: Trio) -> None:
        lagging, _ = await trio.followers()
        await trio.same()
        await lagging.end(cut=True)
        newcomer = await trio.add()
        await trio.restart(newcomer)
        leader = await trio.leader()
        move = leader.node.leadership.move
        await leader.change(lambda done: move(newcomer.id, leader.node.now(), done, None))
        await until(lambda: newcomer.node.leads)
        for number in range(30):
            await newcomer.put(b"k%d" % number)
        await trio.restart(lagging)
        await trio.same()
        assert lagging.look(b"k29") == b"v"

    play(tmp_path, story, *([SHORT_LOG] if log == "too short" else []))


@pytest.mark.parametrize("first", ["defragment", "install"])
def test_a_store_is_defragmented_and_replaced_one_after_the_other(tmp_path: Path, first: str) -> None:
    """MT-30, RF-45: neither ends the member, nor the pause of the other."""

    async def story(trio: Trio) -> None:
        lagging, _ = await trio.followers()
        node = lagging.node
        lagging.cut_off()
        await _leave_behind(trio, lagging)
        pin = node.backend.pin()
        if first == "install":
            lagging.reconnect()
            await until(lambda: node._ready_loop._paused)
            defragmenting = asyncio.ensure_future(node.defragment())
        else:
            defragmenting = asyncio.ensure_future(node.defragment())
            await until(lambda: node._ready_loop._paused)
            lagging.reconnect()
            await until(lambda: node.peering.installer._received is not None)
        asyncio.get_running_loop().call_later(0.1, pin.close)
        await asyncio.gather(defragmenting, return_exceptions=True)
        await until(lambda: node.stopped.done() or node.peering.installer.installed)
        assert not node.stopped.done()
        await lagging.put(b"k")
        await trio.same()

    play(tmp_path, story, SHORT_LOG)


def test_a_member_that_joins_serves_as_soon_as_it_has_its_copy(tmp_path: Path) -> None:
    """G-03: the entry in which it publishes itself may come with the copy, and its result then never comes."""

    async def story(trio: Trio) -> None:
        newcomer = await trio.add()
        began = asyncio.get_running_loop().time()
        await trio.restart(newcomer)
        assert asyncio.get_running_loop().time() - began < newcomer.node.config.request_timeout_s

    play(tmp_path, story)

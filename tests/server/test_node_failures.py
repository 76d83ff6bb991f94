"""A node that cannot go on says so and ends, however far it has come."""

import asyncio
from pathlib import Path

import pytest

from raftkv.api.errors import status_of
from raftkv.apply import Kind, MalformedEntry, decode_batch, encode_batch
from raftkv.backend import NoSpaceError
from raftkv.config import Config, load
from raftkv.raft import Entry, EntryType, HardState
from raftkv.server import Node, boot
from raftkv.server.errors import Stopped
from raftkv.wal import Wal


def _config(directory: Path) -> Config:
    return load([f"--data-dir={directory}", "--unsafe-no-fsync"], {})


async def _start(directory: Path) -> Node:
    config = _config(directory)
    node = Node(asyncio.get_running_loop(), config, boot(config), status_of)
    await node.start()
    return node


def test_an_entry_that_cannot_be_applied_ends_the_start(tmp_path: Path) -> None:
    """And does not make it try for ever."""

    async def main() -> None:
        node = await _start(tmp_path)
        await node.stop()
        wal, contents = Wal.open(_config(tmp_path).wal_dir)
        last = contents.last
        data = encode_batch(node.member_id, 1, [(99, b"")])
        wal.stage(HardState(last.term, node.member_id, last.index + 1), [Entry(last.term, last.index + 1, data=data)])
        wal.flush()
        wal.close()
        with pytest.raises(MalformedEntry, match="upgrade"):
            await asyncio.wait_for(_start(tmp_path), 30)

    asyncio.run(main())


def test_a_restart_uses_no_number_again_when_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RF-54: else an entry of the earlier life that comes to be applied would answer a proposal of this one."""
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)

    async def main() -> None:
        for _ in range(2):
            node = await _start(tmp_path)
            done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            node.propose(Kind.LEASE_REVOKE, b"\x08\x01", lambda future, result: future.set_result(result), done)
            await done
            await node.stop()
        wal, contents = Wal.open(_config(tmp_path).wal_dir)
        wal.close()
        batches = [each.data for each in contents.entries if each.type is EntryType.NORMAL and each.data]
        numbers = [decode_batch(data).number for data in batches]
        assert len(set(numbers)) == len(numbers) >= 4

    asyncio.run(main())


def test_after_a_failure_nothing_is_accepted_or_written(tmp_path: Path) -> None:
    async def main() -> None:
        node = await _start(tmp_path)
        results: list[object] = []

        def finish(_context: None, result: object) -> None:
            results.append(result)

        failure = RuntimeError("a mistake of ours")
        node.backend.poison(failure)
        assert node.stopped.result() is failure
        node.propose(Kind.PUT, b"", finish, None)
        node.linearizable(lambda _context, error: results.append(error), None)
        assert [type(result) for result in results] == [Stopped, Stopped]
        await node.stop()

    asyncio.run(main())


def test_a_log_without_room_for_its_next_segment_refuses_writes(tmp_path: Path) -> None:
    """And accepts them again once there is room, which is tried for without any write."""

    async def main() -> None:
        node = await _start(tmp_path)
        node._booted.wal._pool.failed = True
        node.space.look()
        assert not node.quota.allows(1)
        node.space.look()
        assert node.quota.allows(1)
        await node.stop()

    asyncio.run(main())


def test_deleting_what_the_disk_has_no_pages_for_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in the log it would have to be applied, and a full disk then kills the process, at every start."""

    def full(_pages: int) -> None:
        raise NoSpaceError("no room")

    async def main() -> None:
        node = await _start(tmp_path)
        assert node.space.room_to_delete(b"a", b"\x00")
        with monkeypatch.context() as patch:
            patch.setattr(type(node.backend), "check_room", lambda _self, pages: full(pages))
            assert not node.space.room_to_delete(b"a", b"\x00")
            assert node.space.room_to_delete(b"a", b""), "one key fits into what is kept reserved"
        await node.stop()

    asyncio.run(main())

"""The order in which committed entries are applied and their clients answered (docs/adr/0010)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raftkv.api.errors import status_of
from raftkv.apply import Kind
from raftkv.config import load
from raftkv.pb import rpc_pb2
from raftkv.server import Node, boot
from raftkv.server.batch_sizes import BatchSizes


def play(directory: Path, story: Callable[[Node], Awaitable[None]]) -> None:
    async def scenario() -> None:
        config = load([f"--data-dir={directory}", "--unsafe-no-fsync"], {})
        node = Node(asyncio.get_running_loop(), config, boot(config), status_of)
        await node.start()
        try:
            await story(node)
        finally:
            await node.stop()

    asyncio.run(scenario())


class Witness:
    """Writes down what is answered and when it leaves, with the store's revision at that moment."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.story: list[tuple[str, int]] = []
        node.applying.leave = lambda: self._note("leaves")

    def _note(self, what: str) -> None:
        self.story.append((what, self.node.store.current_revision))

    async def request(self, kind: Kind, request: Any) -> Any:
        """Its result, or the refusal."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def finish(_context: None, result: Any) -> None:
            self._note("answered")
            done.set_result(result)

        self.node.propose(kind, request.SerializeToString(), finish, None)
        return await asyncio.wait_for(done, 20)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchSizes, "single", property(lambda _: True))


def test_a_client_that_is_alone_is_answered_before_the_store_has_its_put(tmp_path: Path, alone: None) -> None:
    """The answer has left when applying begins, and nobody runs in between."""

    async def story(node: Node) -> None:
        witness, before = Witness(node), node.store.current_revision
        result = await witness.request(Kind.PUT, rpc_pb2.PutRequest(key=b"k", value=b"v"))
        assert result == (before + 1, b"")
        assert witness.story == [("answered", before), ("leaves", before)]
        # Whoever hears of it, here a task that waited for the answer, finds it there.
        assert node.store.current_revision == before + 1
        state = node.store.get(node.backend.read(), b"k")
        assert state is not None
        assert state.value == b"v"

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        (Kind.PUT, rpc_pb2.PutRequest(key=b"k", prev_kv=True)),
        (Kind.PUT, rpc_pb2.PutRequest(key=b"k", lease=404)),
        (Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k")),
    ],
    ids=["previous value", "lease", "delete"],
)
def test_what_the_store_has_to_say_is_awaited(tmp_path: Path, alone: None, kind: Kind, request_: Any) -> None:
    async def story(node: Node) -> None:
        await Witness(node).request(Kind.PUT, rpc_pb2.PutRequest(key=b"k", value=b"old"))
        witness = Witness(node)
        await witness.request(kind, request_)
        assert witness.story == [("answered", node.store.current_revision)]

    play(tmp_path, story)


def test_many_are_answered_together_when_the_store_has_it(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        witness = Witness(node)
        puts = [rpc_pb2.PutRequest(key=b"%d" % number) for number in range(5)]
        results = await asyncio.gather(*(witness.request(Kind.PUT, each) for each in puts))
        revision = node.store.current_revision
        assert sorted(results) == [(at, b"") for at in range(revision - 4, revision + 1)]
        assert ("leaves", revision) not in witness.story

    play(tmp_path, story)


def test_an_answer_that_was_not_kept_is_a_mistake_of_ours(
    tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the member, whose log still has the truth."""

    async def story(node: Node) -> None:
        foresee = node.applier.foresee

        def wrongly(entry: Any, proposer: int) -> Any:
            foreseen = foresee(entry, proposer)
            return None if foreseen is None else foreseen._replace(results=[(999, b"")])

        monkeypatch.setattr(node.applier, "foresee", wrongly)
        assert await Witness(node).request(Kind.PUT, rpc_pb2.PutRequest(key=b"k")) == (999, b"")
        assert isinstance(await asyncio.wait_for(asyncio.shield(node.stopped), 20), AssertionError)

    play(tmp_path, story)

"""Real members in one event loop: real nodes, real disks, real sockets on the loopback, and the test's hand on each.

What a test waits for is polled under one bound, so nothing hangs. Elections take a fifth of a second: all members share
a loop, so one that is late makes all late, and no leader is lost to a busy machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from raftkv.api.errors import status_of
from raftkv.apply import Kind
from raftkv.config import load
from raftkv.membership import Member
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.raft import NOBODY
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import build_routes
from raftkv.server import Node, boot, find_founding
from raftkv.server.peers.link import PEER_LIMITS

PATIENCE_S: Final = 20.0
SETTINGS: Final = (
    "--heartbeat-interval=20",
    "--election-timeout=200",
    "--unsafe-no-fsync",
    "--strict-reconfig-check=false",
)
PEER_SERVER_LIMITS: Final = PEER_LIMITS._replace(keepalive_min_time_s=0.0, drain_timeout_s=0.1)

Answer = TypeVar("Answer")


async def until(condition: Callable[[], Answer | None], what: str = "") -> Answer:
    """The first answer that is true."""
    loop = asyncio.get_running_loop()
    late_s = loop.time() + PATIENCE_S
    while not (answer := condition()):
        assert loop.time() < late_s, f"waited in vain: {what or condition}"
        await asyncio.sleep(0.002)
    return answer


def bound_socket(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


class Seat:
    """The place of one member: its address and its directory; and its node, while it has one that runs."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        sock = bound_socket()
        self._sock: socket.socket | None = sock
        """Bound from the beginning, so that nobody else gets the port."""
        self.port: int = sock.getsockname()[1]
        self.settings: tuple[str, ...] = ()
        self.node: Node = None  # type: ignore[assignment]  # until it is started
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> int:
        return self.node.member_id

    @property
    def runs(self) -> bool:
        return self._listener is not None and not self.node.stopped.done()

    async def begin(self, *flags: str) -> asyncio.Task[None]:
        """Its data and its peer URL; the task is done when it has joined, and raises what ended it instead."""
        loop = asyncio.get_running_loop()
        named = (f"--name={self.name}", f"--data-dir={self.directory}", f"--initial-advertise-peer-urls={self.url}")
        config = load([*named, f"--listen-peer-urls={self.url}", *SETTINGS, *self.settings, *flags], {})
        founding = None if config.has_data() else await find_founding(config)
        self.node = Node(loop, config, boot(config, founding), status_of)
        sock, self._sock = self._sock or bound_socket(self.port), None
        self._listener = Listener(loop, build_routes((self.node.peering.service.service(),)), None, PEER_SERVER_LIMITS)
        await self._listener.start(sock)
        return loop.create_task(self.node.start())

    async def end(self, *, cut: bool = False) -> None:
        """`cut`: without a word to the others, as a kill would. Otherwise the leadership is handed over first."""
        if self._listener is None:
            if self._sock is not None:
                self._sock.close()
            return
        listener, self._listener = self._listener, None
        if cut:
            listener.close()
            self.node.peering.links.close()
        else:
            await self.node.hand_over()
            await listener.drain()
        await self.node.stop()

    def cut_off(self) -> None:
        """Raft's messages to it and from it are lost from now on; nobody is told."""
        node: Any = self.node
        node.send = node.peering.on_peer_message = lambda _lost: None

    def reconnect(self) -> None:
        node: Any = self.node
        del node.send, node.peering.on_peer_message

    # --- what clients do

    async def apply(self, kind: Kind, request: Any) -> Any:
        """(revision, body). Raises the refusal."""
        return await self._result(lambda done: self.node.propose(kind, request.SerializeToString(), done, None))

    async def put(self, key: bytes, value: bytes = b"v") -> int:
        revision: int = (await self.apply(Kind.PUT, rpc_pb2.PutRequest(key=key, value=value)))[0]
        return revision

    async def get(self, key: bytes) -> bytes | None:
        """A linearizable read."""
        await self._result(lambda done: self.node.linearizable(done, None))
        return self.look(key)

    def look(self, key: bytes) -> bytes | None:
        """What its store says."""
        state = self.node.store.get(self.node.backend.read(), key)
        return None if state is None else state.value

    async def change(self, start: Callable[[Callable[[Any, Any], None]], None]) -> Any:
        """The result of a change of the membership: `start(done)` asks for it. Raises the refusal."""
        return await self._result(start)

    async def _result(self, start: Callable[[Callable[[Any, Any], None]], None]) -> Any:
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def finish(_context: Any, value: Any) -> None:
            if not result.done():  # else the test has failed, and its members are stopping
                result.set_result(value)

        start(finish)
        value = await asyncio.wait_for(result, PATIENCE_S)
        if isinstance(value, Exception):
            raise value
        return value


class Trio:
    """Three members, or as many as it is told; they are made, and not yet started."""

    def __init__(self, directory: Path, *flags: str, size: int = 3) -> None:
        self.directory = directory
        self.flags = flags
        self.seats: list[Seat] = []
        for _ in range(size):
            self._new_seat()
        self._use_initial_cluster(self.seats, "new")

    def _new_seat(self) -> Seat:
        name = "abcdefgh"[len(self.seats)]
        self.seats.append(Seat(name, self.directory / name))
        return self.seats[-1]

    def _use_initial_cluster(self, seats: list[Seat], state: str) -> None:
        members = ",".join(f"{each.name}={each.url}" for each in self.seats)
        for each in seats:
            each.settings = (*self.flags, f"--initial-cluster={members}", f"--initial-cluster-state={state}")

    async def start(self) -> Trio:
        joining = [await each.begin() for each in self.seats]
        await asyncio.wait_for(asyncio.gather(*joining), PATIENCE_S)
        return self

    async def restart(self, seat: Seat, *flags: str) -> Seat:
        await asyncio.wait_for(await seat.begin(*flags), PATIENCE_S)
        return seat

    async def end(self) -> None:
        for each in self.seats:
            await each.end(cut=True)

    @property
    def running(self) -> list[Seat]:
        return [each for each in self.seats if each.runs]

    def leader_now(self) -> Seat | None:
        """The one that all who run agree on, and that has applied all of its predecessors' entries."""
        said = {each.node.leader_id for each in self.running}
        if len(said) != 1 or NOBODY in said:
            return None
        leader = next((each for each in self.running if each.id in said), None)
        return leader if leader is not None and leader.node.leads else None

    async def leader(self) -> Seat:
        return await until(self.leader_now, "a leader that all agree on")

    async def followers(self) -> list[Seat]:
        leader = await self.leader()
        return [each for each in self.running if each is not leader]

    async def same(self) -> int:
        """The applied index of all who run, once it is the same and their states hash to the same."""

        def agreed() -> int:
            states = {(each.node.applier.index, each.node.applier.state_hash) for each in self.running}
            return states.pop()[0] if len(states) == 1 else 0

        return await until(agreed, "all members have the same state")

    async def ended(self, seat: Seat) -> Exception:
        """Why it ended by itself."""
        await asyncio.wait_for(asyncio.shield(seat.node.stopped), PATIENCE_S)
        reason = seat.node.stopped.result()
        assert reason is not None
        return reason

    # --- members

    async def add(self, *, is_learner: bool = False) -> Seat:
        """A seat for one more member, which the others know now; it has not started."""
        via, seat = await self.leader(), self._new_seat()
        await via.change(lambda done: via.node.reconfiguration.add([seat.url], is_learner, done, None))
        self._use_initial_cluster([seat], "existing")
        return seat

    async def remove(self, seat: Seat, via: Seat | None = None) -> None:
        asked, member_id = via or await self.leader(), seat.id
        await asked.change(lambda done: asked.node.reconfiguration.remove(member_id, done, None))

    async def promote(self, member_id: int, via: Seat) -> None:
        body = rpc_pb2.MemberPromoteRequest(ID=member_id).SerializeToString()
        calls, method = via.node.leader_calls, peer_pb2.ForwardRequest.PROMOTE
        await via.change(lambda done: calls.call(method, body, done, None))

    def known(self, seat: Seat) -> list[Member]:
        return list(seat.node.members)


def play(directory: Path, story: Callable[[Trio], Awaitable[None]], *flags: str, size: int = 3) -> None:
    """Run the story with members that serve, and end them all, whatever came of it."""

    async def scenario() -> None:
        trio = Trio(directory, *flags, size=size)
        try:
            await trio.start()
            await story(trio)
        finally:
            await trio.end()

    asyncio.run(scenario())

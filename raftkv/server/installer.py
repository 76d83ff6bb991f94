"""Putting a received copy of the store in the place of this member's own (RF-45, RF-46).

A leader whose log no longer reaches back to what this member has offers it a snapshot. This member then fetches a copy
of the store beside its own, which goes on serving reads. Once the copy is whole and on disk, the core is told of it as
of a snapshot message; if it wants it, the log is restarted behind it, and then the stores are exchanged, between two
turns of the loop. Owns that sequence. A crash anywhere in it leads to the old store with the old log, or to the new
with the new: the record in the log decides (raftkv.backend.received).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.backend import BackendError, Expected, ReceivedStore
from raftkv.metrics import new_histogram
from raftkv.raft import Snapshot
from raftkv.server.peers import CopyFacts, PeerCallError, fetch_copy
from raftkv.server.peers.transfers import TransferTable
from raftkv.wire import WireError, decode_conf_state

if TYPE_CHECKING:
    from pathlib import Path

    from raftkv.backend import Backend
    from raftkv.raft import Message
    from raftkv.rpc.tls import Tls
    from raftkv.server.defragment import Pausable
    from raftkv.server.peers import Identity

_log = logging.getLogger(__name__)

PATIENT_S: Final = 1.0
"""For so long the exchange waits for the reads under way while it lets new ones begin."""
RETRY_S: Final = 0.01
PROGRESS_S: Final = 5.0
"""Between two lines in the log about a transfer."""


class Receiver(Protocol):
    """The rest of the member, as the installer sees it."""

    def on_snapshot_ready(self, message: Message) -> bool:
        """Step the snapshot message into the core. False: it had no use for it."""

    def on_store_replaced(self) -> None:
        """The backend holds another store: load everything from it."""


class Installer:
    def __init__(
        self,
        identity: Identity,
        backend: Backend,
        store_dir: Path,
        pausables: Sequence[Pausable],
        exchange: asyncio.Lock,
        receiver: Receiver,
        spawn: Callable[..., asyncio.Task[None]],
        on_failed: Callable[[Exception], None],
        tls: Tls | None = None,
    ) -> None:
        self._identity = identity
        self._backend = backend
        self._store_dir = store_dir
        self._pausables = pausables
        self._exchange_lock = exchange
        self._receiver = receiver
        self._spawn = spawn
        self._on_failed = on_failed
        self._tls = tls
        self._received: ReceivedStore | None = None
        """Whole and on disk, and the core has taken the snapshot."""
        self._fetch_task: tuple[int, asyncio.Task[None]] | None = None
        """From whom a copy is being fetched."""
        self._fetched = False
        """It is all there, and being checked in a thread."""
        self._next_offer: tuple[Message, str] | None = None
        """Of another leader, made while the last one's copy was being fetched."""
        self._stopped = False
        self.installed = 0
        self.failed = 0
        self.transfers = TransferTable("etcd_network_snapshot_receive_total_duration_seconds")
        self.saves = new_histogram("etcd_snap_db_save_total_duration_seconds")

    @property
    def installing(self) -> bool:
        """A copy is there, and is put in place."""
        return self._received is not None

    @property
    def busy(self) -> bool:
        return self._fetch_task is not None or self._received is not None

    # --- fetching -----------------------------------------------------------------------------------------------------

    def on_offer(self, message: Message, url: str) -> None:
        """A leader offers a snapshot. One is fetched at a time; further offers of the same leader mean the same."""
        if self._stopped or self._received is not None:
            return
        if self._fetch_task is not None:
            if self._fetch_task[0] == message.sender or self._fetched:
                return  # what is all there is used, whoever leads by now
            # From a leader that is no more, and perhaps does not answer any more. The next begins when it has let go of
            # the place where a copy is received.
            is_first, self._next_offer = self._next_offer is None, (message, url)
            if is_first:  # a second time would hurry it out of letting go
                self._fetch_task[1].cancel()
        else:
            self._begin_fetch(message, url)

    def _begin_fetch(self, message: Message, url: str) -> None:
        task = self._spawn(self._fetch(message, url))
        self._fetch_task = (message.sender, task)
        task.add_done_callback(self._on_fetched)

    def _on_fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetch_task, self._fetched = None, False
        offer, self._next_offer = self._next_offer, None
        if offer is not None and not self._stopped and self._received is None:
            self._begin_fetch(*offer)

    async def _fetch(self, message: Message, url: str) -> None:
        assert message.snapshot is not None
        loop = asyncio.get_running_loop()
        receiving: list[ReceivedStore] = []
        given_up = threading.Event()
        began_s = told_s = loop.time()
        transfers = self.transfers.of(message.sender)
        transfers.under_way += 1

        def begin(facts: CopyFacts) -> ReceivedStore:
            fields = {"from": f"{message.sender:x}", "index": facts.applied, "size_bytes": facts.size_bytes}
            _log.info("fetching a copy of the store, for the log does not reach back far enough", extra={"kv": fields})
            received = ReceivedStore(self._store_dir, facts.size_bytes)
            if given_up.is_set():
                received.discard()
                raise BackendError("nobody waits for this copy any more")
            receiving.append(received)
            return received

        def progress(done_bytes: int, size_bytes: int) -> None:
            nonlocal told_s
            if loop.time() - told_s >= PROGRESS_S:
                told_s = loop.time()
                percent = 100 * done_bytes // size_bytes
                _log.info("fetching the store", extra={"kv": {"percent": percent, "bytes": done_bytes}})

        try:
            facts = await fetch_copy(
                self._identity, message.sender, url, message.snapshot.index, begin, progress, self._tls
            )
            self._fetched = True
            await loop.run_in_executor(None, self._finish, receiving[0], facts)
        except (PeerCallError, BackendError, OSError, WireError) as failure:
            self.failed += 1
            transfers.failed += 1
            for each in receiving:
                await loop.run_in_executor(None, each.discard)
            fields = {"from": f"{message.sender:x}", "error": str(failure)}
            _log.warning("the store could not be fetched; the leader will offer it again", extra={"kv": fields})
        except asyncio.CancelledError:
            given_up.set()
            transfers.failed += 1
            for each in receiving:
                await loop.run_in_executor(None, each.discard)
            raise
        else:
            transfers.succeeded += 1
            transfers.durations.observe(loop.time() - began_s)
            self.saves.observe(loop.time() - began_s)
            self._offer_to_core(message, receiving[0], facts)
        finally:
            transfers.under_way -= 1

    def _finish(self, received: ReceivedStore, facts: CopyFacts) -> None:
        """In a thread: whole, checked, ours, and durable under its name."""
        identity = self._identity
        expect = Expected(facts.applied, facts.term, identity.cluster_id, facts.conf_state, identity.member_id)
        received.finish(expect)

    def _offer_to_core(self, message: Message, received: ReceivedStore, facts: CopyFacts) -> None:
        if self._stopped:
            return  # the next start removes it: the log does not speak of it
        message.snapshot = Snapshot(facts.applied, facts.term, decode_conf_state(facts.conf_state))
        self._received = received
        if not self._receiver.on_snapshot_ready(message):
            self._received = None
            self._spawn(_discard(received))

    # --- exchanging ---------------------------------------------------------------------------------------------------

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        """The log has been restarted behind this snapshot, durably: put its store in place, then call `done`."""
        received = self._received
        assert received is not None, "a snapshot comes from here"
        assert (received.consistent_index, received.term) == (snapshot.index, snapshot.term), (
            "one is under way at a time"
        )
        self._spawn(self._wait_and_exchange(received, snapshot, done))

    async def _wait_and_exchange(self, received: ReceivedStore, snapshot: Snapshot, done: Callable[[], None]) -> None:
        async with self._exchange_lock:  # a defragmentation may be under way
            await self._exchange(received, snapshot, done)

    async def _exchange(self, received: ReceivedStore, snapshot: Snapshot, done: Callable[[], None]) -> None:
        for each in self._pausables:
            each.pause()
        try:
            for each in self._pausables:
                await each.settled()
            await self._readers_gone()
            if self._stopped:
                return  # the next start puts it in place
            self._backend.install(received)
            self._receiver.on_store_replaced()
        except Exception as failure:
            # The log speaks of a store that is not in place: nothing may go on. The next start finishes it.
            self._on_failed(failure)
            return
        finally:
            self._backend.refuse_pins = False
        self._received = None
        self.installed += 1
        _log.info("the store was replaced by a copy", extra={"kv": {"index": snapshot.index, "term": snapshot.term}})
        for each in self._pausables:
            each.resume()
        done()

    async def _readers_gone(self) -> None:
        """Long reads hold the old store. They are short of ends, not of processor time: they always come to one."""
        loop = asyncio.get_running_loop()
        patient_until_s = loop.time() + PATIENT_S
        while self._backend.blocking_pin_count:
            self._backend.refuse_pins = loop.time() >= patient_until_s
            await asyncio.sleep(RETRY_S)

    def stop(self) -> None:
        self._stopped = True


async def _discard(received: ReceivedStore) -> None:
    await asyncio.get_running_loop().run_in_executor(None, received.discard)

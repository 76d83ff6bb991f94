"""A member: the parts, what joins them, and what the services may ask of it.

All state belongs to the event loop. The services hand in requests and continuations; the ready loop drives consensus
and disk; `peering` talks to the other members; this class passes results from one to the other and keeps the clock.
Knows nothing of gRPC: it answers by calling back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from raftkv.apply import Kind
from raftkv.lease import min_ttl_s
from raftkv.metrics import new_histogram
from raftkv.mvcc.watch import WatchHub
from raftkv.raft import NOBODY, RawNode, Role
from raftkv.raft import Config as RaftConfig
from raftkv.server.applying import Applying
from raftkv.server.authenticator import Authenticator
from raftkv.server.autocompact import AutoCompactor, make_plan
from raftkv.server.checkpoints import Checkpoints
from raftkv.server.compactor import Compactor
from raftkv.server.defragment import Defragmenter
from raftkv.server.durations import Durations
from raftkv.server.entrance import enter
from raftkv.server.errors import LeaderChanged, MemberEnded, ProposalLost, RequestTimedOut, Stopped, TooManyRequests
from raftkv.server.leader_calls import LeaderCalls
from raftkv.server.leadership import Leadership
from raftkv.server.lease_keeper import LeaseKeeper
from raftkv.server.list_budget import ListBudget
from raftkv.server.loop_lag import LoopLag
from raftkv.server.peering import Peering
from raftkv.server.proposals import MAX_ENTRY_BYTES, Finish, Proposals
from raftkv.server.quota import Quota
from raftkv.server.reads import Read, Reads
from raftkv.server.ready_loop import ReadyLoop
from raftkv.server.reconfiguration import Reconfiguration
from raftkv.server.slices import Slices
from raftkv.server.slow_requests import SlowRequests
from raftkv.server.space_watch import SpaceWatch
from raftkv.server.waiting import Waiting
from raftkv.version import CLUSTER_VERSION

if TYPE_CHECKING:
    from raftkv.config import Config
    from raftkv.raft import Entry, Message, ReadState, Snapshot, SoftState
    from raftkv.raft import Status as RaftStatus
    from raftkv.rpc.tls import Tls
    from raftkv.server.authenticator import SignedTokens
    from raftkv.server.bootstrap import Booted
    from raftkv.server.defragment import Pausable
    from raftkv.server.leader_calls import Status
    from raftkv.wal import FlushResult

_log = logging.getLogger(__name__)

CATCH_UP_EVENTS: Final = 500
"""History events read for slow or late watchers in one slice: a few milliseconds."""
MAX_PROGRESS_JITTER: Final = 0.1
"""W-73: so that a thousand watchers are not notified in the same moment."""
MAX_UNCOMMITTED_BYTES: Final = 128 << 20
"""Of proposals that no quorum has yet: a leader without one takes no more than this before it steps down."""
MAX_INFLIGHT_BYTES: Final = 16 << 20
"""Appends on the way to one follower. Below what a link queues, and above what a fast network holds."""
MAX_INFLIGHT_MSGS: Final = 512
"""Contract section 13.1."""
FIRST_LINK_S: Final = 5.0
"""So long a starting member waits for a link before it fast-forwards its election timeout all the same (RF-09)."""
VERSION_CHECK_S: Final = 4.0
"""F-76."""
LATE_TICKS: Final = 3
"""L-26: heartbeats without a tick after which a leader may have been suspended."""


class Parts(NamedTuple):
    """What belongs to a node alone, for whoever shows its counters."""

    proposals: Proposals
    reads: Reads
    checkpoints: Checkpoints
    defragmenter: Defragmenter


class Counters:
    """Plain integers since the start, for the metrics."""

    __slots__ = ("applied_bytes", "backups", "late_heartbeats", "leader_changes", "slow_applies", "wal_bytes")

    def __init__(self) -> None:
        self.leader_changes = 0
        self.late_heartbeats = 0
        self.slow_applies = 0
        self.applied_bytes = 0
        self.wal_bytes = 0
        self.backups = 0
        """Copies of the store that clients have taken whole."""


class Node:
    """Made by `boot` and this constructor; then `start`, and at last `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        booted: Booted,
        status_of: Callable[[Exception], Status],
        signed_tokens: SignedTokens | None = None,
        to_peers: Tls | None = None,
    ) -> None:
        """`status_of`: what a client is told of an error (api.errors). `signed_tokens`: of --auth-token=jwt.
        `to_peers`: for calling members over https."""
        self.loop = loop
        self.config = config
        self.to_peers = to_peers
        self.member_id = booted.member_id
        self.cluster_id = booted.cluster_id
        self.backend = booted.backend
        self.store = booted.store
        self.lessor = booted.lessor
        self.members = booted.members
        self.alarms = booted.alarms
        self.auth = booted.auth
        self.applier = booted.applier
        self.hub = WatchHub(self.store, self.backend.tables)
        self.slices = Slices(loop, self.on_fatal, lambda: self._ready_loop.is_due)
        self.list_budget = ListBudget(config.max_list_bytes_in_flight)
        self.quota = Quota(self.backend, config.quota_backend_bytes)
        self.leader_id = NOBODY
        self.counters = Counters()
        self.durations = Durations()
        self.min_lease_ttl_s = min_ttl_s(config.election_ticks, config.heartbeat_interval_ms)
        self.stopped: asyncio.Future[Exception | None] = loop.create_future()
        """Done when the node must end: with None after `stop`, with the failure that ended it otherwise."""

        self.backend.on_failed = self.on_fatal
        self.backend.commit_durations = new_histogram("etcd_disk_backend_commit_duration_seconds")
        self.lessor.granted_ttls = new_histogram("etcd_debugging_lease_ttl_total")
        self._loop_lag = LoopLag(loop, self.durations.loop_lag)
        self._booted = booted
        self._failed = False
        """Nothing may be written any more."""
        self._is_leader = False
        self._started_s = loop.time()
        self._fast_forwarded = False
        self._watchers_awake = False
        self._tasks: set[asyncio.Task[None]] = set()
        """Spawned and not yet done; the loop itself holds only weak references. Bounded by the open requests."""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._on_tick: list[Callable[[float], None]] = [self.list_budget.on_tick]
        self._last_tick_s = loop.time()
        self._last_version_check_s = 0.0
        self.slow_requests = SlowRequests(config.warning_unary_request_duration_s)
        # By chance, not by the clock, which may have been set back since an earlier life.
        self._proposals = Proposals(self.member_id, secrets.randbits(62), loop.time, self.slow_requests)
        rawnode = RawNode(self._raft_config(), booted.storage, random.SystemRandom())
        self._rawnode = rawnode
        self._reads = Reads(rawnode, secrets.randbits(62), self.slow_requests)
        self._ready_loop = ReadyLoop(loop, rawnode, booted.storage, booted.wal, self._proposals, self)
        self.applying = Applying(self, rawnode, self._ready_loop, self._proposals, self._reads)
        self.schedule = self._ready_loop.schedule
        """Something was given to the core, or may be proposed: have a turn soon."""
        self._checkpoints = Checkpoints(loop, self.backend, booted.wal, self._log_floor, self.on_fatal)
        self.compactor = Compactor(
            loop,
            self.backend,
            self.store,
            config.compaction_batch_limit,
            config.compaction_sleep_interval_s,
            self.on_fatal,
        )
        self.pausables: tuple[Pausable, ...] = (self._ready_loop, self.compactor, self._checkpoints)
        self._rebindables = (self.store, self.lessor, self.members, self.alarms, self.auth, self.hub)
        self.exchange = asyncio.Lock()
        """Held while the open store is being replaced."""
        self._defragmenter = Defragmenter(self.backend, self.pausables, self._rebindables, self.on_fatal, self.exchange)
        self.parts = Parts(self._proposals, self._reads, self._checkpoints, self._defragmenter)
        self.space = SpaceWatch(
            self.member_id,
            self.backend,
            self.quota,
            self.alarms,
            self.applier,
            self._ready_loop.check_log_space,
            self.propose,
        )
        self.lease_keeper = LeaseKeeper(
            self.lessor,
            self.propose,
            lambda: self._rawnode.term,
            config.election_timeout_ms / 1000,
            LATE_TICKS * config.heartbeat_interval_ms / 1000,
            checkpoints=config.feature_gates["LeaseCheckpoint"],
        )
        if config.auto_compaction is not None:
            plan = make_plan(config.auto_compaction)
            self.on_tick(AutoCompactor(plan, self.store, lambda: self.leads, self.propose).on_tick)
        self.authenticator = Authenticator(self, signed_tokens)
        self.on_tick(self.authenticator.on_tick)
        self._join_others(booted, rawnode, status_of)

    def _join_others(self, booted: Booted, rawnode: RawNode, status_of: Callable[[Exception], Status]) -> None:
        """The parts that know of other members."""
        self.peering = Peering(self, booted, rawnode)
        links = self.peering.links
        election_timeout_s = self.config.election_timeout_ms / 1000
        self.waiting = Waiting(self.member_id, election_timeout_s, links.connected_since, self._voters)
        self.reconfiguration = Reconfiguration(
            self.member_id,
            self.members,
            rawnode,
            self._proposals,
            links,
            self.waiting,
            self.schedule,
            self.loop.time,
            timeout_s=self.config.request_timeout_s,
            strict=self.config.strict_reconfig_check,
            max_learners=self.config.max_learners,
        )
        self.leadership = Leadership(rawnode, links.connected_since, self.schedule, self.config.request_timeout_s)
        self.leader_calls = LeaderCalls(self, status_of)
        self.on_tick(self.slow_requests.on_tick)
        self.on_tick(self.peering.on_tick)
        self.on_tick(self.leadership.on_tick)
        self.on_tick(self.leader_calls.on_tick)

    def _raft_config(self) -> RaftConfig:
        return RaftConfig(
            id=self.member_id,
            election_ticks=self.config.election_ticks,
            heartbeat_ticks=1,
            applied=self.applier.index,
            max_size_per_msg=MAX_ENTRY_BYTES,
            max_inflight_msgs=MAX_INFLIGHT_MSGS,
            max_inflight_bytes=MAX_INFLIGHT_BYTES,
            max_uncommitted_bytes=MAX_UNCOMMITTED_BYTES,
            pre_vote=self.config.pre_vote,
        )

    def _voters(self) -> tuple[int, ...]:
        return self.applier.conf_state.voters

    @property
    def _is_alone(self) -> bool:
        conf_state = self.applier.conf_state
        return conf_state.voters == (self.member_id,) and not conf_state.learners

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join: elect, replay the log, publish this member's attributes. After it, clients can be served (G-03).

        The peer URLs must be served already. Raises what ended the member instead.
        """
        self.peering.update_links()
        self._tick_timer = self.loop.call_later(self.config.heartbeat_interval_ms / 1000, self._tick)
        if self.config.initial_election_tick_advance and self._is_alone:
            self._rawnode.campaign()  # nobody else could win (RF-09)
        self._loop_lag.start()
        self.schedule()
        self.compactor.wake()
        await enter(self)

    async def hand_over(self) -> None:
        """Before `stop`: let another member lead, so that the others need not notice first (RF-23)."""
        if not self.stopped.done():
            await self.leadership.hand_over(self.config.election_timeout_ms / 1000)

    async def stop(self) -> None:
        """Answer who still waits, make everything durable, let go of the files."""
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._loop_lag.stop()
        self.slices.stop()
        self.compactor.pause()
        self._ready_loop.stop()
        self._fail_waiting()
        self.authenticator.close()
        await self.peering.stop()
        await self._defragmenter.settled()
        await self._checkpoints.stop()
        if not self._failed:
            self._booted.wal.close()
            self.backend.close()
        if not self.stopped.done():
            self.stopped.set_result(None)
        self._booted.lock.release()

    def _fail_waiting(self) -> None:
        self._proposals.fail_all(Stopped())
        self._reads.fail_all(Stopped())
        self.reconfiguration.fail_all(Stopped())
        self.leadership.fail_all()
        self.leader_calls.fail_all(Stopped())
        self.authenticator.fail_all(Stopped())

    def on_fatal(self, failure: Exception) -> None:
        """The disk failed, or we made a mistake: nothing may be acknowledged any more (RF-53, RF-73)."""
        if not self._failed:
            self._failed = True
            _log.critical("this member must stop", exc_info=failure, extra={"kv": {"error": str(failure)}})
            # What is in memory is ahead of the disk, or the disk is not to be trusted: nothing may be written any more.
            self._ready_loop.halt()
            self.compactor.pause()
            self._checkpoints.pause()
            self.slices.stop()
            self._fail_waiting()
            if not self.stopped.done():
                self.stopped.set_result(failure)

    def end(self, reason: MemberEnded) -> None:
        """This member is sound and must stop all the same; the text tells why, and what to do."""
        if not self.stopped.done():
            _log.critical(str(reason), extra={"kv": {"reason": type(reason).__name__}})
            self._fail_waiting()
            self.stopped.set_result(reason)

    def on_tick(self, callback: Callable[[float], None]) -> None:
        """Have `callback(now)` called every heartbeat interval."""
        self._on_tick.append(callback)

    def _tick(self) -> None:
        if self.stopped.done():
            return
        now = self.loop.time()
        self._tick_timer = self.loop.call_later(self.config.heartbeat_interval_ms / 1000, self._tick)
        late, self._last_tick_s = now - self._last_tick_s > 2 * self.config.heartbeat_interval_ms / 1000, now
        if late and self._is_leader and not self._is_alone:
            self.counters.late_heartbeats += 1
        try:
            self._rawnode.tick()
            self._proposals.expire(now - self.config.request_timeout_s, self.waiting.proposal_error)
            self._reads.on_tick(now, self.config.request_timeout_s, RequestTimedOut())
            self.lease_keeper.on_tick(now)
            self._checkpoints.on_tick(now)
            self.reconfiguration.go_on(now)
            self.trim_log()
            self.space.on_tick(now)
            self._ready_loop.quorum_rtt_s = self.peering.links.quorum_rtt_s(self._voters())
            if now - self._last_version_check_s >= VERSION_CHECK_S:
                self._last_version_check_s = now
                self._check_cluster_version()
            if not self._fast_forwarded and now - self._started_s >= FIRST_LINK_S:
                self.on_peer_connected()
            for callback in self._on_tick:
                callback(now)
        except Exception as failure:
            self.on_fatal(failure)
        self.schedule()

    def on_peer_connected(self) -> None:
        """The first time: there is somebody to hear from, so the wait for a leader need not be a whole one (RF-09)."""
        if not self._fast_forwarded:
            self._fast_forwarded = True
            if self.config.initial_election_tick_advance and self.leader_id == NOBODY and not self._is_alone:
                for _ in range(self.config.election_ticks - 2):
                    self._rawnode.tick()

    @property
    def ticks_are_late(self) -> bool:
        """This process did not run for a while: another member may lead by now, and this one not know it (L-26)."""
        return self.loop.time() - self._last_tick_s > LATE_TICKS * self.config.heartbeat_interval_ms / 1000

    def _check_cluster_version(self) -> None:
        """F-76, by the leader. All members of this version speak one version of the protocol between members."""
        if self.leads and self.applier.cluster_version != CLUSTER_VERSION:
            self.propose(Kind.CLUSTER_VERSION, CLUSTER_VERSION.encode("ascii"), _forget_result, None)

    def trim_log(self) -> None:
        """Of the log in memory. On disk it reaches back to the last checkpoint, or as far as this."""
        keep = 0 if self._is_alone else self.config.snapshot_catchup_entries
        self._booted.storage.trim(keep, self.peering.copies.oldest_index)

    def _log_floor(self, durable_index: int) -> int:
        """Entries before this one need not be kept on disk, the store being durable up to `durable_index`."""
        return min(durable_index, self._booted.storage.first_index() - 1)

    # --- what the services ask ----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds of the loop's monotonic clock: what deadlines and leases are measured by (RF-74)."""
        return self.loop.time()

    @property
    def leads(self) -> bool:
        """This member leads and knows every lease (L-50)."""
        return self.lease_keeper.primary

    @property
    def committed(self) -> int:
        """Index of the last entry known to be committed; it may not be applied here yet."""
        return self._rawnode.committed

    def raft_status(self) -> RaftStatus:
        return self._rawnode.status()

    @property
    def is_learner(self) -> bool:
        """Not a voter (yet): serves next to nothing (G-30)."""
        own = self.members.get(self.member_id)
        return own is not None and own.is_learner

    def propose(self, kind: int, message: bytes, finish: Finish, context: Any) -> None:
        """Have a request applied by all members; `finish(context, result)` is called later, exactly once.

        The result is what `apply` made of it, or a NodeError. A proposal made without a leader waits for one (G-51).
        """
        if self.stopped.done():
            finish(context, Stopped())
        elif self._proposals.add(kind, message, finish, context):
            self._ready_loop.schedule()
        else:
            finish(context, TooManyRequests())

    def linearizable(self, read: Read, context: Any) -> None:
        """Call `read(context, None)` when a read of the local store is linearizable, or `read(context, error)`."""
        if self.stopped.done():
            read(context, Stopped())
        elif self._is_leader and self._rawnode.reads_at_once:
            # A lone voter's commit index cannot be overtaken, and all that is committed is applied in the same turn
            # of the loop that learned of it (RF-32).
            read(context, None)
        else:
            self._reads.add(read, context)
            self._reads.maybe_start(self.loop.time())
            self._ready_loop.schedule()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something of many waits beside everything else. It answers for its own errors; one that it does not know
        of ends the member, rather than whatever waits for it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, Exception):
            self.on_fatal(failure)

    async def defragment(self) -> None:
        """Rewrite this member's store without its free pages (MT-30). See `Defragmenter.run` for what it raises."""
        await self._defragmenter.run()
        self.quota.update()

    def wake_watchers(self) -> None:
        """A watcher has history to read: serve it in slices between other work."""
        if not self._watchers_awake:
            self._watchers_awake = True
            self.slices.add(_CatchUp(self))

    def catch_up(self) -> bool:
        more = self.hub.catch_up(self.backend.read(), CATCH_UP_EVENTS)
        self._watchers_awake = more
        return more

    def progress_interval_s(self) -> float:
        """Until the next automatic progress notification (W-73)."""
        return self.config.watch_progress_notify_interval_s * (1 + MAX_PROGRESS_JITTER * random.random())

    def new_lease_id(self) -> int:
        """A positive int64 that no lease has now (L-01)."""
        while (lease_id := secrets.randbits(63)) == 0 or lease_id in self.lessor:
            pass
        return lease_id

    # --- what the ready loop reports ----------------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        self.peering.links.send(messages)

    def reaches(self, member_id: int) -> bool:
        return self.peering.links.connected_since(member_id) is not None

    def install(self, snapshot: Snapshot, done: Callable[[], None]) -> None:
        self.peering.installer.install(snapshot, done)

    def on_store_replaced(self) -> None:
        """The backend holds a newer store, of another member: everything in memory is as of the old one (RF-45)."""
        tables = self.backend.tables
        for each in self._rebindables[:-1]:
            each.rebind(tables)
        self.applier.load()
        self.lease_keeper.primary = False  # loading has ended what the lessor knew as leader
        self.hub.resync_all(tables)
        self.quota.update()
        # What was proposed here may be in that store already, and no entry will come to tell.
        self._proposals.fail_in_flight(RequestTimedOut())
        self._reads.on_applied(self.applier.index)
        self.authenticator.on_applied(self.applier.index)
        self.peering.update_links()
        self.compactor.wake()
        self.wake_watchers()

    def on_soft_state(self, soft_state: SoftState) -> None:
        now = self.loop.time()
        new_leader = soft_state.lead not in (NOBODY, self.leader_id)
        self.leader_id = soft_state.lead
        self._is_leader = soft_state.role is Role.LEADER
        self.waiting.on_leader(soft_state.lead, now)
        if not self._is_leader and self.lease_keeper.primary:
            self.lease_keeper.demote()
        if new_leader:
            self.counters.leader_changes += 1
            self._reads.on_leader_changed(LeaderChanged(), now)
            self.leadership.on_leader(soft_state.lead)
        self.reconfiguration.on_leader_changed()
        _log.info(
            "leadership changed",
            extra={
                "kv": {
                    "role": soft_state.role.value,
                    "leader": f"{soft_state.lead:x}",
                    "term": self._rawnode.term,
                }
            },
        )

    def on_committed(self, entries: Sequence[Entry]) -> None:
        self.applying.apply(entries)

    def on_read_states(self, states: list[ReadState]) -> None:
        self._reads.on_read_states(states, self.applier.index, self.loop.time())

    def on_proposal_dropped(self, number: int) -> None:
        self._proposals.fail_batch(number, ProposalLost())

    def on_flushed(self, result: FlushResult) -> None:
        self._checkpoints.log_bytes += result.bytes_written
        self.counters.wal_bytes += result.bytes_written
        self.durations.wal_write.observe(result.write_s)
        if result.sync_s:
            self.durations.wal_fsync.observe(result.sync_s)


class _CatchUp:
    """The slices of the watch hub."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def step(self) -> bool:
        return self._node.catch_up()


def _forget_result(_context: None, _result: Any) -> None:
    """Whoever asked asks again when it is still needed."""

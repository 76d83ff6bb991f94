"""Changes of the membership: checked here, proposed one at a time, answered when they are applied (contract section 5).

Owns the queue of changes on this member and of those that followers forwarded before they can be made. What a change
means is the business of `apply`; whether the cluster could go on after it is asked of `membership.checks`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from raftkv.apply import MemberChange, encode_member_change
from raftkv.membership import Member, MembershipError, added_member_id, checks
from raftkv.raft import NOBODY, EntryType, MessageType, ProposalDropped
from raftkv.server.errors import NotLeader, ProposalLost, TooManyRequests

if TYPE_CHECKING:
    from raftkv.membership import Members
    from raftkv.raft import Message, RawNode
    from raftkv.server.peers import Links
    from raftkv.server.proposals import Finish, Proposals
    from raftkv.server.waiting import Waiting

MAX_WAITING: Final = 64
"""Changes on this member, and forwarded ones, that wait for the one under way (CL-51). Beyond, refused or dropped."""

Operation: TypeAlias = "MemberChange.Operation.ValueType"


class Reconfiguration:
    def __init__(
        self,
        own_id: int,
        members: Members,
        rawnode: RawNode,
        proposals: Proposals,
        links: Links,
        waiting: Waiting,
        schedule: Callable[[], None],
        clock: Callable[[], float],
        *,
        timeout_s: float,
        strict: bool,
        max_learners: int,
    ) -> None:
        self._own_id = own_id
        self._members = members
        self._rawnode = rawnode
        self._proposals = proposals
        self._links = links
        self._waiting = waiting
        self._schedule = schedule
        self._clock = clock
        self._timeout_s = timeout_s
        self._strict = strict
        self._max_learners = max_learners
        self._queue: deque[tuple[float, Operation, int, Sequence[str], Finish, Any]] = deque()
        """Since when (loop time), what, and whom to tell."""
        self._forwarded: deque[Message] = deque()
        """Proposals of followers with a change that the core would turn into an empty entry now (RF-60)."""
        self._under_way = 0
        """Batch number of this member's change in the log; 0 for none."""
        self.promoted = 0
        self.promotions_failed: dict[type[Exception], tuple[Exception, int]] = {}
        """Kind of error -> the last one, and how many. Bounded by the kinds there are."""

    # --- what the services ask ----------------------------------------------------------------------------------------

    def add(self, peer_urls: Sequence[str], is_learner: bool, finish: Finish, context: Any) -> None:
        """`finish(context, result)` is called once, as for `Node.propose`."""
        member = Member(added_member_id(peer_urls, int(time.time())), tuple(sorted(peer_urls)), is_learner=is_learner)
        operation = MemberChange.ADD_LEARNER if is_learner else MemberChange.ADD
        try:
            checks.check_add(self._members, member, self._reach(), strict=self._strict, max_learners=self._max_learners)
        except MembershipError as refusal:
            finish(context, refusal)
            return
        self._enqueue(operation, member.id, member.peer_urls, finish, context)

    def remove(self, member_id: int, finish: Finish, context: Any) -> None:
        try:
            checks.check_remove(self._members, member_id, self._reach(), strict=self._strict)
        except MembershipError as refusal:
            finish(context, refusal)
            return
        self._enqueue(MemberChange.REMOVE, member_id, (), finish, context)

    def promote(self, member_id: int, finish: Finish, context: Any) -> None:
        """On the leader only, which knows how far the learner has come (CL-44)."""
        status = self._rawnode.status()
        if not self._rawnode.is_leader:
            finish(context, NotLeader())
            return

        def count_and_finish(context: Any, result: Any) -> None:
            self._count_promotion(result)
            finish(context, result)

        matches = {each: progress.match for each, progress in status.progress.items()}
        try:
            checks.check_promote(self._members, member_id, matches, self._own_id, strict=self._strict)
        except MembershipError as refusal:
            count_and_finish(context, refusal)
            return
        self._enqueue(MemberChange.PROMOTE, member_id, (), count_and_finish, context)

    def _count_promotion(self, result: Any) -> None:
        if isinstance(result, Exception):
            _, count = self.promotions_failed.get(type(result), (result, 0))
            self.promotions_failed[type(result)] = (result, count + 1)
        else:
            self.promoted += 1

    def _reach(self) -> checks.Links:
        now = self._clock()
        return checks.Links(
            own_id=self._own_id,
            connected={each.id for each in self._members if self._links.connected_since(each.id) is not None},
            steady=self._waiting.connected_for(checks.STEADY_S, now),
        )

    # --- one at a time ------------------------------------------------------------------------------------------------

    def _enqueue(
        self, operation: Operation, member_id: int, peer_urls: Sequence[str], finish: Finish, context: Any
    ) -> None:
        if len(self._queue) >= MAX_WAITING:
            finish(context, TooManyRequests())
            return
        now = self._clock()
        self._queue.append((now, operation, member_id, peer_urls, finish, context))
        self.go_on(now)

    @property
    def waits(self) -> bool:
        """`go_on` may have something to do."""
        return bool(self._queue or self._forwarded)

    def go_on(self, now: float) -> None:
        """Propose what can be proposed now: after every batch applied, and with every tick. What has waited for the
        request timeout is given up (G-51)."""
        while self._queue and now - self._queue[0][0] >= self._timeout_s:
            started_s, *_, finish, context = self._queue.popleft()
            finish(context, self._waiting.proposal_error(started_s, proposed=False))
        if self._under_way and not self._proposals.is_waiting(self._under_way):
            self._under_way = 0  # applied, or given up
        while self._forwarded and self._may_change:
            self._rawnode.step(self._forwarded.popleft())
            self._schedule()
        if self._queue and not self._under_way and self._rawnode.lead != NOBODY and self._may_change:
            self._propose(*self._queue.popleft()[1:])

    @property
    def _may_change(self) -> bool:
        """A follower cannot tell; the leader holds back what comes too early."""
        return not self._rawnode.is_leader or self._rawnode.can_change_conf

    def _propose(
        self, operation: Operation, member_id: int, peer_urls: Sequence[str], finish: Finish, context: Any
    ) -> None:
        number = self._under_way = self._proposals.register(finish, context)
        change = encode_member_change(self._own_id, number, operation, member_id, peer_urls, self._max_learners)
        try:
            self._rawnode.propose_conf_change(change)
        except ProposalDropped:
            self._under_way = 0
            self._proposals.fail_batch(number, ProposalLost())
        self._schedule()

    def hold(self, message: Message) -> bool:
        """On the leader: whether this message of a follower is a change that comes too early, and is kept until it may
        be made. Beyond the bound it is dropped, as if the network had lost it."""
        if (
            message.type is not MessageType.PROP
            or self._may_change
            or not any(each.type is EntryType.CONF_CHANGE for each in message.entries)
        ):
            return False
        if len(self._forwarded) < MAX_WAITING:
            self._forwarded.append(message)
        return True

    def on_leader_changed(self) -> None:
        """What followers gave to this member as leader is the next one's affair: they will time out or ask again."""
        self._forwarded.clear()

    def fail_all(self, error: Exception) -> None:
        queue, self._queue = self._queue, deque()
        for *_, finish, context in queue:
            finish(context, error)

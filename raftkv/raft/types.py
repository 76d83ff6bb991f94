"""The nouns of Raft: entries, messages, hard state, membership.

Owns their shapes and the few constants that belong to a shape. Knows nothing of behaviour: no
function here decides anything. How these values look as bytes is the business of `raftkv.wire`,
except for a configuration change, which travels inside an entry (see `confdata`).

Every value is immutable by agreement: once an Entry, Message or Ready has been handed over, no
side changes it. The hot ones are plain slotted classes because a frozen dataclass costs three
times as much to build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, NamedTuple, TypeAlias

NodeId: TypeAlias = int
"""Identity of a member, 64 bits. 0 stands for "nobody" and is never a member."""
Term: TypeAlias = int
"""Election term. Never decreases on a node; 0 before the first election."""
Index: TypeAlias = int
"""Position in the log. The first entry of a cluster has index 1; 0 stands before it."""

NOBODY: Final[NodeId] = 0
UNLIMITED: Final = (1 << 64) - 1
"""A size limit that never bites, and the commit index of a quorum of nobody."""

ENTRY_HEADER_SIZE_BYTES: Final = 21
"""What an entry costs beside its data, on the wire and in every size limit of this package."""


class EntryType(IntEnum):
    NORMAL = 0
    """Opaque bytes for the state machine; no bytes at all is the entry a new leader begins with."""
    CONF_CHANGE = 1
    """A `ConfChange` as encoded by `confdata`; takes effect when applied (RF-61)."""


@dataclass(slots=True)
class Entry:
    """One position of the log."""

    term: Term
    index: Index
    type: EntryType = EntryType.NORMAL
    data: bytes = b""

    def size_bytes(self) -> int:
        return len(self.data) + ENTRY_HEADER_SIZE_BYTES


class HardState(NamedTuple):
    """What a node must remember over a crash beside its log (Raft paper, figure 2)."""

    term: Term = 0
    vote: NodeId = NOBODY
    """Who got this node's vote in `term`. On disk before the vote is told to anybody."""
    commit: Index = 0
    """A hint that saves work after a restart; safety never depends on how recent it is."""


class ConfState(NamedTuple):
    """Who takes part, and how. All id tuples are sorted and free of duplicates.

    In the notation of thesis §4.3 a cluster that moves from C_old to C_new is run by C_old,new:
    `voters` is then C_new and `voters_outgoing` is C_old; otherwise `voters_outgoing` is empty.
    """

    voters: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    """Receive the log, count in no quorum. Disjoint from both sets of voters."""
    voters_outgoing: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    """Outgoing voters that become learners when the joint configuration is left."""
    auto_leave: bool = False
    """The leader proposes to leave the joint configuration as soon as it may."""


class ConfChangeType(IntEnum):
    ADD_VOTER = 0
    """Also promotes a learner; its progress is kept (RF-63)."""
    REMOVE = 1
    ADD_LEARNER = 2
    """Also demotes a voter."""


class ConfChangeTransition(IntEnum):
    AUTO = 0
    """A single change is made in one step, several through a joint configuration left by itself."""
    JOINT_IMPLICIT = 1
    """Joint even for a single change; left by itself."""
    JOINT_EXPLICIT = 2
    """Joint; stays until an empty ConfChange is proposed."""


class ConfChangeSingle(NamedTuple):
    type: ConfChangeType
    node_id: NodeId
    """0 makes the change a no-op: how a change refused at apply time is written (RF-62)."""


class ConfChange(NamedTuple):
    """A proposal to change the membership. Without changes and AUTO: leave the joint configuration."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""
    """Not read here: what the membership room wants to know (names, URLs, request id)."""

    @property
    def leaves_joint(self) -> bool:
        return not self.changes and self.transition is ConfChangeTransition.AUTO

    @property
    def uses_joint(self) -> bool:
        return len(self.changes) > 1 or self.transition is not ConfChangeTransition.AUTO


@dataclass(slots=True)
class Snapshot:
    """The state machine up to and including `index`, which replaces the log up to there."""

    index: Index
    term: Term
    conf_state: ConfState
    data: bytes = b""
    """Not read here: how the receiver gets the database (a small descriptor, not the database)."""


class MessageType(IntEnum):
    PROP = 0
    """entries: a proposal on its way from a follower to the leader. Carries no term."""
    APP = 1
    """AppendEntries: the entries after (index, log_term), and the leader's commit index."""
    APP_RESP = 2
    """index: highest index known to match; with reject: the refused `index`, plus hint and log_term."""
    VOTE = 3
    """RequestVote: (index, log_term) is the candidate's last entry."""
    VOTE_RESP = 4
    """With reject: (commit, log_term) is the newest entry known to be committed."""
    PRE_VOTE = 5
    """Would you vote for me in `term`? Changes nobody's term (thesis §9.6)."""
    PRE_VOTE_RESP = 6
    """As VOTE_RESP."""
    HEARTBEAT = 7
    """commit: what the receiver may commit, never beyond what it is known to have."""
    HEARTBEAT_RESP = 8
    SNAP = 9
    """InstallSnapshot."""
    READ_INDEX = 10
    """context: a read of a follower that needs a read index. Carries no term."""
    READ_INDEX_RESP = 11
    """index, context: the answer to READ_INDEX."""
    TRANSFER_LEADER = 12
    """context-free request by a follower: please transfer the leadership to `index`."""
    TIMEOUT_NOW = 13
    """Campaign at once, without pre-vote (thesis §3.10)."""


@dataclass(slots=True)
class Message:
    """What one node says to another. Unused fields keep their zero; see MessageType for the rest."""

    type: MessageType
    to: NodeId
    sender: NodeId = NOBODY
    term: Term = 0
    """The sender's term; of a pre-vote and its grant: the term asked about; 0: valid in any term."""
    index: Index = 0
    log_term: Term = 0
    entries: Sequence[Entry] = ()
    commit: Index = 0
    reject: bool = False
    hint: Index = 0
    """Of a rejected append: the highest index at which the follower's log may match; its term is log_term."""
    round: int = 0
    """ReadIndex round of the leader. Acknowledgements echo it: an echo of n confirms all rounds <= n."""
    transfer: bool = False
    """The candidate acts on the leader's order; leases do not protect against it (RF-03)."""
    context: bytes = b""
    snapshot: Snapshot | None = None
    state_index: Index = 0
    state_hash: int = 0
    """The sender's state machine at applied index `state_index` has this rolling hash (64 bits);
    both 0 when unknown. Carried for the shell, which compares; consensus does not look at it."""


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class SoftState(NamedTuple):
    """What observers want to know and nobody needs to persist."""

    lead: NodeId
    role: Role


@dataclass(slots=True, frozen=True)
class ReadState:
    """A read asked for with `context` may be served once the applied index reaches `index` (RF-34)."""

    index: Index
    context: bytes


@dataclass(slots=True)
class Ready:
    """What the shell has to do, all of it at once.

    1. send `messages`: they may leave before, while or after anything is saved;
    2. if `needs_save`: save `snapshot`, then `entries`, then `hard_state`, after every earlier
       Ready's, with an fsync if `must_sync`; give the same to the Storage; then call
       `RawNode.advance_append(ready)` and send `messages_after_sync`;
    3. apply `committed_entries`, then call `RawNode.advance_apply(last index)`;
    4. serve the reads in `read_states` once applied.

    Steps 1, 3 and 4 need not wait for 2, and the next Ready may be fetched while a save is in flight.
    """

    soft_state: SoftState | None = None
    """Present when it has changed."""
    hard_state: HardState | None = None
    """Present when it must be saved. A commit index that moves alone waits for company: it is
    written with the next entries, or after the next tick (RF-41)."""
    entries: list[Entry] = field(default_factory=list)
    """To be saved. May overwrite a suffix of what was saved before: the first one's index says."""
    snapshot: Snapshot | None = None
    """To be installed, replacing log and state machine. Counts as applied once saved."""
    committed_entries: list[Entry] = field(default_factory=list)
    """To be applied. Each is committed, durable on this node, and handed out exactly once."""
    messages: list[Message] = field(default_factory=list)
    messages_after_sync: list[Message] = field(default_factory=list)
    """Promises: votes, requests for votes and acknowledgements. Broken if sent before the save."""
    read_states: list[ReadState] = field(default_factory=list)
    must_sync: bool = False
    """Entries, term, vote or snapshot changed (RF-41)."""
    needs_save: bool = False
    """This Ready has its place in the queue of saves; advance_append must be called for it."""

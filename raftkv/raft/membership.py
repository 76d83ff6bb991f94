"""What a node does when the configuration in force changes (thesis §4.2, §4.3; RF-60 to RF-65)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import acknowledgements, proposals, reads, sending, transfer
from .confchange import apply_change
from .confdata import encode_conf_change
from .errors import ProposalDropped
from .types import NOBODY, ConfChange, ConfState, Entry, EntryType, Role

if TYPE_CHECKING:
    from .core import Raft


def apply_conf_change(raft: Raft, change: ConfChange) -> ConfState:
    """A committed change takes effect. Raises BadConfChange; then nothing has changed."""
    conf = apply_change(raft.tracker.conf, change)
    # A new member most likely has nothing. Probing at the end of the log costs one rejection,
    # which says where to begin.
    raft.tracker.switch(conf, raft.log.last_index + 1)
    if raft.role is Role.LEADER:
        _lead_on(raft)
    elif raft.lead not in (NOBODY, *conf.voters, *conf.voters_outgoing, *conf.learners):
        # It led until the change was committed and has stepped down by now (thesis §4.2.2). What waits for its
        # heartbeats to fail would wait in vain: nobody needs to be protected from an election any more.
        raft.lead = NOBODY
        raft.election_elapsed = max(raft.election_elapsed, raft.config.election_ticks)
    return conf


def _lead_on(raft: Raft) -> None:
    """The leader finds itself in a new configuration."""
    tracker = raft.tracker
    if raft.id not in tracker.voters:
        # Removed or demoted: it led until the change was committed and now makes way (thesis §4.2.2).
        raft.become_follower(raft.term, NOBODY)
        return
    if raft.lead_transferee and raft.lead_transferee not in tracker.voters:
        transfer.abort(raft)
    # With fewer voters, what is there already may be a quorum now: for entries and for reads.
    acknowledgements.after_acknowledgement(raft)
    for peer in tracker.peers:
        # Even without entries to whom we know nothing of: its refusal tells what it needs.
        sending.send_append(raft, peer, if_empty=not tracker.progress[peer].match)
    if raft.read_only.waiting:
        reads.answer_confirmed(raft)


def maybe_leave_joint(raft: Raft) -> None:
    """Leader, after applying: propose the way out of a joint configuration that leaves by itself."""
    conf = raft.tracker.conf
    if not conf.auto_leave or raft.log.applied < raft.pending_conf_index:
        return
    leave = Entry(0, 0, EntryType.CONF_CHANGE, encode_conf_change(ConfChange()))
    try:
        proposals.propose(raft, [leave])
    except ProposalDropped:
        return  # a transfer is under way: whoever leads next does it, or we when it is abandoned

"""How a leader is chosen: campaigning, answering candidates, counting answers.

Raft paper §5.2 and §5.4.1; thesis §4.2.3 (leases against disruption) and §9.6 (pre-vote).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .quorum import VoteResult
from .types import NOBODY, EntryType, Message, MessageType, Role

if TYPE_CHECKING:
    from .core import Raft

_SCAN_BYTES: Final = 1 << 20


def campaign(raft: Raft) -> None:
    """The election timeout has passed, or somebody asks for an election: pre-vote first, if wanted."""
    if not _may_campaign(raft):
        return
    if raft.config.pre_vote:
        _start_pre_vote(raft)
    else:
        start_election(raft, transfer=False)


def on_timeout_now(raft: Raft, message: Message) -> None:
    """The leader wants us to take over (RF-20). No pre-vote: we know that the leader agrees."""
    if _may_campaign(raft):
        start_election(raft, transfer=True)


def _may_campaign(raft: Raft) -> bool:
    return raft.role is not Role.LEADER and raft.promotable and not _has_unapplied_change(raft)


def _has_unapplied_change(raft: Raft) -> bool:
    """RF-05. A membership change that is committed but not applied here may have given the cluster
    other quorums than those we would ask."""
    log = raft.log
    index = log.applied + 1
    while index <= log.committed:
        for entry in log.entries(index, _SCAN_BYTES):
            if entry.index > log.committed:
                break
            if entry.type is EntryType.CONF_CHANGE:
                return True
            index = entry.index + 1
    return False


def _start_pre_vote(raft: Raft) -> None:
    raft.become_pre_candidate()
    # Nothing is promised, so nothing has to be on disk: our own answer counts at once.
    if raft.tracker.record_vote(raft.id, True) is VoteResult.WON:
        start_election(raft, transfer=False)
        return
    _request_votes(raft, MessageType.PRE_VOTE, transfer=False)


def start_election(raft: Raft, transfer: bool) -> None:
    """Enter a new term as its candidate. Our own vote counts when it is on disk: `Raft.on_saved`."""
    raft.become_candidate()
    _request_votes(raft, MessageType.VOTE, transfer)


def _request_votes(raft: Raft, kind: MessageType, transfer: bool) -> None:
    log = raft.log
    index, log_term = log.last_index, log.last_term
    for voter in sorted(raft.tracker.voters):
        if voter == raft.id:
            continue
        request = Message(kind, voter, index=index, log_term=log_term, transfer=transfer)
        if kind is MessageType.PRE_VOTE:
            raft.send(request)
            request.term = raft.term + 1
        else:
            # Not before the term is on disk. After a crash in between we would campaign in the same
            # term again, perhaps with a shorter log, and take the answers to this request, given to
            # the longer one, for answers to that (Leader Completeness would be lost).
            raft.send_after_sync(request)


def on_vote_request(raft: Raft, message: Message) -> None:
    """RF-01. Any role, learners too: the candidate may know of a promotion that we do not (RF-06)."""
    pre = message.type is MessageType.PRE_VOTE
    free = (
        raft.vote == message.sender
        or (raft.vote == NOBODY and raft.lead == NOBODY)
        or (pre and message.term > raft.term)
    )
    grant = free and raft.log.is_up_to_date(message.index, message.log_term)
    if pre:
        reply = answer(raft, message, grant)
        raft.send(reply)
        if grant:
            reply.term = message.term  # in our own, perhaps older, term it would be dropped as late
        return
    if not grant:
        raft.send(answer(raft, message, grant))  # a refusal promises nothing
        return
    # The vote goes to disk before the answer goes out. After a crash in between, the node would
    # not remember it and could vote again in the same term (thesis §3.8).
    raft.vote = message.sender
    raft.election_elapsed = 0
    raft.send_after_sync(answer(raft, message, grant))


_ANSWERS: Final = {
    MessageType.VOTE: MessageType.VOTE_RESP,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESP,
}


def answer(raft: Raft, request: Message, grant: bool) -> Message:
    """To a vote request. A refusal also says what we know to be committed: see `learn_commit`."""
    reply = Message(_ANSWERS[request.type], request.sender, reject=not grant)
    if not grant:
        reply.commit = raft.log.committed
        reply.log_term = raft.log.term(reply.commit)
    return reply


def learn_commit(raft: Raft, message: Message) -> None:
    """A refusal tells that entry (commit, log_term) is committed; if we have it, it is for us too.

    Needed when a leader of two voters removes itself and is heard no more: the other has the entry
    but does not know that it is committed. It asks for a vote by the old configuration, and the
    removed one, whose log may be longer and who will never campaign again, refuses for ever.
    """
    if message.reject and raft.log.matches(message.commit, message.log_term):
        raft.log.commit_to(message.commit)


def on_vote_resp(raft: Raft, message: Message) -> None:
    """Candidates, each of the answers to its own kind of request; see `dispatch`."""
    learn_commit(raft, message)
    count_vote(raft, message.sender, not message.reject)


def count_vote(raft: Raft, voter: int, granted: bool) -> None:
    """A candidate or pre-candidate got an answer of its present election."""
    result = raft.tracker.record_vote(voter, granted)
    if result is VoteResult.LOST:
        # Nobody else can be known to lead: with a rejection comes no word of who does.
        raft.become_follower(raft.term, NOBODY)
    elif result is VoteResult.WON:
        if raft.role is Role.PRE_CANDIDATE:
            start_election(raft, transfer=False)
        else:
            raft.become_leader()

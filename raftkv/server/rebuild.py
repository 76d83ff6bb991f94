"""Replacing this member's store by a copy of another member's: the way back for a replica that diverged (AL-11).

The member must not be running. Its log, its vote and its identity stay, and with them all that it has promised, so it
comes back as the member it was, which a new data directory could not (RF-72). Only the store goes: others have it too.
What becomes of the log depends on where the copy ends (`must_restart`):

    at an entry that the log holds     The log stays as it is: it replays what comes after the copy.
    behind its end, or at an entry     It lacks what comes next, or holds entries that were never committed: it
    that it holds of another term      restarts behind the copy, as after a snapshot from a leader (RF-45).

A crash leaves the old store with the old log, or the copy with a log that goes on from it. With a restart, the record
in the log decides, and the next start of the member finishes what is missing (raftkv.backend.received). Without one
the log goes with either store, for it reaches back to both, so the rename of the copy alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.backend import BackendError, Expected, NoSpaceError, ReceivedStore, install, settle_received
from raftkv.config import StartError
from raftkv.raft import NOBODY, HardState
from raftkv.rpc.codes import Code, RpcError
from raftkv.server.bootstrap import DirectoryLock, Ids
from raftkv.server.joining import ask_members
from raftkv.server.peers import CopyFacts, Identity, PeerCallError, Refused, fetch_copy
from raftkv.wal import LogPosition, Wal, WalContents, WalCorruptError, WalError, WalMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from raftkv.pb import peer_pb2
    from raftkv.rpc.tls import Tls

Progress = Callable[[int, int], None]
"""progress(bytes written, bytes in all)"""

_REPLACE: Final = "Remove this member from the cluster and add it anew, with an empty data directory"
_TRY_ANOTHER: Final = "Nothing was changed. Try again, or with another member"


class Rebuilt(NamedTuple):
    """What there is now."""

    member_id: int
    peer_name: str
    size_bytes: int
    copy: LogPosition
    """The last entry whose effects the store holds."""
    last: LogPosition
    """The end of the log: the next start applies what lies between."""
    log_restarted: bool


async def rebuild(
    data_dir: Path, wal_dir: Path, url: str, progress: Progress | None = None, tls: Tls | None = None
) -> Rebuilt:
    """Fetch a copy from the member at the peer URL `url` (`tls`: if it is https) and put it in place. Raises
    StartError; the member is then as it was, unless the text says otherwise."""
    member_dir = data_dir / "member"
    if not any(wal_dir.glob("*.wal")):
        raise StartError(
            f"there is no log in {wal_dir}, so there is no member to rebuild",
            "Check --data-dir, and --wal-dir if the member is started with one. If the log is lost, so is what the "
            f"member has promised: {_REPLACE[0].lower()}{_REPLACE[1:]}",
        )
    with _explained(data_dir, url):
        lock = DirectoryLock(member_dir)
        try:
            wal, contents = Wal.open(wal_dir)
            try:
                return await _Rebuild(member_dir / "snap", wal, contents, tls).run(url, progress)
            finally:
                wal.close()
        finally:
            lock.release()


def must_restart(contents: WalContents, copy: LogPosition) -> bool:
    """Whether the log has to restart behind the copy. Raises StartError when the two do not go together."""
    base = contents.base
    if copy.index < base.index:
        raise StartError(
            f"that member has applied up to entry {copy.index}, but the log here begins after entry {base.index}",
            "Nothing was changed. Wait until it has caught up, or take another member",
        )
    if copy.index > contents.last.index:
        return True
    term = base.term if copy.index == base.index else contents.entries[copy.index - contents.first_index].term
    if term == copy.term:
        return False
    if copy.index <= max(base.index, contents.hard_state.commit):
        # Two committed entries of one index: one of the logs is not this cluster's, or not what was written.
        raise StartError(
            f"entry {copy.index} was committed with term {term} here, and with term {copy.term} there: the logs "
            "contradict each other, which Raft rules out",
            f"Nothing was changed. {_REPLACE}",
        )
    # An entry of another term was committed in that place. So none of ours from there on ever was, or will be
    # (thesis §3.6), and to have acknowledged them binds this member to nothing.
    return True


class _Rebuild:
    """With the log open, and the directory locked."""

    def __init__(self, store_dir: Path, wal: Wal, contents: WalContents, tls: Tls | None) -> None:
        ids = Ids.decode(contents.metadata)
        if ids is None:
            raise StartError("the log was not written by this raftkv", "Use the version that wrote it")
        self._ids = ids
        self._store_dir = store_dir
        self._wal = wal
        self._contents = contents
        self._tls = tls

    async def run(self, url: str, progress: Progress | None) -> Rebuilt:
        peer, base = _find_peer(self._ids, url, await self._ask(url)), self._contents.base
        # What an interrupted installation has left is decided first: it must not come after what we put in place.
        settle_received(self._store_dir, (base.index, base.term))
        received, facts = await self._fetch(peer.ID, url, progress)
        copy = LogPosition(facts.applied, facts.term)
        restart = must_restart(self._contents, copy)
        if restart:
            self._restart_log(copy)
        install(self._store_dir, received.path)
        last = copy if restart else self._contents.last
        return Rebuilt(self._ids.member_id, peer.name, facts.size_bytes, copy, last, restart)

    async def _ask(self, url: str) -> peer_pb2.MembersResponse:
        try:
            return await ask_members(url, tls=self._tls)
        except RpcError as failure:
            raise StartError(
                f"no member answers at {url}: {failure.text}",
                "Is it a peer URL (port 2380 by default) of a running member?",
            ) from failure

    async def _fetch(self, peer_id: int, url: str, progress: Progress | None) -> tuple[ReceivedStore, CopyFacts]:
        """A copy, whole, checked and durable beside the store; nothing is left of one that fails."""
        member_id, cluster_id, data_id = self._ids
        begun: list[ReceivedStore] = []

        def begin(facts: CopyFacts) -> ReceivedStore:
            must_restart(self._contents, LogPosition(facts.applied, facts.term))
            begun.append(ReceivedStore(self._store_dir, facts.size_bytes))
            return begun[0]

        try:
            identity = Identity(cluster_id, member_id, data_id)
            index = self._contents.base.index
            facts = await fetch_copy(identity, peer_id, url, index, begin, progress, self._tls)
            begun[0].finish(Expected(facts.applied, facts.term, cluster_id, facts.conf_state, member_id))
        except BaseException:
            for received in begun:
                received.discard()
            raise
        return begun[0], facts

    def _restart_log(self, copy: LogPosition) -> None:
        """Durable when this returns. The promises stay: a term never goes back, and a vote holds for its term."""
        term, vote, _ = self._contents.hard_state
        kept = (term, vote) if term >= copy.term else (copy.term, NOBODY)
        self._wal.stage(HardState(*kept, copy.index), (), copy)
        self._wal.flush()


def _find_peer(ids: Ids, url: str, answer: peer_pb2.MembersResponse) -> peer_pb2.MemberRecord:
    """Which member listens there. Raises StartError when it can be of no use."""
    if answer.cluster_id != ids.cluster_id:
        raise StartError(
            f"the member at {url} belongs to cluster {answer.cluster_id:x}, this one to {ids.cluster_id:x}",
            "Give the peer URL of a member of the same cluster with --from",
        )
    others = [each for each in answer.members if ids.member_id != each.ID]
    if len(others) == len(answer.members):
        gone = "was removed from" if ids.member_id in answer.removed else "does not belong to"
        raise StartError(f"this member, {ids.member_id:x}, {gone} the cluster", _REPLACE)
    peer = next((each for each in others if url in each.peerURLs), None)
    if peer is None:
        known = "; ".join(f"{each.name or f'{each.ID:x}'}={','.join(each.peerURLs)}" for each in others)
        raise StartError(f"no other member of the cluster has the peer URL {url}", f"Give one of these: {known or '-'}")
    return peer


@contextmanager
def _explained(data_dir: Path, url: str) -> Iterator[None]:
    """What can go wrong, in words for the person who typed the command."""
    try:
        yield
    except WalMissingError as failure:
        raise StartError(str(failure), "Check --wal-dir") from failure
    except WalCorruptError as damage:
        raise StartError(str(damage), _REPLACE) from damage
    except Refused as refusal:
        raise StartError(f"the member at {url} refuses: {refusal}", _REPLACE) from refusal
    except PeerCallError as failure:
        behind = failure.code is Code.OUT_OF_RANGE
        hint = "Nothing was changed. Wait until it has caught up, or take another member" if behind else _TRY_ANOTHER
        raise StartError(f"no copy of the store can be had from {url}: {failure}", hint) from failure
    except NoSpaceError as failure:
        raise StartError(str(failure), "Nothing was changed. Make room on the disk and try again") from failure
    except (WalError, BackendError, OSError) as failure:
        hint = "Run the command again. A member whose store was not replaced yet goes on with the old one"
        raise StartError(f"rebuilding {data_dir} failed: {failure}", hint) from failure

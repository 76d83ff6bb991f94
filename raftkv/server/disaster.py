"""Going on alone: --force-new-cluster makes one member of a lost majority a cluster of its own (F-73).

Everything in its store and its log is kept, also what was not known to be committed: an acknowledged write that
reached this member is not lost. Changes of the membership that were not applied yet are blanked, for they were meant
for the old cluster. Writes to the log and to the store; runs at start, before Raft.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from raftkv.backend import Meta
from raftkv.raft import ConfState, Entry, EntryType, HardState
from raftkv.wire import encode_conf_state

if TYPE_CHECKING:
    from raftkv.apply import Applier
    from raftkv.backend import Backend
    from raftkv.membership import Members
    from raftkv.wal import Wal, WalContents

_log = logging.getLogger(__name__)


def force_new_cluster(
    member_id: int, wal: Wal, contents: WalContents, backend: Backend, applier: Applier, members: Members
) -> WalContents:
    """Blocks until both are durable; a crash in between leads here again, as long as the flag is given."""
    kept = [each for each in contents.entries if each.index <= applier.index]
    rest = [_without_change(each) for each in contents.entries if each.index > applier.index]
    term, vote, commit = contents.hard_state
    hard_state = HardState(term, vote, max(commit, applier.index))
    # The log first: with the store changed and the log not, an old change of the membership would be applied to the new
    # one. The other way round only changes are missing that the store is about to forget.
    wal.stage(hard_state, rest)
    wal.flush()
    others = [each.id for each in members if each.id != member_id]
    txn = backend.begin_write()
    members.keep_only(txn, member_id)
    txn.put(Meta.CONF_STATE, encode_conf_state(ConfState(voters=(member_id,))), db=backend.tables.meta)
    backend.commit()
    checkpoint = backend.begin_checkpoint()
    if checkpoint is not None:
        try:
            checkpoint.sync()
        finally:
            backend.end_checkpoint(checkpoint)
    applier.load()
    fields = {"member": f"{member_id:x}", "dropped": [f"{each:x}" for each in others]}
    _log.warning("this member is a cluster of its own from now on; the others were dropped", extra={"kv": fields})
    contents.entries[:] = kept + rest
    contents.hard_state = hard_state
    return contents


def _without_change(entry: Entry) -> Entry:
    return Entry(entry.term, entry.index) if entry.type is EntryType.CONF_CHANGE else entry

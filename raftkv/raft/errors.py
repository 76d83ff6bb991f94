"""Everything the core can raise.

    RaftError
     +- ProposalDropped         try again later, or elsewhere; the log does not contain it
     +- BadConfChange           a change that this configuration cannot make, or undecodable bytes
     +- BadConfig               the Config does not make sense
     +- BadMessage              a peer said what no correct peer says; nothing of it was taken in
     +- LogDamaged              this node's log contradicts what is known to be committed: stop the node
     +- StorageError            answers of a Storage to impossible questions
         +- Compacted           the position is no longer in the log
         +- Unavailable         the position is not yet in the log
         +- SnapshotUnavailable a snapshot is being made; ask again

What only a mistake in this program can break is an `assert`, not an error.
"""

from __future__ import annotations


class RaftError(Exception):
    """Base of all errors of the core."""


class ProposalDropped(RaftError):
    """The proposal was not appended and will not be (G-54). The message says why."""


class BadConfChange(RaftError):
    """The membership change is impossible from the present configuration, or not decodable."""


class BadConfig(RaftError):
    """Raised when a RawNode is built from settings that contradict each other."""


class BadMessage(RaftError):
    """A message no correct peer would send. Nothing of it was taken in but its term; drop the connection."""


class LogDamaged(RaftError):
    """The stored log lacks or contradicts committed entries. The member must stop (RF-53, RF-72)."""


class StorageError(RaftError):
    """Base of what a Storage may raise."""


class Compacted(StorageError):
    """The index asked for lies before the first entry kept."""


class Unavailable(StorageError):
    """The index asked for lies behind the last entry."""


class SnapshotUnavailable(StorageError):
    """No snapshot can be given right now; the caller retries at the next heartbeat."""

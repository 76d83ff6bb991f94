"""raftkv.raft: consensus, as a pure core.

Owns everything Raft decides: who leads, what is committed, who is a member. Uses the standard
library only, and of that nothing that reads a clock, rolls a die, opens a file or waits.

Read in this order: `types` (Ready above all), `rawnode`, `core`, then the handlers: `elections`,
`sending`, `acknowledgements`, `following`, `proposals`, `reads`, `transfer`, `membership`. The rest
is bookkeeping without opinions: `log` and `unstable`, `tracker` with `progress` and `inflights`,
`quorum`, `confchange`, `read_only`.

What is not here: leases for reads (a clock would become part of safety), the bytes of messages
(`raftkv.wire`), the bytes on disk (`raftkv.wal`), what a member's name and address are
(`raftkv.membership`).
"""

from .confdata import decode_conf_change, encode_conf_change
from .config import Config, Rng
from .errors import (
    BadConfChange,
    BadConfig,
    BadMessage,
    Compacted,
    LogDamaged,
    ProposalDropped,
    RaftError,
    SnapshotUnavailable,
    StorageError,
    Unavailable,
)
from .progress import ProgressState
from .rawnode import PeerStatus, RawNode, Status
from .storage import MemoryStorage, Storage
from .types import (
    ENTRY_HEADER_SIZE_BYTES,
    NOBODY,
    UNLIMITED,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Index,
    Message,
    MessageType,
    NodeId,
    ReadState,
    Ready,
    Role,
    Snapshot,
    SoftState,
    Term,
)

__all__ = [
    "ENTRY_HEADER_SIZE_BYTES",
    "NOBODY",
    "UNLIMITED",
    "BadConfChange",
    "BadConfig",
    "BadMessage",
    "Compacted",
    "ConfChange",
    "ConfChangeSingle",
    "ConfChangeTransition",
    "ConfChangeType",
    "ConfState",
    "Config",
    "Entry",
    "EntryType",
    "HardState",
    "Index",
    "LogDamaged",
    "MemoryStorage",
    "Message",
    "MessageType",
    "NodeId",
    "PeerStatus",
    "ProgressState",
    "ProposalDropped",
    "RaftError",
    "RawNode",
    "ReadState",
    "Ready",
    "Rng",
    "Role",
    "Snapshot",
    "SnapshotUnavailable",
    "SoftState",
    "Status",
    "Storage",
    "StorageError",
    "Term",
    "Unavailable",
    "decode_conf_change",
    "encode_conf_change",
]

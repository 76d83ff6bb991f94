"""Names for LMDB's objects, so that other rooms can annotate them without importing lmdb.

The objects are LMDB's own, not wrappers: a wrapper would cost more than most of the calls it wraps.
"""

from __future__ import annotations

from typing import TypeAlias

import lmdb

Db: TypeAlias = lmdb._Database  # noqa: SLF001 - the public stub has no other name for a table handle
"""Handle of one table. Valid until the environment is reopened (`finish_defragment`, `install`)."""

ReadTxn: TypeAlias = "lmdb.Transaction[bytes]"
"""A read-only transaction: one snapshot. Values come back as `bytes`."""

WriteTxn: TypeAlias = "lmdb.Transaction[bytes]"
"""The one write transaction; also accepted wherever a `ReadTxn` is (it reads its own writes)."""

Cursor: TypeAlias = "lmdb.Cursor[bytes]"
"""A position in one table, bound to the transaction that made it. Dies with that transaction."""

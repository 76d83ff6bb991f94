"""Keeps the events of one revision in fifty from live watchers (W-54).

Broken promise: a watcher sees every event. The store itself is sound, so nothing else notices. Caught by the chain of
each key's revisions, and by comparing what was seen with what was written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from chaos.broken._launch import launch
from raftkv.mvcc.watch import WatchHub
from raftkv.mvcc.watch_events import RevisionEvents

ONE_IN = 50

_publish = WatchHub.publish


def publish_most(hub: WatchHub, batch: Sequence[RevisionEvents]) -> None:
    _publish(hub, [(revision, events if revision % ONE_IN else ()) for revision, events in batch])


if __name__ == "__main__":
    sys.exit(launch(WatchHub, "publish", publish_most))

"""Answers that a lease was renewed, and does not renew it (L-20).

Broken promise: a key under a lease that is kept alive stays. Caught by reads that miss a key before the time that an
answered renewal had promised; needs no fault at all.
"""

from __future__ import annotations

import sys

from chaos.broken._launch import launch
from raftkv.lease.expiry import ExpiryClock, Lease


def renew_nothing(_clock: ExpiryClock, lease: Lease, now_s: float) -> bool:
    return lease.expires_at_s > now_s


if __name__ == "__main__":
    sys.exit(launch(ExpiryClock, "renew", renew_nothing))

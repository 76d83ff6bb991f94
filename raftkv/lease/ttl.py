"""How long a lease may be asked for. Pure arithmetic, for the member that proposes a grant.

The TTL is settled before the grant enters the log: members whose election timeouts differ would otherwise
store different leases for one entry.
"""

from typing import Final

MAX_TTL_S: Final = 9_000_000_000
"""About 285 years, as etcd has it (L-03)."""


def min_ttl_s(election_ticks: int, heartbeat_ms: int) -> int:
    """Shortest TTL there is: one and a half election timeouts, so that a change of leader, which nobody can
    renew through, does not use it up (L-04). 2 s with the default 10 ticks of 100 ms."""
    return -(-(3 * election_ticks // 2 * heartbeat_ms) // 1000)


def granted_ttl_s(requested_s: int, minimum_s: int) -> int:
    """TTL to propose for a request, whatever its sign (L-04). One that is too large is refused when it is applied
    (L-03): an alarm, which is seen only there, has to be the first reason (AL-25)."""
    return max(requested_s, minimum_s)

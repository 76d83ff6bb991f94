"""Refusals that come out of applying, beyond those of the state machines below.

    ApplyError
    ├── NoSpaceAlarm      a NOSPACE alarm is active somewhere in the cluster (AL-25)
    └── CorruptAlarm      a CORRUPT alarm is active somewhere in the cluster (AL-10)

A refusal is a *result*: the same on every member, and nothing was changed (RF-52). An error of the disk is not in this
tree: it stops the member (RF-53).
"""


class ApplyError(Exception):
    """A request that was applied and came to nothing."""


class NoSpaceAlarm(ApplyError):
    pass


class CorruptAlarm(ApplyError):
    pass


class MalformedEntry(Exception):
    """A committed entry that no raftkv could have proposed: damage, or a newer version's format. Stops the member."""

"""What a membership request can be refused for.

    MembershipError
    ├── MemberNotFound         no such member now (CL-30, CL-40)
    ├── MemberRemoved          the id was a member once and never will be again (CL-06)
    ├── MemberExists           the id is taken (CL-21)
    ├── PeerURLExists          another member listens there (CL-21)
    ├── MemberNotLearner       only a learner can be promoted (CL-41)
    ├── DataDirectoryChanged   the member has lost what it had promised (RF-72)
    ├── ImpossibleChange       consensus cannot go from its configuration to the one asked for (CL-33)
    │
    │   of the checks before a change is proposed (`checks`), never of applying one:
    ├── NotEnoughStarted       too many voters would be nothing but names (CL-24, CL-31, CL-43)
    ├── UnhealthyCluster       too few voters are connected to spare or to add one (CL-24, CL-32)
    ├── TooManyLearners        more than --max-learners (CL-22)
    └── LearnerNotReady        it lacks too much of the log to vote (CL-42)

The `api` room turns each into the code and text that clients expect. Names of refusals that come from applying go into
the state hash (`apply.state_hash`): to rename one is to change results.
"""


class MembershipError(Exception):
    """A membership request that changes nothing."""


class MemberNotFound(MembershipError):
    pass


class MemberRemoved(MembershipError):
    pass


class MemberExists(MembershipError):
    pass


class PeerURLExists(MembershipError):
    pass


class MemberNotLearner(MembershipError):
    pass


class DataDirectoryChanged(MembershipError):
    """The text says what to do: it is for whoever runs the member, not for clients."""


class ImpossibleChange(MembershipError):
    """The text is the core's reason."""


class NotEnoughStarted(MembershipError):
    pass


class UnhealthyCluster(MembershipError):
    pass


class TooManyLearners(MembershipError):
    pass


class LearnerNotReady(MembershipError):
    pass

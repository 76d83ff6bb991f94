"""The names that --feature-gates knows (rule F-50)."""

from typing import Final

from raftkv.config.settings import FeatureGate

GATES: Final = (
    FeatureGate(
        "CompactHashCheck",
        False,
        "The leader compares the members' hashes at their compactions.",
        alias="experimental-compact-hash-check-enabled",
        no_effect="members compare a hash of their state with every message",
    ),
    FeatureGate(
        "InitialCorruptCheck",
        False,
        "Compare the data with the other members before serving.",
        alias="experimental-initial-corrupt-check",
        no_effect="members compare a hash of their state with every message",
    ),
    FeatureGate(
        "LeaseCheckpoint",
        False,
        "The leader replicates remaining lease times, so that a new leader does not renew them in full.",
        alias="experimental-enable-lease-checkpoint",
    ),
    FeatureGate(
        "LeaseCheckpointPersist",
        False,
        "Keep those times over restarts. Needs LeaseCheckpoint.",
        alias="experimental-enable-lease-checkpoint-persist",
        no_effect="what LeaseCheckpoint replicates is always kept",
    ),
    FeatureGate(
        "SetMemberLocalAddr",
        False,
        "Call other members from the address advertised to them.",
        no_effect="the kernel chooses the local address of a connection",
    ),
    FeatureGate(
        "StopGRPCServiceOnDefrag",
        False,
        "Stop serving while defragmenting.",
        alias="experimental-stop-grpc-service-on-defrag",
        no_effect="defragmentation does not interrupt service",
    ),
    FeatureGate(
        "TxnModeWriteWithSharedBuffer",
        True,
        "How etcd reads inside write transactions.",
        stage="beta",
        alias="experimental-txn-mode-write-with-shared-buffer",
        no_effect="there is one way here",
    ),
    FeatureGate(
        "FastLeaseKeepAlive",
        True,
        "Renew leases without waiting for the applied index (etcd 3.7).",
        stage="beta",
        no_effect="it belongs to a later contract than the one served",
    ),
    FeatureGate(
        "PriorityRequest",
        False,
        "Let lease revocations pass when proposals are refused for load (etcd 3.7).",
        no_effect="it belongs to a later contract than the one served",
    ),
)

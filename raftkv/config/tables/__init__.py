"""The rows of the settings table, by subject. `SETTINGS` and `FEATURE_GATES` are what the rest reads."""

from collections.abc import Mapping
from typing import Final

from raftkv.config.settings import FeatureGate, Setting, index_by_name
from raftkv.config.tables.clustering import CLUSTERING, DISCOVERY
from raftkv.config.tables.features import GATES
from raftkv.config.tables.member import ADDRESSES, MEMBER, REQUESTS
from raftkv.config.tables.operations import COMPACTION, LOGGING, MONITORING, UNSAFE
from raftkv.config.tables.security import AUTH, SECURITY

SETTINGS: Final[Mapping[str, Setting]] = index_by_name(
    (
        MEMBER,
        ADDRESSES,
        REQUESTS,
        CLUSTERING,
        DISCOVERY,
        COMPACTION,
        SECURITY,
        AUTH,
        LOGGING,
        MONITORING,
        UNSAFE,
    )
)
"""Flag name -> row, in the order of the help."""

FEATURE_GATES: Final[Mapping[str, FeatureGate]] = {gate.name: gate for gate in GATES}

RETIRED: Final[Mapping[str, str]] = {
    "proxy": "etcd removed its v2 proxy",
    "proxy-failure-wait": "etcd removed its v2 proxy",
    "proxy-refresh-interval": "etcd removed its v2 proxy",
    "proxy-dial-timeout": "etcd removed its v2 proxy",
    "proxy-write-timeout": "etcd removed its v2 proxy",
    "proxy-read-timeout": "etcd removed its v2 proxy",
    "enable-v2": "etcd removed its v2 API",
    "experimental-enable-v2v3": "etcd removed its v2 API",
    "log-package-levels": "etcd removed it with its old logger; use log-level",
    "debug": "etcd removed it; use log-level: debug",
}
"""Names that old manifests still carry -> why they are gone. Refused like unknown names, with the reason."""

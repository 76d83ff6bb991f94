"""The versions this build advertises, in one place.

Constants only: every floor may import them, so this module imports nothing of ours.
"""

from typing import Final

RAFTKV_VERSION: Final = "0.1.0"
"""Of this program; the package metadata in pyproject.toml says the same."""

ETCD_VERSION: Final = "3.6.14"
"""The etcd release whose client contract is served: `Status.version`, `/version`, `--version`."""

STORAGE_VERSION: Final = "3.6.0"
"""`Status.storageVersion` and the `storage` field of `/version` (rule H-60)."""

CLUSTER_VERSION: Final = "3.6.0"
"""The `etcdcluster` field of `/version` once the cluster has agreed on one (rule F-76)."""

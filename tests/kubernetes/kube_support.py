"""What the tests of this folder run against: members, and what an apiserver would have found out about them."""

from dataclasses import dataclass

from helpers.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Subject:
    cluster: Cluster
    manual_progress: bool
    """Whether an apiserver would send progress requests to these members (K8-13). etcd 3.5.1 is too old for them."""

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.cluster.members]

    @property
    def kind(self) -> str:
        return self.cluster.program.kind

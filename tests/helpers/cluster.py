"""Clusters of real member processes, and what is done to them: kill, pause, restart, grow, shrink.

Owns ports, directories, command lines and the waiting for members to agree. Knows what every member must have in common
(leader, member list, hash); what happens in between is written in the tests.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import grpc

from helpers.member_client import NOT_IN_SYNC, UNHEALTHY, MemberClient, Refusal, refusal_of
from helpers.processes import Program, Server
from helpers.waiting import PATIENCE_S, wait_until
from raftkv.pb import rpc_pb2

T = TypeVar("T")

NEW, EXISTING = "new", "existing"
ELECTION_S: Final = 1.0
"""The election timeout of every cluster that is not given another one: the default of both programs."""
REQUEST_S: Final = 5.0 + 2 * ELECTION_S
"""How long a member works on a request that cannot be done (G-50)."""

_NOT_WITHOUT_A_TOKEN: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED)
"""What a member answers that serves, and on which auth is on."""
_STATUS_TIMEOUT_S: Final = 1.0
_TAIL_BYTES: Final = 6000


class Member(Server):
    """One member process of a cluster. Ports and directory stay over restarts."""

    def __init__(
        self,
        program: Program,
        directory: Path,
        name: str,
        flags: Sequence[str] = (),
        data_dir: Path | None = None,
    ) -> None:
        super().__init__(program, directory, flags, data_dir)
        self.name = name
        self.initial_cluster: str = f"{name}={self.peer_url}"
        self.state = NEW
        self.once: tuple[str, ...] = ()
        """Flags of the next start only."""
        self.paused = False
        self._id = 0
        self._client: MemberClient | None = None

    def command(self, extra_flags: Sequence[str] = ()) -> list[str]:
        return [
            *self.program.command,
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-cluster-state={self.state}",
            *self._extra_flags,
            *self.once,
            *extra_flags,
        ]

    @property
    def client(self) -> MemberClient:
        """One channel for the member's whole life; it finds a restarted process again by itself."""
        if self._client is None:
            self._client = MemberClient(self.endpoint)
        return self._client

    @property
    def id(self) -> int:
        """The member id; known from the moment when the member first served."""
        assert self._id, f"{self.name} has not served yet"
        return self._id

    @property
    def is_serving(self) -> bool:
        """Whether the process runs and may answer: it is neither ended nor paused."""
        return self.is_running() and not self.paused

    def spawn(self) -> None:
        super().spawn()
        self.once = ()

    def wait_serving(self, timeout_s: float = PATIENCE_S) -> None:
        super().wait_serving(timeout_s)
        # The client's channel may still rest after its last failed try; no test is to meet that.
        self._id = wait_until(f"{self.name} tells its id", self._ask_id, timeout_s)

    def _ask_id(self) -> int:
        try:
            return self.client.status().header.member_id
        except grpc.RpcError as refusal:
            if refusal_of(refusal)[0] in _NOT_WITHOUT_A_TOKEN and self._id:
                return self._id
            raise

    def pause(self) -> None:
        """SIGSTOP; returns when the whole process stands still."""
        self.send_signal(signal.SIGSTOP)
        self.paused = True
        wait_until(f"{self.name} stands still", lambda: _state_of(self.pid) == "T")

    def resume(self) -> None:
        self.paused = False
        self.send_signal(signal.SIGCONT)

    def kill9(self) -> None:
        super().kill9()
        self.paused = False

    def wipe(self) -> None:
        """Delete what there is of the data directory of a member that does not run. It will have another id."""
        assert not self.is_running()
        if self.data_dir.exists():
            shutil.rmtree(self.data_dir)
        self._id = 0

    def end(self) -> None:
        """Kill whatever runs and close the client: the end of a test, not a part of it."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.is_running():
            self.kill9()

    def tail(self) -> str:
        """The end of all that the member ever logged."""
        if not self.log_path.exists():
            return "(never started)"
        return self.log_path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")


class Cluster:
    """Members m0, m1, ... on free ports of this machine."""

    def __init__(self, program: Program, directory: Path, size: int = 3, flags: Sequence[str] = ()) -> None:
        self.program = program
        self.directory = directory
        self.flags = tuple(flags)
        self.members = [self.new_member(f"m{number}") for number in range(size)]
        self.use_initial_cluster(self.members)

    def new_member(self, name: str, data_dir: Path | None = None) -> Member:
        """A member that is in no list yet and was never started."""
        return Member(self.program, self.directory / name, name, self.flags, data_dir)

    def use_initial_cluster(self, members: Iterable[Member]) -> None:
        """All of these start with --initial-cluster naming all of these."""
        members = list(members)
        for member in members:
            member.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in members)

    # the life of processes

    def start(self) -> Cluster:
        """Start all members that do not run, at once, and wait until they serve and agree on a leader."""
        started = [member for member in self.members if not member.is_running()]
        for member in started:
            member.spawn()
        for member in started:
            member.wait_serving()
        self.leader()
        return self

    def restart(self, member: Member) -> None:
        """Start one ended member and wait until it serves and agrees with the others."""
        member.spawn()
        member.wait_serving()
        self.leader()

    def kill9(self, *members: Member) -> None:
        """Kill these as nearly at once as can be."""
        for member in members:
            member.send_signal(signal.SIGKILL)
        for member in members:
            member.wait_exit()
            member.paused = False

    def end(self) -> None:
        for member in self.members:
            member.end()

    def discard(self) -> None:
        """End, and leave the logs alone: members preallocate, and the data of a whole run would fill a disk."""
        self.end()
        for data in self.directory.glob("*/data"):
            shutil.rmtree(data, ignore_errors=True)

    # who is who

    def serving(self) -> list[Member]:
        return [member for member in self.members if member.is_serving]

    def others(self, *excluded: Member) -> list[Member]:
        """The serving members but for these."""
        return [member for member in self.serving() if member not in excluded]

    def leader(self, timeout_s: float = PATIENCE_S) -> Member:
        """The member that all serving members call their leader. Waits until they agree."""
        return wait_until("all serving members agree on a leader", self.leader_now, timeout_s)

    def leader_now(self) -> Member | None:
        """The leader if all serving members name the same one at this moment, one of them."""
        seen = {member.client.status(_STATUS_TIMEOUT_S).leader for member in self.serving()}
        if len(seen) != 1 or 0 in seen:
            return None
        (leader_id,) = seen
        return next((member for member in self.serving() if member.id == leader_id), None)

    def followers(self) -> list[Member]:
        """The serving members that do not lead, in the order of their names."""
        return self.others(self.leader())

    def by_name(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    # changes

    def add(self, name: str, via: Member, learner: bool = False) -> tuple[Member, rpc_pb2.MemberAddResponse]:
        """MemberAdd of a new member through `via`, retried while the members are not long enough together.

        The process is not started; it is ready to be, with --initial-cluster-state=existing.
        """
        member = self.new_member(name)
        response = when_healthy(lambda: via.client.add_member(member.peer_url, learner=learner))
        self.admit(member, response)
        return member, response

    def admit(self, member: Member, response: rpc_pb2.MemberAddResponse) -> None:
        """Take a member that was added into the list, with the flags that `etcdctl member add` would print (CL-27)."""
        names = {each.peer_url: each.name for each in [*self.members, member]}
        member.initial_cluster = ",".join(
            f"{each.name or names[url]}={url}" for each in response.members for url in each.peerURLs
        )
        member.state = EXISTING
        self.members.append(member)

    def remove(self, member: Member, via: Member) -> rpc_pb2.MemberRemoveResponse:
        """MemberRemove, retried while the members are not long enough together. The process is left to itself."""
        member_id = member.id
        response = when_healthy(lambda: via.client.remove_member(member_id))
        self.members.remove(member)
        return response

    # what all must have in common

    def wait_same_hash(self, timeout_s: float = PATIENCE_S) -> int:
        """All serving members hold the same history: HashKV is equal at one revision (MT-21). The revision."""
        members = self.serving()
        revision = wait_until("a linearizable read is answered", lambda: members[0].client.revision(), timeout_s)
        # A compaction has no revision of its own: the log position tells that it, too, has been applied. etcd 3.5.1
        # tells an old one for as long as no entry follows a snapshot, and its hash moves while a compaction is under
        # way (MT-21).
        is_etcd = self.program.kind == "etcd"
        index = 0 if is_etcd else members[0].client.status().raftAppliedIndex
        for member in members:

            def caught_up(member: Member = member) -> bool:
                status = member.client.status()
                return status.header.revision >= revision and status.raftAppliedIndex >= index

            wait_until(f"{member.name} has revision {revision} and entry {index}", caught_up, timeout_s)
        if is_etcd:
            wait_until("the hashes are equal", lambda: len(set(_hashes(members, revision).values())) == 1, timeout_s)
        hashes = _hashes(members, revision)
        assert len(set(hashes.values())) == 1, f"the members differ at revision {revision}: {hashes}"
        return revision

    def wait_same_members(self, timeout_s: float = PATIENCE_S) -> list[rpc_pb2.Member]:
        """Every serving member lists the same members, all of them started (CL-02, CL-53). That list."""

        def same() -> list[rpc_pb2.Member] | None:
            lists = [list(member.client.members(linearizable=False).members) for member in self.serving()]
            published = all(each.name and each.clientURLs for each in lists[0])
            return lists[0] if published and all(each == lists[0] for each in lists) else None

        return wait_until("all members list the same members", same, timeout_s)

    def logs(self) -> str:
        """The tails of the logs of all that ever had a directory here, also of removed members."""
        parts = []
        for path in sorted(self.directory.glob(f"*/{self.program.kind}.log")):
            text = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
            parts.append(f"--- end of the log of {path.parent.name} ---\n{text}")
        return "\n".join(parts)


def _hashes(members: Iterable[Member], revision: int) -> dict[str, tuple[int, int]]:
    """Name -> (hash, compact revision)."""
    answers = {member.name: member.client.hash_kv(revision) for member in members}
    return {name: (answer.hash, answer.compact_revision) for name, answer in answers.items()}


def when_healthy(change: Callable[[], T]) -> T:
    """Ask for a membership change until it is not refused for members that have just met (CL-24, CL-32)."""
    return _until_not_refused("the members are together for long enough", change, UNHEALTHY)


def when_in_sync(change: Callable[[], T]) -> T:
    """Ask for a promotion until the learner has caught up (CL-42)."""
    return _until_not_refused("the learner is in sync", change, NOT_IN_SYNC)


def _until_not_refused(what: str, change: Callable[[], T], passing: Refusal) -> T:
    """The answer once this refusal has passed. Every other refusal is raised."""

    answers: list[T] = []
    refusals: list[grpc.RpcError] = []

    def attempt() -> bool:
        try:
            answers.append(change())
        except grpc.RpcError as error:
            if refusal_of(error) != passing:
                refusals.append(error)
        return bool(answers or refusals)

    wait_until(what, attempt)
    if refusals:
        raise refusals[0]
    return answers[0]


def _state_of(pid: int) -> str:
    """The letter that /proc gives for a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

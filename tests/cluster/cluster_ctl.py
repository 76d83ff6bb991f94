"""One side of a comparison of two clusters: etcdctl on all members, and what came out in comparable words.

Members are told apart by the rank of their ids, which is the order of every member list: id, name, address and peer URL
of the first become <id1>, <name1>, <endpoint1>, <peer1>, and so on. Knows nothing of the other side.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from helpers.cluster import Cluster, Member
from helpers.ctl_steps import tool_environment
from helpers.etcd_tools import Tool
from helpers.normalise import Normaliser
from helpers.waiting import wait_until

_TIMEOUT_S: Final = 60.0
_SIZE: Final = r"[\d.]+ [kMG]?B"
_ENDPOINT: Final = r"(?:http://)?<endpoint\d>"

_REWRITES: Final = (
    # Ids are padded with blanks to sixteen digits.
    (re.compile(r"^Member +(<id\d> .* cluster) +(<cluster>)$", re.MULTILINE), r"Member \1 \2"),
    # endpoint status: version, size, term and log positions; who leads and who is a learner stay.
    (
        re.compile(rf"^({_ENDPOINT}, <id\d>), \d+\.\d+\.\d+, {_SIZE}, (\w+, \w+), \d+, \d+, \d+,", re.MULTILINE),
        r"\1, <version>, <size>, \2, <n>, <n>, <n>,",
    ),
    (
        re.compile(
            rf"^\| ({_ENDPOINT} \| <id\d>) \| \d+\.\d+\.\d+ \| {_SIZE} \| (\w+ \| \w+) \| \d+ \| \d+ \| \d+ \|",
            re.MULTILINE,
        ),
        r"| \1 | <version> | <size> | \2 | <n> | <n> | <n> |",
    ),
)
_ADDED: Final = re.compile(r"^Member +([0-9a-f]+) added to cluster", re.MULTILINE)
_INITIAL_CLUSTER: Final = re.compile(r'ETCD_INITIAL_CLUSTER="([^"]*)"')


class ClusterSide:
    """A cluster, the tool, and the transcript of what was asked and answered."""

    def __init__(self, cluster: Cluster, tool: Tool, directory: Path) -> None:
        self.cluster = cluster
        self.transcript: list[str] = []
        self._tool = tool
        self._directory = directory
        self.ranked = sorted(cluster.members, key=lambda member: member.id)
        """By id, ascending: the words of a member keep its place in this list."""
        cluster_id = cluster.members[0].client.status().header.cluster_id
        self._words = {str(cluster_id): "<cluster>", f"{cluster_id:x}": "<cluster>"}
        self._names: dict[str, str] = {}
        for rank, member in enumerate(self.ranked, 1):
            self._learn(rank, member)
            self._learn_id(rank, member.id)

    def announce(self, member: Member) -> None:
        """A member that will be added takes the next rank, whatever its id; `member add` tells that."""
        self.ranked.append(member)
        self._learn(len(self.ranked), member)

    def ctl(self, command: str, members: Iterable[Member] | None = None, ordered: bool = True) -> None:
        """Run etcdctl on these members (else the first alone, so that it is known who answers) and note what came out.

        {id1}, {peer2}, ... in the command are the member's. ordered=False: the tool asks the members at the same time,
        or lists members in the order of ids of which one is new; lines are compared sorted.
        """
        done = self._run(command, members)
        self._note(command, done, ordered)

    def ctl_until(self, command: str, unwanted: str, ordered: bool = True) -> None:
        """As `ctl`, repeated while stderr has the unwanted text; only the last run is noted."""
        outcomes: list[subprocess.CompletedProcess[str]] = []

        def wanted() -> bool:
            outcomes.append(self._run(command, None))
            return unwanted not in outcomes[-1].stderr

        wait_until(f"{command} is no longer refused with {unwanted!r}", wanted)
        self._note(command, outcomes[-1], ordered)

    def _learn(self, rank: int, member: Member) -> None:
        for what, value in (("name", member.name), ("endpoint", member.endpoint), ("peer", member.peer_url)):
            self._words[value] = f"<{what}{rank}>"
            self._names[f"{what}{rank}"] = value

    def _learn_id(self, rank: int, member_id: int) -> None:
        self._words[str(member_id)] = self._words[f"{member_id:x}"] = f"<id{rank}>"
        self._names[f"id{rank}"] = f"{member_id:x}"

    def _run(self, command: str, members: Iterable[Member] | None) -> subprocess.CompletedProcess[str]:
        asked = self.ranked[:1] if members is None else members
        endpoints = ",".join(member.endpoint for member in asked)
        return subprocess.run(
            [str(self._tool.path), f"--endpoints={endpoints}", *shlex.split(command.format(**self._names))],
            capture_output=True,
            text=True,
            cwd=self._directory,
            env=tool_environment(),
            timeout=_TIMEOUT_S,
            check=False,
        )

    def _note(self, command: str, done: subprocess.CompletedProcess[str], ordered: bool) -> None:
        added = _ADDED.search(done.stdout)
        if added is not None:
            self._learn_id(len(self.ranked), int(added[1], 16))
        out, err = (self._comparable(text).splitlines() for text in (done.stdout, done.stderr))
        self.transcript.append(f"$ etcdctl {command}")
        self.transcript += [f"  {line}" for line in (out if ordered else sorted(out))]
        self.transcript += [f"  ! {line}" for line in sorted(err)]
        self.transcript.append(f"  = {done.returncode}")

    def _comparable(self, text: str) -> str:
        text = Normaliser(self._words).text(text)
        # In the order of ids, of which one is new.
        text = _INITIAL_CLUSTER.sub(lambda match: ",".join(sorted(match[1].split(","))), text)
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        return text


Scenario = Callable[[ClusterSide], None]

"""Acceptance checklist, item 15: the stock etcdctl, and a Kubernetes API server's calls, against three members."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from acceptance_support import Point, points
from contract_support import DELETE, PUT, Client, prefix_end, put_op, range_op
from helpers import etcd_tools
from helpers.cluster import Cluster
from helpers.ctl_steps import tool_environment
from helpers.processes import Program
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]
_TIMEOUT_S = 60.0
_ROOT = "--user=root:secret"
_PATIENT = ("--dial-timeout=20s", "--command-timeout=30s")
"""A password takes its time to check, and more of it on a busy machine than the two seconds that the tool allows."""


class Ctl:
    """etcdctl on all members of a cluster. `ctl("get", "k")`: stdout of a command that must succeed."""

    def __init__(self, tool: Path, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.user: list[str] = []
        self.endpoints = ""
        """Of all serving members if empty."""
        self._tool = tool

    def command(self, *words: str) -> list[str]:
        endpoints = self.endpoints or ",".join(member.endpoint for member in self.cluster.serving())
        return [str(self._tool), f"--endpoints={endpoints}", *_PATIENT, *self.user, *words]

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=tool_environment(),
            timeout=_TIMEOUT_S,
            check=False,
        )

    def __call__(self, *words: str, stdin: str = "") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, f"etcdctl {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def started(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """In the background until the end of the block."""
        process = subprocess.Popen(
            self.command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.directory,
            env=tool_environment(),
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def _three(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(subject_program, tmp_path_factory.mktemp("acceptance"))
    try:
        yield cluster.start()
    finally:
        cluster.discard()


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return etcd_tools.etcdctl("3.5.1", tmp_path_factory.mktemp("tools")).path
    except etcd_tools.ToolMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def ctl(_three: Cluster, tool: Path, tmp_path: Path) -> Iterator[Ctl]:
    made = Ctl(tool, _three, tmp_path)
    yield made
    if made.user:  # it failed while it was somebody: the next test is nobody again
        made.user = [_ROOT]
        made.run("auth", "disable")


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


# --- etcdctl --------------------------------------------------------------------------------------------------------


def _keys(ctl: Ctl) -> None:
    """put, get, del, txn, compaction; CT-05: exit codes and the line that says why."""
    assert ctl("put", "a/1", "one") == "OK\n"
    assert ctl("put", "a/2", "two", "--prev-kv") == "OK\n"
    assert ctl("get", "a/1") == "a/1\none\n"
    assert ctl("get", "--prefix", "a/", "--keys-only").split() == ["a/1", "a/2"]
    assert ctl("get", "--from-key", "a/2", "--limit=1", "--print-value-only") == "two\n"
    revision = json.loads(ctl("get", "a/1", "-w", "json"))["header"]["revision"]
    ctl("put", "a/1", "changed")
    assert ctl("get", "a/1", f"--rev={revision}", "--print-value-only") == "one\n"
    done = ctl("txn", stdin='value("a/1") = "changed"\n\nput a/3 three\nget a/2\n\nget a/1\n\n')
    assert done.split() == ["SUCCESS", "OK", "a/2", "two"]
    ctl("compaction", "--physical", str(revision + 1))
    refused = ctl.run("get", "a/1", f"--rev={revision}")
    assert (refused.returncode, "etcdserver: mvcc: required revision has been compacted" in refused.stderr) == (1, True)
    assert ctl("del", "a/1", "--prev-kv").split() == ["1", "a/1", "changed"]
    assert ctl("del", "--prefix", "a/") == "2\n"


def _watches(ctl: Ctl) -> None:
    """watch: history, live, and interactively with a progress request."""
    revision = json.loads(ctl("put", "w", "1", "-w", "json"))["header"]["revision"]
    with ctl.started("watch", "w", f"--rev={revision}", "--prev-kv") as watch:
        assert [_line(watch) for _ in range(3)] == ["PUT", "w", "1"]
        ctl("del", "w")
        assert [_line(watch) for _ in range(4)] == ["DELETE", "w", "1", "w"]
    with ctl.started("watch", "-i") as watch:
        assert watch.stdin is not None
        watch.stdin.write("watch w\n")
        watch.stdin.flush()
        with _repeating(ctl, "put", "w", "2"):
            assert [_line(watch) for _ in range(3)] == ["PUT", "w", "2"]
            watch.stdin.write("progress\n")
            watch.stdin.flush()
            wait_until("progress is told", lambda: _line(watch).startswith("progress notify: "))


@contextmanager
def _repeating(ctl: Ctl, *words: str) -> Iterator[None]:
    """The command, again and again: the tool does not say when its watch is there."""
    endpoints = " ".join(ctl.command(*words))
    script = f"while {endpoints} > /dev/null; do sleep 0.2; done"
    process = subprocess.Popen(["sh", "-c", script], env=tool_environment(), cwd=ctl.directory)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _leases(ctl: Ctl) -> None:
    """lease grant, timetolive --keys, list, keep-alive --once, revoke."""
    match = re.fullmatch(r"lease ([0-9a-f]+) granted with TTL\(60s\)\n", ctl("lease", "grant", "60"))
    assert match is not None
    lease = match[1]
    ctl("put", "leased", "v", f"--lease={lease}")
    told = ctl("lease", "timetolive", lease, "--keys")
    assert re.fullmatch(
        rf"lease {lease} granted with TTL\(60s\), remaining\(\d+s\), attached keys\(\[leased\]\)\n", told
    )
    wait_until("the asked member lists it", lambda: lease in ctl("lease", "list").split())
    assert ctl("lease", "keep-alive", "--once", lease) == f"lease {lease} keepalived with TTL(60)\n"
    assert ctl("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert ctl("get", "leased") == ""


def _locks_and_elections(ctl: Ctl) -> None:
    """lock, elect: the second waits for the first."""
    with ctl.started("lock", "mutex") as first:
        key = _line(first)
        assert key.startswith("mutex/")
        with ctl.started("lock", "mutex") as second:
            wait_until("the second waits", lambda: len(ctl("get", "--prefix", "mutex/", "--keys-only").split()) == 2)
            first.terminate()
            assert _line(second) not in {"", key}
    with ctl.started("elect", "boss", "me") as candidate:
        assert (_line(candidate).startswith("boss/"), _line(candidate)) == (True, "me")


def _endpoints_and_alarms(ctl: Ctl) -> None:
    """endpoint health, status, hashkv; alarm list, disarm; defrag. CT-02, CT-04."""
    health = ctl.run("endpoint", "health", "--cluster")
    assert health.returncode == 0
    assert (health.stdout + health.stderr).count("is healthy") == 3
    status = json.loads(ctl("endpoint", "status", "--cluster", "-w", "json"))
    assert {each["Status"]["leader"] for each in status} == {ctl.cluster.leader().id}
    assert {each["Status"]["header"]["member_id"] for each in status} == {each.id for each in ctl.cluster.members}
    ctl.cluster.wait_same_hash()
    hashes = json.loads(ctl("endpoint", "hashkv", "--cluster", "-w", "json"))
    assert len({each["HashKV"]["hash"] for each in hashes}) == 1
    assert ctl("alarm", "list") == ctl("alarm", "disarm") == ""
    member = ctl.cluster.members[0]
    member.client.arm(member.id, rpc_pb2.NOSPACE)
    assert ctl("alarm", "list") == ctl("alarm", "disarm") == f"memberID:{member.id} alarm:NOSPACE \n"
    assert ctl("defrag", "--cluster").count("Finished defragmenting etcd member") == 3


def _snapshots(ctl: Ctl) -> None:
    """snapshot save: the tool itself checks what it was sent."""
    ctl.endpoints = ctl.cluster.followers()[0].endpoint
    assert "Snapshot saved at backup.db" in ctl("snapshot", "save", "backup.db")
    assert (ctl.directory / "backup.db").stat().st_size % 512 == 32


def _leaders_move(ctl: Ctl) -> None:
    """move-leader, told in hexadecimal."""
    leader, target = ctl.cluster.leader(), ctl.cluster.followers()[0]
    told = ctl("move-leader", f"{target.id:x}")
    assert told == f"Leadership transferred from {leader.id:x} to {target.id:x}\n"
    assert ctl.cluster.leader() is target


def _members(ctl: Ctl) -> None:
    """member list, add --learner, promote, update, remove; G-18, CT-01: ids in hexadecimal."""
    cluster = ctl.cluster
    listed = {line.split(", ")[0]: line.split(", ")[2] for line in ctl("member", "list").splitlines()}
    assert listed == {f"{member.id:x}": member.name for member in cluster.members}
    learner = cluster.new_member("m3")
    added = _until_done(ctl, "member", "add", "m3", f"--peer-urls={learner.peer_url}", "--learner")
    match = re.match(r"Member +([0-9a-f]+) added to cluster", added)
    initial = re.search(r'ETCD_INITIAL_CLUSTER="([^"]*)"', added)
    assert match is not None
    assert initial is not None
    assert 'ETCD_INITIAL_CLUSTER_STATE="existing"' in added
    learner.initial_cluster, learner.state = initial[1], "existing"
    try:
        learner.spawn()
        learner.wait_serving()
        assert f"{learner.id:x}" == match[1]
        assert re.match(rf"Member +{match[1]} promoted in cluster", _until_done(ctl, "member", "promote", match[1]))
        updated = ctl("member", "update", match[1], f"--peer-urls={learner.peer_url}")
        assert re.match(rf"Member +{match[1]} updated in cluster", updated)
        assert re.match(rf"Member +{match[1]} removed from cluster", _until_done(ctl, "member", "remove", match[1]))
    finally:
        learner.end()
    assert len(ctl("member", "list").splitlines()) == 3


def _until_done(ctl: Ctl, *words: str) -> str:
    """A change that is refused while members have just met, or a learner catches up."""
    outcomes: list[subprocess.CompletedProcess[str]] = []

    def done() -> bool:
        outcomes.append(ctl.run(*words))
        passing = ("unhealthy cluster", "in sync with leader")
        return not any(text in outcomes[-1].stderr for text in passing)

    wait_until(f"etcdctl {' '.join(words)} is not refused for now", done)
    assert outcomes[-1].returncode == 0, outcomes[-1].stderr
    return outcomes[-1].stdout


def _users_and_roles(ctl: Ctl) -> None:
    """user, role, auth: and what a user may not. CT-03."""
    ctl("user", "add", "root:secret")
    ctl("user", "add", "anna:word")
    ctl("role", "add", "reader")
    ctl("role", "grant-permission", "reader", "--prefix=true", "read", "open/")
    ctl("user", "grant-role", "anna", "reader")
    assert ctl("auth", "enable") == "Authentication Enabled\n"
    ctl.user = [_ROOT]
    assert "Authentication Status: true" in ctl("auth", "status")
    ctl("put", "open/k", "v")
    assert (ctl("user", "list").split(), ctl("role", "list").split()) == (["anna", "root"], ["reader", "root"])
    assert "Roles: reader" in ctl("user", "get", "anna")
    assert "[open/, open0)" in ctl("role", "get", "reader")
    ctl("user", "passwd", "anna", "--interactive=false", stdin="new\n")
    ctl.user = ["--user=anna:new"]
    assert ctl("get", "open/k", "--print-value-only") == "v\n"
    for words in (("put", "open/k", "w"), ("get", "other"), ("user", "list")):
        done = ctl.run(*words)
        assert (done.returncode, "permission denied" in done.stderr) == (1, True), f"{words}: {done.stderr}"
    ctl.user = [_ROOT]
    ctl("role", "revoke-permission", "reader", "--prefix", "open/")
    ctl("user", "revoke-role", "anna", "reader")
    ctl("auth", "disable")
    ctl.user = []
    for words in (("user", "delete", "anna"), ("user", "delete", "root"), ("role", "delete", "reader")):
        ctl(*words)
    ctl("del", "open/k")


def _mirrors(ctl: Ctl) -> None:
    """make-mirror: what is there, and what comes."""
    ctl("put", "from/1", "v")
    endpoint = ctl.cluster.members[0].endpoint
    with ctl.started("make-mirror", "--prefix=from/", "--dest-prefix=to/", "--dest-insecure-transport", endpoint):
        wait_until("it has what was there", lambda: ctl("get", "to/1", "--print-value-only") == "v\n")
        ctl("put", "from/2", "w")
        wait_until("it has what came", lambda: ctl("get", "to/2", "--print-value-only") == "w\n")
        ctl("del", "from/1")
        wait_until("it deletes what was deleted", lambda: ctl("get", "to/1") == "")


def _tells_versions(ctl: Ctl) -> None:
    """version, which asks no server, and downgrade, which does."""
    assert "etcdctl version: 3.5.1" in ctl("version")
    assert ctl.run("downgrade", "validate", "2.0").returncode == 1


@points(
    _keys,
    _watches,
    _leases,
    _locks_and_elections,
    _endpoints_and_alarms,
    _snapshots,
    _leaders_move,
    _members,
    _users_and_roles,
    _mirrors,
    _tells_versions,
)
def test_item_15_etcdctl(ctl: Ctl, point: Point) -> None:
    """The table of section 12.8."""
    point(ctl)


# --- a Kubernetes API server ----------------------------------------------------------------------------------------

_PODS = b"/registry/pods/"
_C = rpc_pb2.Compare


def _write(client: Client, key: bytes, value: bytes, expected: int) -> rpc_pb2.TxnResponse:
    """Create (expected 0) or update, as an apiserver does."""
    unchanged = _C(key=key, target=_C.MOD, result=_C.EQUAL, mod_revision=expected)
    return client.txn([unchanged], [put_op(key, value)], [range_op(key)])


def _remove(client: Client, key: bytes, expected: int) -> rpc_pb2.TxnResponse:
    unchanged = _C(key=key, target=_C.MOD, result=_C.EQUAL, mod_revision=expected)
    delete = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
    return client.txn([unchanged], [delete], [range_op(key)])


def _list(client: Client, limit: int) -> dict[bytes, int]:
    """Key -> resource version, in pages of one revision."""
    found: dict[bytes, int] = {}
    start, revision = _PODS, 0
    while True:
        page = client.range(start, prefix_end(_PODS), limit=limit, revision=revision)
        found.update((kv.key, kv.mod_revision) for kv in page.kvs)
        if not page.more:
            return found
        start, revision = page.kvs[-1].key + b"\0", revision or page.header.revision


def test_item_15_kubernetes_through_the_loss_of_a_leader_and_a_restart_of_all(
    new_cluster: NewCluster, connected: Callable[[str], Client]
) -> None:
    """K8-01 to K8-04, K8-08 to K8-10, RF-71: create, list, watch, update, delete; kill the leader; restart all."""
    cluster = new_cluster()
    first, second = (connected(member.endpoint) for member in cluster.followers())
    versions: dict[bytes, int] = {}
    for number in range(25):
        key = _PODS + b"default/p%02d" % number
        created = _write(first, key, b"created", 0)
        assert (created.succeeded, created.responses[0].response_put.HasField("header")) == (True, True)
        versions[key] = created.header.revision
    taken = _write(second, _PODS + b"default/p00", b"again", 0)
    assert (taken.succeeded, taken.responses[0].response_range.kvs[0].value) == (False, b"created")
    assert _list(second, limit=10) == versions

    start = max(versions.values()) + 1
    cluster.kill9(cluster.leader())
    cluster.leader()
    told: list[tuple[int, int, bytes]] = []
    with second.watch([("hasleader", "true")]) as watch:
        watch.create(_PODS, prefix_end(_PODS), start_revision=start, prev_kv=True, progress_notify=True)
        for number, key in enumerate(list(versions)[:6]):
            if number % 2:
                done = _remove(first, key, versions.pop(key))
                assert done.responses[0].response_delete_range.deleted == 1
            else:
                done = _write(first, key, b"updated", versions[key])
                versions[key] = done.header.revision
            assert done.succeeded
        while len(told) < 6:
            for event in watch.next().events:
                assert event.prev_kv.value == b"created"
                told.append((event.type, event.kv.mod_revision, event.kv.key))
    assert [kind for kind, _revision, _key in told] == [PUT, DELETE] * 3
    assert [revision for _kind, revision, _key in told] == list(range(start, start + 6))

    cluster.start()
    cluster.kill9(*cluster.members)
    before = time.monotonic()
    cluster.start()
    for member in cluster.members:
        assert _list(connected(member.endpoint), limit=7) == versions, f"{time.monotonic() - before:.1f} s later"
    created = _write(first, _PODS + b"default/new", b"created", 0)
    assert created.header.revision == start + 6
    cluster.wait_same_hash()

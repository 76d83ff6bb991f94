"""Users, rights and tokens over members: what one of them changes, all of them go by."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from helpers.auth_calls import AuthCalls, ChannelSaying
from helpers.cluster import Cluster, Member
from helpers.grpc_calls import Calls
from helpers.member_client import TIMEOUT_S, Code, MemberClient, WatchStream, outcome, refusal_of, refused
from helpers.waiting import wait_until

from raftkv.pb import auth_pb2, rpc_pb2

NewCluster = Callable[..., Cluster]

BOTH, READ = auth_pb2.Permission.READWRITE, auth_pb2.Permission.READ
DENIED = (Code.PERMISSION_DENIED, "etcdserver: permission denied")
INVALID_TOKEN = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
USER_EMPTY = (Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
OLD_REVISION = (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
AUTH_FAILED = (Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
MEMBER_NOT_FOUND = (Code.NOT_FOUND, "etcdserver: member not found")

_CHEAP_HASHES = "--bcrypt-cost=4"
_KEPT_ENTRIES = 50


class UserClient(MemberClient):
    """A client of one member that shows a token."""

    def __init__(self, member: Member, token: str) -> None:
        super().__init__(member.endpoint)
        channel: Any = ChannelSaying(self.channel, (("token", token),))
        self.calls = Calls(channel)


class GuardedCluster:
    """Members on which auth is on, and `alice`, who may read and write what begins with k."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._clients: list[UserClient] = []
        setup = AuthCalls(cluster.members[0].client.calls)
        setup.add_user("root", "secret")
        setup.grant_role("root", "root")
        setup.add_user("alice", "pass")
        setup.add_role("keys")
        setup.permit("keys", BOTH, b"k", b"l")
        setup.grant_role("alice", "keys")
        setup.enable()

    def token(self, member: Member, name: str, password: str = "pass") -> str:
        """Of a log-in at this member, which for a moment after a change of leader may know none."""
        return wait_until(
            f"{name} logs in at {member.name}", lambda: AuthCalls(member.client.calls).token(name, password)
        )

    def client(self, member: Member, token: str) -> UserClient:
        self._clients.append(UserClient(member, token))
        return self._clients[-1]

    def everywhere(self, token: str) -> list[UserClient]:
        return [self.client(member, token) for member in self.cluster.serving()]

    def root(self, member: Member | None = None) -> AuthCalls:
        at = member or self.cluster.serving()[0]
        return AuthCalls(self.client(at, self.token(at, "root", "secret")).calls)

    def leader(self) -> Member:
        """As a user sees it."""
        root = {
            member.name: self.client(member, self.token(member, "root", "secret")) for member in self.cluster.serving()
        }

        def agreed() -> Member | None:
            leaders = {client.status().leader for client in root.values()}
            return next((member for member in self.cluster.serving() if {member.id} == leaders), None)

        return wait_until("all members name the same leader", agreed)

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.cluster.serving() if member is not leader]

    def close(self) -> None:
        for each in self._clients:
            each.close()


@pytest.fixture
def guard(request: pytest.FixtureRequest) -> Callable[[Cluster], GuardedCluster]:
    def make(cluster: Cluster) -> GuardedCluster:
        guarded = GuardedCluster(cluster)
        request.addfinalizer(guarded.close)
        return guarded

    return make


@pytest.fixture
def guarded(new_cluster: NewCluster, guard: Callable[[Cluster], GuardedCluster]) -> GuardedCluster:
    return guard(new_cluster(3, _CHEAP_HASHES).start())


# --- every member goes by the same ------------------------------------------------------------------------------------


@pytest.mark.beyond_etcd("3.5.1 has other words for an authRevision that is old, which no client knows")
def test_a_change_of_rights_holds_at_every_member(guarded: GuardedCluster) -> None:
    """AU-76: for the very next request, wherever the change was made and wherever the request goes."""
    members = guarded.cluster.members
    alice = guarded.everywhere(guarded.token(members[0], "alice"))
    roots = [guarded.root(member) for member in members]
    for number in range(30):
        root, (one, other) = roots[number % 3], (alice[(number + 1) % 3], alice[(number + 2) % 3])
        txn = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"x"))])
        root.permit("keys", BOTH, b"x")
        if number % 2:
            _as_go_does(lambda one=one: one.put(b"x"))  # type: ignore[misc]
        one.range(b"x")
        other.txn(txn)
        root.forbid("keys", b"x")
        if number % 2:
            with refused(DENIED):
                _as_go_does(lambda other=other: other.put(b"x"))  # type: ignore[misc]
        with refused(DENIED):
            one.range(b"x")
        with refused(DENIED):
            other.txn(txn)


def _as_go_does(call: Callable[[], Any]) -> Any:
    """Again, when the member that was asked had yet to hear of a change of rights (ER-06)."""
    while True:
        try:
            return call()
        except grpc.RpcError as refusal:
            if refusal_of(refusal) != OLD_REVISION:
                raise


def test_auth_that_is_turned_on_or_off_is_so_everywhere(guarded: GuardedCluster) -> None:
    """AU-10, AU-11: a write goes through the log, and a read waits for what was acknowledged before it."""
    members = guarded.cluster.members
    for number in range(6):
        one, other, another = (members[(number + each) % 3] for each in range(3))
        guarded.root(one).disable()
        other.client.put(b"free")
        assert another.client.value(b"free") == b"v"
        AuthCalls(other.client.calls).enable()
        with refused(USER_EMPTY):
            another.client.put(b"free")
        with refused(USER_EMPTY):
            one.client.range(b"free")


def test_a_token_of_one_member_is_good_at_the_others(guarded: GuardedCluster) -> None:
    """AU-43, AU-44: at once, also where the log-in has yet to be applied, and for reads that ask nobody else."""
    members = guarded.cluster.members
    for number in range(30):
        token = guarded.token(members[number % 3], "alice")
        clients = guarded.everywhere(token)
        with ThreadPoolExecutor(3) as pool:
            for answer in pool.map(lambda client: client.range(b"k", serializable=True), clients):
                assert answer.header.member_id
        clients[(number + 1) % 3].put(b"k")
        for client in clients:
            client.close()


def test_a_password_that_was_changed_elsewhere_is_wrong_here(guarded: GuardedCluster) -> None:
    """AU-22, AU-41: whoever checks it reads first what all have agreed on."""
    members = guarded.cluster.members
    for number in range(15):
        one, other = members[number % 3], members[(number + 1) % 3]
        guarded.root(one).change_password("alice", f"pass{number}")
        with refused(AUTH_FAILED):
            AuthCalls(other.client.calls).token("alice", "pass" if not number else f"pass{number - 1}")
        AuthCalls(other.client.calls).token("alice", f"pass{number}")


@pytest.mark.beyond_etcd("checks that later patch releases have")
def test_what_a_follower_forwards_it_looks_at_first(guarded: GuardedCluster) -> None:
    """L-28, L-33, AU-73, contract section 6.8: the leader would not know who calls."""
    follower, leader = guarded.followers()[0], guarded.leader()
    root = guarded.client(leader, guarded.token(leader, "root", "secret"))
    mine, foreign = root.grant(1000), root.grant(1000)
    root.put(b"k", lease=mine)
    root.put(b"z", lease=foreign)
    alice = guarded.client(follower, guarded.token(follower, "alice"))
    alice.range(b"k")  # the follower has applied what came before
    assert alice.keep_alive(mine).TTL == 1000
    assert list(alice.time_to_live(mine, keys=True).keys) == [b"k"]
    assert alice.time_to_live(foreign).grantedTTL == 1000
    for attempt in (lambda: alice.keep_alive(foreign), lambda: alice.time_to_live(foreign, keys=True)):
        with refused(DENIED):
            attempt()
    for attempt, client in (
        (lambda client: client.promote_member(12345), alice),
        (lambda client: client.remove_member(12345), alice),
        (lambda client: client.add_member("http://127.0.0.1:1"), alice),
        (lambda client: client.move_leader(follower.id), alice),
    ):
        with refused(DENIED):
            attempt(client)
        with refused(USER_EMPTY):
            attempt(follower.client)
    for attempt in (lambda: follower.client.keep_alive(mine), lambda: follower.client.time_to_live(mine)):
        with refused(USER_EMPTY):
            attempt()
    there = guarded.client(follower, guarded.token(follower, "root", "secret"))
    with refused(MEMBER_NOT_FOUND):
        there.promote_member(12345)
    assert there.keep_alive(foreign).TTL == 1000


def test_leases_run_out_whoever_leads(guarded: GuardedCluster) -> None:
    """AU-77: what members do by themselves asks nobody."""
    alice = guarded.everywhere(guarded.token(guarded.cluster.members[0], "alice"))
    alice[0].put(b"k", lease=alice[1].grant(2))
    wait_until("the key is gone", lambda: alice[2].value(b"k") is None)


# --- members come and go ----------------------------------------------------------------------------------------------


def test_a_restart_forgets_tokens_at_that_member(guarded: GuardedCluster) -> None:
    """AU-02, AU-43: a new one is good everywhere, also there."""
    cluster = guarded.cluster
    member = guarded.followers()[0]
    others = cluster.others(member)
    token = guarded.token(others[0], "alice")
    alice = guarded.everywhere(token)
    for each in alice:
        each.put(b"k")
    member.terminate()
    for each in cluster.serving():
        guarded.client(each, token).put(b"k")
    member.spawn()
    member.wait_serving()
    with refused(INVALID_TOKEN):
        guarded.client(member, token).range(b"k")
    for each in others:
        guarded.client(each, token).range(b"k")
    with refused(USER_EMPTY):
        member.client.put(b"k")
    for client in guarded.everywhere(guarded.token(member, "alice")):
        client.put(b"k")
        with refused(DENIED):
            client.put(b"x")
    assert guarded.root(member).permissions("keys") == [(BOTH, b"k", b"l")]


@pytest.mark.crash
def test_tokens_outlive_the_leader_that_made_them(guarded: GuardedCluster) -> None:
    """AU-43: the others have them too."""
    leader = guarded.leader()
    token = guarded.token(leader, "alice")
    for client in guarded.everywhere(token):
        client.put(b"k")
    leader.kill9()
    for client in guarded.everywhere(token):
        wait_until("a write is taken", lambda client=client: client.put(b"k"))  # type: ignore[misc]
        with refused(DENIED):
            client.put(b"x")


@pytest.mark.crash
def test_auth_outlives_the_whole_cluster(guarded: GuardedCluster) -> None:
    """AU-02."""
    cluster = guarded.cluster
    before = guarded.root().revision()
    cluster.kill9(*cluster.members)
    for member in cluster.members:
        member.spawn()
    for member in cluster.members:
        member.wait_serving()
    for member in cluster.members:
        with refused(USER_EMPTY):
            wait_until("a leader is there", lambda member=member: _put_or_refusal(member))  # type: ignore[misc]
            member.client.put(b"k")
        alice = guarded.client(member, guarded.token(member, "alice"))
        alice.put(b"k")
        with refused(DENIED):
            alice.put(b"x")
        assert guarded.root(member).revision() == before
        assert guarded.root(member).users() == ["alice", "root"]


def _put_or_refusal(member: Member) -> bool:
    """Whether the cluster decides about requests."""
    try:
        member.client.put(b"k")
    except grpc.RpcError as refusal:
        error: Any = refusal
        return bool(error.code() is Code.INVALID_ARGUMENT)
    return True


def _write_entries(client: MemberClient, count: int) -> None:
    for number in range(count):
        client.put(b"k/%05d" % number)


@pytest.fixture
def short_logs(new_cluster: NewCluster, guard: Callable[[Cluster], GuardedCluster]) -> GuardedCluster:
    """Members that keep few log entries for those who are away."""
    flags = (_CHEAP_HASHES, "--snapshot-count=100", f"--snapshot-catchup-entries={_KEPT_ENTRIES}")
    return guard(new_cluster(3, *flags).start())


def _change_much(guarded: GuardedCluster, root: AuthCalls, entries: int) -> None:
    """Users and rights, and more entries than are kept."""
    root.add_user("carol", "pass")
    root.grant_role("carol", "keys")
    root.delete_user("alice")
    root.permit("keys", READ, b"y")
    member = guarded.cluster.serving()[0]
    _write_entries(guarded.client(member, guarded.token(member, "carol")), entries)


def _check_changed(guarded: GuardedCluster, member: Member) -> None:
    """What the member goes by, without asking the others."""
    carol = guarded.client(member, guarded.token(member, "carol"))
    assert carol.range(b"k/00399", serializable=True).count == 1
    carol.range(b"y", serializable=True)
    with refused(DENIED):
        carol.range(b"x", serializable=True)
    with refused(AUTH_FAILED):
        AuthCalls(member.client.calls).token("alice", "pass")
    root = guarded.root(member)
    assert root.users() == ["carol", "root"]
    assert root.permissions("keys") == [(BOTH, b"k", b"l"), (READ, b"y", b"")]
    assert root.revision() == guarded.root(guarded.cluster.others(member)[0]).revision()


@pytest.mark.crash
@pytest.mark.beyond_etcd("etcd 3.5.1 has no flag for how much of the log is kept")
def test_auth_comes_with_a_snapshot(short_logs: GuardedCluster) -> None:
    """AU-02, RF-45: to a member that was not there."""
    guarded = short_logs
    away = guarded.followers()[0]
    away.kill9()
    _change_much(guarded, guarded.root(), 400)
    away.spawn()
    away.wait_serving()
    wait_until("the snapshot is installed", lambda: "the store was replaced by a copy" in away.log_text())
    _check_changed(guarded, away)


@pytest.mark.crash
@pytest.mark.beyond_etcd("etcd 3.5.1 has no flag for how much of the log is kept")
def test_a_snapshot_ends_the_tokens_of_who_was_deleted_meanwhile(short_logs: GuardedCluster) -> None:
    """AU-21, RF-45: no entry comes to tell a member that stood still."""
    guarded = short_logs
    away = guarded.followers()[0]
    others = guarded.cluster.others(away)
    token = guarded.token(others[0], "alice")
    alice = guarded.client(away, token)
    with WatchStream(alice, b"k", b"l") as watch:
        watch.wait_created()
        root = guarded.root(others[0])
        away.pause()
        _change_much(guarded, root, 1500)  # hundreds are in its sockets, and it takes them when it goes on
        away.resume()
        wait_until("the snapshot is installed", lambda: "the store was replaced by a copy" in away.log_text())
        # It was allowed when it began, and sees it all (W-25, W-60).
        revision = guarded.client(others[0], guarded.token(others[0], "carol")).range(b"k/01499").kvs[0].mod_revision
        assert len(watch.wait_told(revision)) == 1500
    with refused(INVALID_TOKEN):
        alice.range(b"k", serializable=True)
    _check_changed(guarded, away)


@pytest.mark.beyond_etcd("3.5.1 tells its status to anybody")
def test_a_learner_reads_for_who_may(guarded: GuardedCluster) -> None:
    """G-30: with the token of another member, for it hands out none."""
    cluster = guarded.cluster
    via = guarded.leader()
    root = guarded.client(via, guarded.token(via, "root", "secret"))
    member = cluster.new_member("learner")
    response = wait_until("the learner is added", lambda: root.add_member(member.peer_url, learner=True))
    cluster.admit(member, response)
    member.spawn()
    wait_until("the learner serves", lambda: outcome(member.client.status) == USER_EMPTY)
    # It knows of no log-in from before it was there: those are in nobody's store (AU-43).
    token = guarded.token(via, "alice")
    alice = guarded.client(member, token)
    guarded.client(via, token).put(b"k")
    wait_until("the learner has the key", lambda: alice.value(b"k", serializable=True) == b"v")
    with refused(DENIED):
        alice.range(b"x", serializable=True)
    with refused(USER_EMPTY):
        member.client.range(b"k", serializable=True)
    with refused(USER_EMPTY):
        member.client.status()
    assert alice.status().isLearner
    not_for_learners = (Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")
    with refused(not_for_learners, (Code.UNAVAILABLE, not_for_learners[1])):
        AuthCalls(member.client.calls).token("alice", "pass")


# --- signed tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.beyond_etcd("3.5.1 has other words for an authRevision that is old, which no client knows")
def test_signed_tokens_of_one_member_are_good_at_the_others(
    new_cluster: NewCluster, guard: Callable[[Cluster], GuardedCluster], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """AU-45, AU-46: also after a restart; until users or rights change."""
    secret = tmp_path_factory.mktemp("keys") / "secret"
    secret.write_bytes(b"a secret of more than thirty-two bytes")
    flags = (_CHEAP_HASHES, f"--auth-token=jwt,priv-key={secret},sign-method=HS256")
    guarded = guard(new_cluster(3, *flags).start())
    members = guarded.cluster.members
    token = guarded.token(members[0], "alice")
    for client in guarded.everywhere(token):
        client.put(b"k")
        assert client.value(b"k", serializable=True) == b"v"
    members[1].terminate()
    members[1].spawn()
    members[1].wait_serving()
    guarded.client(members[1], token).put(b"k")
    guarded.root(members[2]).add_role("any change")
    for client in guarded.everywhere(token):
        with refused(OLD_REVISION):
            client.range(b"k", timeout_s=TIMEOUT_S)
    guarded.client(members[2], guarded.token(members[0], "alice")).put(b"k")

"""What judges the clusters of this folder, judged itself: each check finds what it is there to find."""

from pathlib import Path
from typing import cast

import grpc
import pytest
from helpers.cluster import Cluster, Member, when_healthy
from helpers.cluster_load import ClusterLoad, FreshReads
from helpers.member_client import UNHEALTHY, Code, MemberClient
from helpers.processes import RAFTKV
from helpers.waiting import WaitedInVainError, stays_true, wait_until

from raftkv.pb import rpc_pb2


class _Refused(grpc.RpcError):  # type: ignore[misc]  # grpcio has no stubs
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self._answer = code, text

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]


# --- FreshReads ---------------------------------------------------------------------------------------------


def _reads() -> FreshReads:
    reads = FreshReads([])
    reads.on_write("a", 5, b"five")
    reads.on_write("a", 7, b"seven")
    return reads


def test_reads_that_keep_the_order_are_right() -> None:
    reads = _reads()
    reads.on_read("b", 5, 7, b"seven")  # it began before the write at 7 was acknowledged, and saw it
    reads.on_read("b", 7, 7, b"seven")
    reads.on_read("b", 7, 9, b"nine")  # a write whose answer never came
    assert reads.floor() == 9
    reads.check()


@pytest.mark.parametrize(
    ("floor", "revision", "value"),
    [
        pytest.param(7, 5, b"five", id="older than what was acknowledged"),
        pytest.param(7, 0, b"", id="not there, though acknowledged"),
        pytest.param(7, 7, b"other", id="another value at the same revision"),
        pytest.param(5, 5, b"seven", id="an old revision with a new value"),
    ],
)
def test_a_wrong_read_is_noticed(floor: int, revision: int, value: bytes) -> None:
    reads = _reads()
    reads.on_read("b", floor, revision, value)
    with pytest.raises(AssertionError, match="1 answers were wrong, 1 reads in all"):
        reads.check()


def test_a_read_that_falls_behind_another_read_is_noticed() -> None:
    reads = _reads()
    reads.on_read("b", 7, 9, b"nine")
    reads.on_read("c", reads.floor(), 7, b"seven")
    with pytest.raises(AssertionError, match="c answered revision 7 when 9 was known"):
        reads.check()


def test_a_second_write_at_the_same_revision_is_noticed() -> None:
    reads = _reads()
    reads.on_write("b", 7, b"another seven")
    reads.on_read("b", 7, 7, b"seven")
    with pytest.raises(AssertionError, match="1 answers were wrong"):
        reads.check()


def test_no_answer_at_all_is_no_success() -> None:
    with pytest.raises(AssertionError, match="nothing was checked"):
        _reads().check()


# --- loads and waits ----------------------------------------------------------------------------------------


def test_the_longest_gap_is_counted_from_where_it_was_asked_for() -> None:
    load = ClusterLoad([], "gaps", threads=0)
    load.acknowledged_at = [10.0, 10.5, 13.0, 13.25]
    assert load.longest_gap_s(10.25) == 2.5
    assert load.longest_gap_s(10.75) == 2.25
    assert load.longest_gap_s(13.0) == 0.25
    assert load.longest_gap_s(20.0) == 0.0


def test_writes_that_are_not_acknowledged_are_waited_for_in_vain() -> None:
    load = ClusterLoad([], "none", threads=0)
    with pytest.raises(WaitedInVainError, match="only 0 of 1 writes"):
        load.wait_more(1, timeout_s=0.01)


def test_a_wait_in_vain_tells_the_last_refusal() -> None:
    def refuse() -> bool:
        raise _Refused(Code.UNAVAILABLE, "etcdserver: no leader")

    with pytest.raises(WaitedInVainError, match="until pigs fly; last seen"):
        wait_until("pigs fly", refuse, timeout_s=0.01)


def test_a_condition_that_ceases_to_be_true_is_noticed() -> None:
    answers = iter([True, True, False])
    with pytest.raises(AssertionError, match="the sun shines"):
        stays_true("the sun shines", lambda: next(answers), 10)


def test_a_change_is_asked_for_again_only_after_the_passing_refusal() -> None:
    refusals = [_Refused(*UNHEALTHY), _Refused(*UNHEALTHY)]

    def change() -> str:
        if refusals:
            raise refusals.pop()
        return "done"

    assert when_healthy(change) == "done"

    def refuse() -> str:
        raise _Refused(Code.NOT_FOUND, "etcdserver: member not found")

    with pytest.raises(_Refused):
        when_healthy(refuse)


# --- members that differ ------------------------------------------------------------------------------------


class _FakeClient:
    """A member that holds one revision, with a hash and a member list of its own."""

    def __init__(self, hash_: int, members: list[str]) -> None:
        self._hash = hash_
        self._members = members

    def revision(self) -> int:
        return 7

    def status(self, _timeout_s: float = 0) -> rpc_pb2.StatusResponse:
        header = rpc_pb2.ResponseHeader(revision=7)
        return rpc_pb2.StatusResponse(header=header, raftAppliedIndex=9)

    def hash_kv(self, revision: int) -> rpc_pb2.HashKVResponse:
        assert revision == 7
        return rpc_pb2.HashKVResponse(hash=self._hash)

    def members(self, linearizable: bool) -> rpc_pb2.MemberListResponse:
        assert not linearizable
        records = [rpc_pb2.Member(name=name, clientURLs=["http://127.0.0.1:1"]) for name in self._members]
        return rpc_pb2.MemberListResponse(members=records)


class _FakeMember(Member):
    def __init__(self, directory: Path, name: str, client: _FakeClient) -> None:
        super().__init__(RAFTKV, directory, name)
        self._fake = client

    @property
    def client(self) -> MemberClient:
        return cast("MemberClient", self._fake)

    @property
    def is_serving(self) -> bool:
        return True


def _fakes(directory: Path, *clients: _FakeClient) -> Cluster:
    cluster = Cluster(RAFTKV, directory, size=0)
    cluster.members = [_FakeMember(directory / f"m{n}", f"m{n}", client) for n, client in enumerate(clients)]
    return cluster


def test_members_that_hold_the_same_are_the_same(tmp_path: Path) -> None:
    cluster = _fakes(tmp_path, *[_FakeClient(11, ["m0", "m1"])] * 2)
    assert cluster.wait_same_hash() == 7
    assert [member.name for member in cluster.wait_same_members()] == ["m0", "m1"]


def test_members_with_different_hashes_are_noticed(tmp_path: Path) -> None:
    cluster = _fakes(tmp_path, _FakeClient(11, []), _FakeClient(11, []), _FakeClient(12, []))
    with pytest.raises(AssertionError, match="the members differ at revision 7"):
        cluster.wait_same_hash()


@pytest.mark.parametrize("other", [["m0"], ["m0", ""], ["m0", "m2"]], ids=["fewer", "not started", "another"])
def test_members_with_different_lists_are_noticed(tmp_path: Path, other: list[str]) -> None:
    cluster = _fakes(tmp_path, _FakeClient(11, ["m0", "m1"]), _FakeClient(11, other))
    with pytest.raises(WaitedInVainError):
        cluster.wait_same_members(timeout_s=0.01)

"""What a member without data learns from those that are there, and when it must not begin (F-71, F-72, RF-72)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trio import PEER_SERVER_LIMITS, bound_socket

from raftkv.config import Config, StartError, load
from raftkv.membership import Member
from raftkv.pb import peer_pb2
from raftkv.rpc.codes import Code
from raftkv.rpc.listener import Listener
from raftkv.rpc.service import Service, build_routes
from raftkv.server import joining as module
from raftkv.server.joining import Founding, find_founding, found_cluster

OWN = "http://127.0.0.1:1"
"""Nobody listens here, and nobody asks."""


class Place:
    """Where another member listens: with `answer` set it answers, with None it hangs, and closed it is not there."""

    def __init__(self) -> None:
        self._sock = bound_socket()
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.answer: peer_pb2.MembersResponse | Code | bytes | None = None
        self.asked = 0
        self._listener: Listener | None = None

    async def open(self) -> None:
        routes = build_routes((Service("raftkvpb.Peer").unary("Members", self._members),))
        self._listener = Listener(asyncio.get_running_loop(), routes, None, PEER_SERVER_LIMITS)
        await self._listener.start(self._sock)

    def _members(self, call: Any, _message: bytes) -> None:
        self.asked += 1
        if isinstance(self.answer, Code):
            call.fail(self.answer, "not now")
        elif isinstance(self.answer, bytes):
            call.reply(self.answer)
        elif self.answer is not None:
            call.reply(self.answer.SerializeToString())

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._sock.close()


@pytest.fixture
def b() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.fixture
def c() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "TRIES", 3)


def config(directory: Path, members: str, *argv: str, state: str = "new", name: str = "a") -> Config:
    """Member `a` at OWN, with these others in its --initial-cluster."""
    named = (f"--name={name}", f"--data-dir={directory / name}", f"--initial-advertise-peer-urls={OWN}")
    return load([*named, f"--initial-cluster={members}", f"--initial-cluster-state={state}", *argv], {})


def find(settings: Config, *places: Place) -> Founding:
    async def scenario() -> Founding:
        for each in places:
            await each.open()
        return await asyncio.wait_for(find_founding(settings), 20)

    return asyncio.run(scenario())


def refusal(settings: Config, *places: Place) -> StartError:
    with pytest.raises(StartError) as refused:
        find(settings, *places)
    assert not settings.data_dir.exists(), "nothing is made before it is known that it may be"
    return refused.value


def member(member_id: int, *urls: str, name: str = "", data_id: int = 0, learner: bool = False) -> Any:
    return peer_pb2.MemberRecord(ID=member_id, name=name, peerURLs=urls, data_id=data_id, isLearner=learner)


# --- a new cluster ----------------------------------------------------------------------------------------------------


def test_all_members_of_a_new_cluster_make_the_same_of_the_same_settings(tmp_path: Path) -> None:
    """CL-04, CL-05: whatever the order, and without a word to each other."""
    pairs = [f"{name}=http://127.0.0.1:{port}" for name, port in (("a", 1), ("b", 2), ("c", 3), ("c", 4))]
    made = {}
    for name, url in (("a", "1"), ("b", "2"), ("c", "3,http://127.0.0.1:4")):
        pairs.append(pairs.pop(0))
        argv = (f"--name={name}", f"--initial-advertise-peer-urls=http://127.0.0.1:{url}")
        made[name] = found_cluster(load([*argv, f"--initial-cluster={','.join(pairs)}"], {}))
    foundings = list(made.values())
    assert len({each.cluster_id for each in foundings}) == 1
    assert all(each.members == foundings[0].members for each in foundings)
    assert [each.id for each in foundings[0].members] == sorted({each.member_id for each in foundings})
    assert {each.peer_urls for each in foundings[0].members} == {
        ("http://127.0.0.1:1",),
        ("http://127.0.0.1:2",),
        ("http://127.0.0.1:3", "http://127.0.0.1:4"),
    }
    assert [(each.removed, each.joins) for each in foundings] == [((), False)] * 3


def test_another_token_makes_another_cluster(tmp_path: Path) -> None:
    """CL-04."""
    members = f"a={OWN},b=http://127.0.0.1:2"
    one, other = (found_cluster(config(tmp_path, members, f"--initial-cluster-token={token}")) for token in "xy")
    assert one.cluster_id != other.cluster_id
    assert {each.id for each in one.members}.isdisjoint(each.id for each in other.members)


def test_a_lone_member_asks_nobody(tmp_path: Path) -> None:
    founding = find(config(tmp_path, f"a={OWN}"))
    assert [each.id for each in founding.members] == [founding.member_id]


def test_others_that_are_not_there_yet_are_not_waited_for(tmp_path: Path, b: Place, c: Place) -> None:
    """F-71: all of them start at the same time."""
    settings = config(tmp_path, f"a={OWN},b={b.url},c={c.url}")
    b.close()
    c.answer = Code.UNAVAILABLE
    assert find(settings, c) == found_cluster(settings)
    assert c.asked == 1


def test_a_member_that_hangs_is_not_waited_for(tmp_path: Path, b: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ask_members, "__defaults__", (0.1,))
    settings = config(tmp_path, f"a={OWN},b={b.url}")
    assert find(settings, b) == found_cluster(settings)
    assert b.asked == 1


def known(settings: Config, *, name: str = "", removed: bool = False, cluster_id: int = 0) -> peer_pb2.MembersResponse:
    """What another member of the same cluster says; of this one, that its name is `name`."""
    founding = found_cluster(settings)
    records = [each.to_record() for each in founding.members]
    for each in records:
        if founding.member_id == each.ID:
            each.name = name
    return peer_pb2.MembersResponse(
        cluster_id=cluster_id or founding.cluster_id,
        members=[] if removed else records,
        removed=[founding.member_id] if removed else [],
        committed=9,
    )


def test_others_that_have_just_begun_are_no_reason_not_to(tmp_path: Path, b: Place) -> None:
    """They know this member from their settings, and not from itself."""
    settings = config(tmp_path, f"a={OWN},b={b.url}")
    b.answer = known(settings)
    assert find(settings, b) == found_cluster(settings)


def test_a_member_that_has_lost_its_data_does_not_begin_anew(tmp_path: Path, b: Place, c: Place) -> None:
    """F-71, RF-72: one of the others knows it by its name, so it had begun. The hint says how it comes back."""
    settings = config(tmp_path, f"a={OWN},b={b.url},c={c.url}")
    b.answer, c.answer = known(settings), known(settings, name="a")
    refused = refusal(settings, b, c)
    own = found_cluster(settings).member_id
    assert refused.text == f"member {own:x} has already been bootstrapped, but {settings.data_dir} has no data of it"
    assert "correct --data-dir" in refused.hint
    assert f"etcdctl member remove {own:x}; etcdctl member add a --peer-urls={OWN}" in refused.hint
    assert "--initial-cluster-state=existing" in refused.hint


def test_a_member_that_was_removed_does_not_begin_anew(tmp_path: Path, b: Place) -> None:
    """CL-06."""
    settings = config(tmp_path, f"a={OWN},b={b.url}")
    b.answer = known(settings, removed=True)
    refused = refusal(settings, b)
    assert refused.text == (
        f"member {found_cluster(settings).member_id:x} has been permanently removed from the cluster"
    )
    assert "etcdctl member add" in refused.hint


def test_a_member_of_another_cluster_behind_that_url(tmp_path: Path, b: Place) -> None:
    """CL-05: their tokens differ, or their lists of members."""
    settings = config(tmp_path, f"a={OWN},b={b.url}")
    b.answer = known(settings, name="a", cluster_id=0xABC)
    refused = refusal(settings, b)
    assert refused.text == (
        f"the member at {b.url} belongs to cluster abc, but these settings make cluster "
        f"{found_cluster(settings).cluster_id:x}"
    )
    assert "--initial-cluster-token" in refused.hint


# --- joining ----------------------------------------------------------------------------------------------------------


def test_a_member_that_joins_takes_ids_and_members_from_the_cluster(tmp_path: Path, b: Place) -> None:
    """F-72, CL-06: it begins with nothing; names and order in its settings do not matter."""
    b.answer = peer_pb2.MembersResponse(
        cluster_id=0xC1,
        members=[
            member(9, OWN),
            member(5, b.url, name="their b", data_id=55),
            member(7, "http://127.0.0.1:7", learner=True),
        ],
        removed=[4, 3],
        committed=20,
    )
    members = f"x=http://127.0.0.1:7,b={b.url},a={OWN}"
    founding = find(config(tmp_path, members, state="existing"), b)
    assert founding == Founding(
        9,
        0xC1,
        (
            Member(5, (b.url,), "their b", data_id=55),
            Member(7, ("http://127.0.0.1:7",), is_learner=True),
            Member(9, (OWN,)),
        ),
        (3, 4),
        joins=True,
    )


def test_the_member_that_knows_most_is_believed(tmp_path: Path, b: Place, c: Place) -> None:
    """One that lags does not know yet that this member was added."""
    b.answer = peer_pb2.MembersResponse(cluster_id=1, members=[member(5, b.url), member(6, c.url)], committed=10)
    c.answer = peer_pb2.MembersResponse(
        cluster_id=1, members=[member(5, b.url), member(6, c.url), member(9, OWN)], committed=11
    )
    founding = find(config(tmp_path, f"a={OWN},b={b.url},c={c.url}", state="existing"), b, c)
    assert founding.member_id == 9


def test_members_that_are_starting_themselves_are_asked_again(tmp_path: Path, b: Place) -> None:
    settings = config(tmp_path, f"a={OWN},b={b.url}", state="existing")
    answer = peer_pb2.MembersResponse(cluster_id=1, members=[member(5, b.url), member(9, OWN)], committed=3)
    b.answer = Code.UNAVAILABLE

    async def scenario() -> Founding:
        await b.open()
        finding = asyncio.ensure_future(find_founding(settings))
        while b.asked < 2:
            await asyncio.sleep(0.002)
        b.answer = answer
        return await asyncio.wait_for(finding, 20)

    assert asyncio.run(scenario()).member_id == 9


def test_the_second_url_of_a_member_is_asked_when_the_first_is_silent(tmp_path: Path, b: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        silent = f"http://127.0.0.1:{sock.getsockname()[1]}"
    b.answer = peer_pb2.MembersResponse(cluster_id=1, members=[member(5, silent, b.url), member(9, OWN)], committed=3)
    founding = find(config(tmp_path, f"b={silent},a={OWN},b={b.url}", state="existing"), b)
    assert founding.member_id == 9


def test_nobody_to_join(tmp_path: Path, b: Place) -> None:
    """F-72: asked several times, then given up."""
    b.answer = Code.UNAVAILABLE
    refused = refusal(config(tmp_path, f"a={OWN},b={b.url}", state="existing"), b)
    assert refused.text == "none of the members b answers, so the cluster cannot be joined"
    assert "peer URLs" in refused.hint
    assert refused.hint.endswith(f" {b.url}: not now"), "and why"
    assert b.asked == module.TRIES


def test_something_else_behind_the_url_is_nobody_to_join(tmp_path: Path, b: Place) -> None:
    b.answer = b"\xff no protobuf"
    refused = refusal(config(tmp_path, f"a={OWN},b={b.url}", state="existing"), b)
    assert refused.text == "none of the members b answers, so the cluster cannot be joined"
    assert refused.hint.endswith(f" {b.url}: what answers there is no member of a raftkv cluster")


def test_to_join_oneself_is_a_mistake(tmp_path: Path) -> None:
    refused = refusal(config(tmp_path, f"a={OWN}", state="existing"))
    assert "names no other member" in refused.text
    assert "etcdctl member add" in refused.hint


@pytest.mark.parametrize(
    "members",
    [
        lambda b: [member(5, b, name="their b")],
        lambda b: [member(5, b, name="their b"), member(9, "http://127.0.0.1:2")],
        lambda b: [member(5, b, name="their b"), member(9, OWN), member(8, "http://127.0.0.1:8")],
        lambda b: [member(5, b, "http://127.0.0.1:9", name="their b"), member(9, OWN)],
    ],
    ids=["not added", "at another URL", "one more", "more URLs"],
)
def test_the_settings_must_name_the_clusters_members(
    tmp_path: Path, b: Place, members: Callable[[str], list[Any]]
) -> None:
    """F-72: as many, at the same URLs. The text shows the cluster's, the hint where to get the right line."""
    b.answer = peer_pb2.MembersResponse(cluster_id=1, members=members(b.url), committed=3)
    refused = refusal(config(tmp_path, f"a={OWN},b={b.url}", state="existing"), b)
    assert refused.text.startswith("--initial-cluster names 2 members, and the cluster has ")
    assert f"their b={b.url}" in refused.text
    assert "etcdctl member add" in refused.hint


def test_a_member_that_has_joined_before_does_not_join_again(tmp_path: Path, b: Place) -> None:
    """RF-72: with an empty directory it has forgotten what it promised."""
    b.answer = peer_pb2.MembersResponse(
        cluster_id=1, members=[member(5, b.url, name="b", data_id=1), member(9, OWN, name="a", data_id=77)], committed=3
    )
    refused = refusal(config(tmp_path, f"a={OWN},b={b.url}", state="existing"), b)
    assert refused.text == "member 9 has joined before, with another data directory"
    assert f"etcdctl member remove 9; etcdctl member add a --peer-urls={OWN}" in refused.hint

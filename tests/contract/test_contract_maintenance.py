"""The Maintenance service by rule (contract section 6); alarms and the quota are in `test_contract_alarm`.

What takes several members, MT-40, MT-43 and the calls without a leader (MT-02, MT-27), is in tests/cluster.
"""

import hashlib
import re
from collections.abc import Callable

import pytest
from contract_support import FUTURE, TIMEOUT_S, Client, Code, put_op, refused
from helpers.processes import Server
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

VALIDATE, ENABLE, CANCEL = (
    rpc_pb2.DowngradeRequest.VALIDATE,
    rpc_pb2.DowngradeRequest.ENABLE,
    rpc_pb2.DowngradeRequest.CANCEL,
)
StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]


def hash_of(client: Client) -> rpc_pb2.HashResponse:
    answer = client.calls.Maintenance.Hash(rpc_pb2.HashRequest(), timeout=TIMEOUT_S)
    assert isinstance(answer, rpc_pb2.HashResponse)
    return answer


def defragment(client: Client) -> rpc_pb2.DefragmentResponse:
    answer = client.calls.Maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=TIMEOUT_S)
    assert isinstance(answer, rpc_pb2.DefragmentResponse)
    return answer


def downgrade(client: Client, action: int, version: str = "") -> rpc_pb2.DowngradeResponse:
    request = rpc_pb2.DowngradeRequest(version=version)
    request.action = action  # type: ignore[assignment]  # a plain number
    answer = client.calls.Maintenance.Downgrade(request, timeout=TIMEOUT_S)
    assert isinstance(answer, rpc_pb2.DowngradeResponse)
    return answer


def move_leader(client: Client, target: int) -> rpc_pb2.MoveLeaderResponse:
    answer = client.calls.Maintenance.MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=target), timeout=TIMEOUT_S)
    assert isinstance(answer, rpc_pb2.MoveLeaderResponse)
    return answer


# --- status ---------------------------------------------------------------------------------------------------------


def test_the_indices_of_status(client: Client, prefix: bytes) -> None:
    """Section 6.1, MT-01."""
    before = client.status()
    assert re.fullmatch(r"\d+\.\d+\.\d+", before.version)
    assert before.raftTerm == before.header.raft_term
    revision = client.put(prefix).header.revision
    after = client.status()
    assert after.header.revision == revision
    assert after.raftIndex == after.raftAppliedIndex == before.raftIndex + 1
    assert after.leader == after.header.member_id
    assert not after.isLearner
    assert list(after.errors) == []


def test_the_sizes_of_status(start_server: StartServer, connected: Connected) -> None:
    """Section 6.1: what is deleted and compacted is allocated, but not in use."""
    client = connected(start_server())
    for number in range(32):
        client.put(b"%d" % number, bytes(200_000))
    # Both programs measure when they commit.
    wait_until("the store has grown", lambda: client.status().dbSize > 6_000_000)
    full = client.status()
    assert 6_000_000 < full.dbSizeInUse <= full.dbSize
    client.compact(client.delete(b"0", b"9" * 3).header.revision, physical=True)
    _wait_for_free_pages(client)
    assert client.status().dbSize >= full.dbSize


def _wait_for_free_pages(client: Client) -> None:
    """etcd counts them when it next commits something."""

    def counted() -> bool:
        client.put(b"kept", b"value")
        return client.status().dbSizeInUse < 2_000_000

    wait_until("pages are free", counted)


@pytest.mark.beyond_etcd("dbSizeQuota is new in 3.6")
@pytest.mark.parametrize(("flag", "told"), [("0", 2 << 30), ("-1", -1), ("50000000", 50_000_000)])
def test_the_quota_of_status(start_server: StartServer, connected: Connected, flag: str, told: int) -> None:
    """Section 6.1, AL-20."""
    assert connected(start_server(f"--quota-backend-bytes={flag}")).status().dbSizeQuota == told


@pytest.mark.beyond_etcd("storageVersion and downgradeInfo are new in 3.6")
def test_the_versions_of_status(client: Client) -> None:
    """Section 6.1."""
    wait_until("the storage version is known", lambda: client.status().storageVersion == "3.6.0")
    status = client.status()
    assert status.HasField("downgradeInfo")
    assert (status.downgradeInfo.enabled, status.downgradeInfo.targetVersion) == (False, "")


# --- snapshot -------------------------------------------------------------------------------------------------------


def test_a_snapshot(client: Client, prefix: bytes) -> None:
    """MT-10, MT-11, G-16."""
    client.put(prefix, bytes(300_000))
    *parts, trailer = client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S)
    assert len(parts) > 5
    total, seen = sum(len(part.blob) for part in parts), 0
    assert total % 512 == 0
    digest = hashlib.sha256()
    for part in parts:
        assert 0 < len(part.blob) <= 32 << 10
        seen += len(part.blob)
        assert part.remaining_bytes == total - seen
        digest.update(part.blob)
    assert (trailer.blob, trailer.remaining_bytes) == (digest.digest(), 0)
    assert not any(part.HasField("header") for part in [*parts, trailer])


@pytest.mark.beyond_etcd("the version is new in 3.6")
def test_the_version_of_a_snapshot(client: Client) -> None:
    """MT-12: in every message."""
    wait_until("the storage version is known", lambda: client.status().storageVersion)
    parts = list(client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S))
    assert {part.version for part in parts} == {"3.6.0"}


def test_writes_go_on_during_a_snapshot(client: Client, prefix: bytes) -> None:
    """MT-13."""
    for number in range(16):
        client.put(prefix + b"%d" % number, bytes(1 << 20))
    stream = client.calls.Maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S)
    first = next(stream)
    for number in range(16):
        client.put(prefix + b"%d" % number, b"later")
    *rest, trailer = stream
    digest = hashlib.sha256(b"".join(part.blob for part in [first, *rest]))
    assert trailer.blob == digest.digest()
    assert client.only(prefix + b"3").value == b"later"


# --- hashes ---------------------------------------------------------------------------------------------------------


def test_hash_kv_now_and_then(fresh: Client) -> None:
    """MT-20, MT-24."""
    for value in (b"1", b"2", b"3"):
        fresh.put(b"k", value)
    now = fresh.hash_kv()
    assert (now.header.revision, now.compact_revision) == (4, -1)
    assert fresh.hash_kv(4) == now
    assert len({fresh.hash_kv(revision).hash for revision in (2, 3, 4)}) == 3
    with refused(FUTURE):
        fresh.hash_kv(5)


@pytest.mark.beyond_etcd("the field is new in 3.6")
def test_hash_kv_tells_its_revision(fresh: Client) -> None:
    """MT-24."""
    fresh.put(b"k")
    fresh.put(b"k")
    assert [fresh.hash_kv(revision).hash_revision for revision in (0, 2, 3)] == [3, 2, 3]


def test_hash_kv_of_what_is_compacted(fresh: Client) -> None:
    """MT-20, MT-21: by its own revision and that of the compaction."""
    for value in (b"1", b"2", b"3"):
        fresh.put(b"k", value)
    fresh.compact(3, physical=True)
    after = fresh.hash_kv()
    assert after.compact_revision == 3
    with refused((Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")):
        fresh.hash_kv(2)


@pytest.mark.beyond_etcd("MT-21: 3.5.1 hashes what it has not removed yet")
def test_hash_kv_does_not_tell_how_far_a_compaction_got(start_server: StartServer, connected: Connected) -> None:
    """MT-21: one member removes at once, the other hardly ever."""
    hashes = set()
    for flags in ((), ("--compaction-batch-limit=1", "--compaction-sleep-interval=1h")):
        client = connected(start_server(*flags))
        for number in range(200):
            client.put(b"%d" % (number % 9), b"%d" % number)
        client.delete(b"1")
        revision = client.put(b"last").header.revision
        client.compact(revision - 1)
        answer = client.hash_kv()
        hashes.add((answer.hash, answer.compact_revision, answer.header.revision))
    assert len(hashes) == 1


def test_the_hash_of_everything(start_server: StartServer, connected: Connected) -> None:
    """MT-25: it stays as it is while nothing changes, over a restart too, and tells what HashKV does not."""
    server = start_server()
    client = connected(server)
    client.put(b"k")
    first = hash_of(client)
    assert first.header.revision == client.revision()
    client.alarm()  # an entry of the log that changes nothing
    assert hash_of(client).hash == first.hash
    revision_hash = client.hash_kv().hash
    client.grant(600, 7)
    with_lease = hash_of(client).hash
    assert with_lease != first.hash
    assert client.hash_kv().hash == revision_hash
    client.put(b"k")
    last = hash_of(client).hash
    assert len({first.hash, with_lease, last}) == 3
    defragment(client)
    assert hash_of(client).hash == last


def test_the_same_history_has_the_same_hash(start_server: StartServer, connected: Connected) -> None:
    """MT-21: on members that know nothing of one another."""

    def told() -> tuple[int, int]:
        client = connected(start_server())
        client.grant(600, 7)
        client.put(b"k", lease=7)
        client.txn(success=[put_op(b"a"), put_op(b"b")])
        client.delete(b"a")
        answer = client.hash_kv()
        return answer.hash, answer.header.revision

    assert told() == told()


# --- defragmentation ------------------------------------------------------------------------------------------------


def test_defragmentation(start_server: StartServer, connected: Connected) -> None:
    """MT-30, MT-31, CMP-09, G-16."""
    client = connected(start_server())
    for number in range(32):
        client.put(b"%d" % number, bytes(200_000))
    client.compact(client.delete(b"0", b"9" * 3).header.revision, physical=True)
    _wait_for_free_pages(client)
    assert client.status().dbSize > 6_000_000
    with client.watch() as stream:
        stream.create(b"kept")
        assert not defragment(client).HasField("header")
        after = client.status()
        assert after.dbSize < 2_000_000
        assert client.only(b"kept").value == b"value"
        client.put(b"kept", b"more")
        assert stream.events(1)[0].kv.value == b"more"


def test_defragmentation_again_and_again(client: Client, prefix: bytes) -> None:
    for number in range(3):
        client.put(prefix, b"%d" % number)
        defragment(client)
    assert client.only(prefix).value == b"2"


# --- leadership -----------------------------------------------------------------------------------------------------


def test_the_leader_may_stay(client: Client, prefix: bytes) -> None:
    """MT-42, G-16."""
    status = client.status()
    assert not move_leader(client, status.leader).HasField("header")
    client.put(prefix)
    assert client.status().raftTerm == status.raftTerm


@pytest.mark.parametrize("target", [0, 0x7777], ids=["nobody", "a stranger"])
def test_a_transferee_that_is_no_member(client: Client, target: int) -> None:
    """MT-41."""
    with refused((Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")):
        move_leader(client, target)


# --- downgrade ------------------------------------------------------------------------------------------------------

WRONG_FORMAT = (Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")
INVALID_TARGET = (Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")


@pytest.mark.parametrize("action", [VALIDATE, ENABLE])
@pytest.mark.parametrize("version", ["", "3", "x.y", "v3.5", "3.5."])
def test_a_target_that_is_no_version(client: Client, action: int, version: str) -> None:
    """MT-51."""
    with refused(WRONG_FORMAT):
        downgrade(client, action, version)


@pytest.mark.parametrize("action", [VALIDATE, ENABLE])
@pytest.mark.parametrize("version", ["3.6", "3.7.0", "3.3", "2.9", "4.0"])
def test_a_target_that_is_not_one_below(client: Client, action: int, version: str) -> None:
    """MT-52."""
    with refused(INVALID_TARGET):
        downgrade(client, action, version)


@pytest.mark.beyond_etcd("MT-58: etcd has an older storage format, raftkv has one")
@pytest.mark.parametrize("action", [VALIDATE, ENABLE])
def test_nor_is_one_below(client: Client, action: int) -> None:
    """MT-58: and so no job is ever under way."""
    with refused(INVALID_TARGET):
        downgrade(client, action, "3.5.0")
    assert not client.status().downgradeInfo.enabled


@pytest.mark.beyond_etcd("MT-56: 3.5 refuses it")
def test_cancelling_what_is_not_under_way(client: Client) -> None:
    """MT-55, MT-56."""
    answer = downgrade(client, CANCEL)
    assert answer.version == "3.6"
    assert answer.header.revision == client.revision()


def test_an_action_that_does_not_exist(client: Client) -> None:
    """MT-50."""
    with refused((Code.UNKNOWN, "etcdserver: unknown method")):
        downgrade(client, 3, "3.5")

"""KV, Watch and Lease: rules between the lines of the other modules (contract sections 2 to 4)."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from contract_support import CORRUPT, EMPTY_KEY, NO_SPACE, TIMEOUT_S, Client, prefix_end, put_op, range_op, refused
from helpers.processes import Server
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]

_ACTIVATE, _DEACTIVATE = rpc_pb2.AlarmRequest.ACTIVATE, rpc_pb2.AlarmRequest.DEACTIVATE
_Create = rpc_pb2.WatchCreateRequest

# --- writes ---------------------------------------------------------------------------------------------------------


def test_a_put_over_the_quota_is_refused_before_it_is_read(start_server: StartServer, connected: Connected) -> None:
    """PUT-09, AL-22, AL-23: whatever else is wrong with it; what costs nothing still goes."""
    client = connected(start_server("--quota-backend-bytes=1000000"))
    with refused(NO_SPACE):
        client.put(b"", bytes(1_000_000))
    wait_until("the alarm is raised", client.alarms)
    with refused(EMPTY_KEY):
        client.delete(b"")
    client.delete(b"k")
    assert client.revision() == 1


def test_a_put_that_is_repeated_is_a_second_put(client: Client, prefix: bytes) -> None:
    """RF-55, KV-05: the server does not know that a client tries again."""
    request = rpc_pb2.PutRequest(key=prefix, value=b"same").SerializeToString()
    revisions = [
        rpc_pb2.PutResponse.FromString(client.raw("/etcdserverpb.KV/Put", request)).header.revision for _ in range(2)
    ]
    assert revisions[1] == revisions[0] + 1
    assert client.only(prefix).version == 2


@pytest.mark.beyond_etcd("TXN-45: a quirk that raftkv does not copy")
def test_a_negative_revision_in_a_transaction_is_the_current_one(client: Client, prefix: bytes) -> None:
    """TXN-45, RNG-04: as outside."""
    client.put(prefix, b"v")
    client.compact(client.revision())
    answer = client.txn(success=[range_op(prefix, revision=-5), put_op(prefix, b"w"), range_op(prefix, revision=-1)])
    before, _put, after = answer.responses
    assert [each.response_range.kvs[0].value for each in (before, after)] == [b"v", b"w"]


@pytest.mark.parametrize("alarm", [rpc_pb2.NOSPACE, rpc_pb2.CORRUPT], ids=["NOSPACE", "CORRUPT"])
def test_a_lease_is_a_write(client: Client, alarm: int) -> None:
    """L-06, L-07, AL-10, AL-25: it goes through the log, obeys alarms, and makes no revision."""
    own, before = client.status().header.member_id, client.status()
    lease = client.grant(60)
    assert client.status().raftAppliedIndex > before.raftAppliedIndex
    assert lease.header.revision == before.header.revision
    client.alarm(_ACTIVATE, own, alarm)
    try:
        with refused(NO_SPACE if alarm == rpc_pb2.NOSPACE else CORRUPT):
            client.grant(60, lease.ID + 1)
    finally:
        client.alarm(_DEACTIVATE, own, alarm)
    assert lease.ID + 1 not in client.leases()
    client.revoke(lease.ID)


# --- watching -------------------------------------------------------------------------------------------------------


def test_all_fields_of_a_request_for_a_watcher_work_together(client: Client, prefix: bytes) -> None:
    """W-01."""
    first = client.put(prefix + b"k", b"1").header.revision
    client.put(prefix + b"k", b"2")
    client.delete(prefix + b"k")
    with client.watch() as stream:
        created = stream.create(
            prefix,
            prefix_end(prefix),
            start_revision=first + 1,
            progress_notify=True,
            filters=[_Create.NODELETE],
            prev_kv=True,
            watch_id=77,
            fragment=True,
        )
        told = stream.next()
        progress = stream.next()
    (event,) = told.events
    assert {created.watch_id, told.watch_id, progress.watch_id} == {77}
    assert (event.kv.value, event.prev_kv.value, told.fragment) == (b"2", b"1", False)
    assert (len(progress.events), progress.header.revision) == (0, first + 2)


def test_progress_is_a_place_to_resume_from(client: Client, prefix: bytes) -> None:
    """W-76, W-95: from behind it, nothing comes twice and nothing is missing."""
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        before = client.put(prefix + b"a").header.revision
        assert [event.kv.mod_revision for event in stream.events(1)] == [before]
        elsewhere = client.put(b"other/" + prefix).header.revision
        stream.ask_progress()
        while (progress := stream.next()).header.revision < elsewhere:
            stream.ask_progress()
    expected = [client.put(prefix + b"b").header.revision for _ in range(2)]
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=progress.header.revision + 1)
        expected.append(client.put(prefix + b"c").header.revision)
        assert [event.kv.mod_revision for event in stream.events(3)] == expected


def test_what_waited_for_its_creation_is_cut_like_the_rest(client: Client, prefix: bytes) -> None:
    """W-83, W-80: history that is there when the watcher is created, and larger than the limit."""
    start = client.put(prefix + b"0", bytes(900 << 10)).header.revision
    for number in (1, 2, 3):
        client.put(prefix + b"%d" % number, bytes(900 << 10))
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), start_revision=start, fragment=True)
        sizes: list[int] = []
        told: list[int] = []
        while len(told) < 4:
            answer = stream.next()
            sizes.append(answer.ByteSize())
            told += [event.kv.mod_revision for event in answer.events]
    assert told == list(range(start, start + 4))
    assert max(sizes) < 2 << 20


def test_reading_and_then_watching_leaves_no_gap(client: Client, prefix: bytes) -> None:
    """W-96: from the revision behind that of the read, while others write."""
    stopping = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stopping.is_set():
            written.append(client.put(prefix + b"%d" % (len(written) % 5)).header.revision)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _turn in range(5):
            enough = len(written) + 20
            wait_until("more is written", lambda enough=enough: len(written) > enough)  # type: ignore[misc]
            read = client.range(prefix, prefix_end(prefix)).header.revision
            with client.watch() as stream:
                stream.create(prefix, prefix_end(prefix), start_revision=read + 1)
                told: list[int] = []
                while len(told) < 20:
                    told += [event.kv.mod_revision for event in stream.next().events]
            assert told == list(range(read + 1, read + 1 + len(told)))
    finally:
        stopping.set()
        writer.join()


def _anonymous_kib(server: Server) -> int:
    """Memory of the process that is not a file's."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@pytest.mark.beyond_etcd("W-92: a measure of this program; Go's memory is another matter")
def test_slow_watchers_cost_no_memory_for_what_they_have_not_read(
    start_server: StartServer, connected: Connected
) -> None:
    """W-92: 20 of them, and 20 MB that none of them reads."""
    server = start_server()
    client = connected(server)
    streams = [client.watch() for _ in range(20)]
    try:
        for stream in streams:
            stream.create(b"k", b"l")
        for number in range(50):
            client.put(b"k%d" % number, bytes(100_000))
        before = _anonymous_kib(server)
        for number in range(200):
            client.put(b"k%d" % (number % 50), bytes(100_000))
        grown = _anonymous_kib(server) - before
        assert grown < 100_000, "400 MB wait for readers; they must not wait in memory"
        for stream in streams[:2]:
            assert len(stream.events(250)) == 250
    finally:
        for stream in streams:
            stream.__exit__()


# --- the end of a process -------------------------------------------------------------------------------------------


def test_a_signal_stops_gracefully(start_server: StartServer, connected: Connected) -> None:
    """F-08, KV-10: exit code 0, and what was acknowledged is there."""
    server = start_server()
    client = connected(server)
    revision = client.put(b"k").header.revision
    code = server.terminate(TIMEOUT_S)
    assert code == (-15 if server.program.kind == "etcd" else 0), "etcd dies of the signal in the end"
    server.start()
    assert client.only(b"k").mod_revision == revision

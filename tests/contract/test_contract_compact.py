"""Compact and HashKV (contract sections 2.7, 6.3)."""

import pytest
from contract_support import COMPACTED, DELETE, FUTURE, Client, prefix_end, refused


@pytest.mark.parametrize("physical", [False, True])
def test_history_before_the_revision_goes(client: Client, prefix: bytes, physical: bool) -> None:
    """CMP-01, CMP-02, CMP-04, CMP-07."""
    revisions = [client.put(prefix, b"%d" % number).header.revision for number in range(4)]
    client.delete(prefix)
    answer = client.compact(revisions[2], physical)
    assert answer.header.revision == revisions[3] + 1
    assert client.only(prefix, revision=revisions[2]).value == b"2"
    assert client.only(prefix, revision=revisions[3]).value == b"3"
    with refused(COMPACTED):
        client.range(prefix, revision=revisions[1])
    for revision in (revisions[2], revisions[1], 0, -1):
        with refused(COMPACTED):
            client.compact(revision, physical)
    now = client.revision()
    with refused(FUTURE):
        client.compact(now + 1, physical)
    assert client.compact(now, physical).header.revision == now
    assert client.range(prefix, revision=now).count == 0


def test_the_floor_of_a_new_store(fresh: Client) -> None:
    """CMP-03, MT-24."""
    fresh.put(b"a")
    assert fresh.hash_kv().compact_revision == -1
    with refused(COMPACTED):
        fresh.compact(-1)
    fresh.compact(0)
    with refused(COMPACTED):
        fresh.compact(0)
    assert fresh.range(b"a", revision=1).count == 0


@pytest.mark.beyond_etcd("CMP-07: since 3.5.16")
def test_a_tombstone_at_the_revision_is_kept(client: Client, prefix: bytes) -> None:
    """CMP-07, W-12: a watch from the compacted revision still gets the delete."""
    client.put(prefix)
    gone = client.delete(prefix).header.revision
    client.compact(gone, physical=True)
    with client.watch() as stream:
        stream.create(prefix, start_revision=gone)
        (event,) = stream.events(1)
    assert (event.type, event.kv.mod_revision) == (DELETE, gone)


def test_the_newest_of_each_key_survives(client: Client, prefix: bytes) -> None:
    """CMP-07."""
    for number in range(30):
        for _ in range(3):
            client.put(prefix + b"%02d" % number, b"%d" % number)
    now = client.revision()
    client.compact(now, physical=True)
    kvs = client.range(prefix, prefix_end(prefix), revision=now).kvs
    assert [(kv.value, kv.version) for kv in kvs] == [(b"%d" % number, 3) for number in range(30)]


def test_hash_kv_refuses_what_it_cannot_see(client: Client, prefix: bytes) -> None:
    """MT-20."""
    client.put(prefix)
    now = client.put(prefix).header.revision
    with refused(FUTURE):
        client.hash_kv(now + 1)
    client.compact(now)
    with refused(COMPACTED):
        client.hash_kv(now - 1)
    answer = client.hash_kv()
    assert (answer.compact_revision, answer.header.revision) == (now, now)


@pytest.mark.beyond_etcd("MT-20: 3.5.1 refuses the compacted revision itself")
def test_hash_kv_at_the_compacted_revision(client: Client, prefix: bytes) -> None:
    """MT-20."""
    client.put(prefix)
    now = client.put(prefix).header.revision
    client.compact(now)
    assert client.hash_kv(now).hash == client.hash_kv(0).hash


@pytest.mark.beyond_etcd("MT-24: hash_revision is new in 3.6")
def test_hash_kv_names_its_revision(client: Client, prefix: bytes) -> None:
    """MT-24."""
    first = client.put(prefix).header.revision
    client.put(prefix)
    assert (client.hash_kv(first).hash_revision, client.hash_kv().hash_revision) == (first, first + 1)


def test_a_hash_outlives_later_writes_and_deletion(client: Client, prefix: bytes) -> None:
    """MT-21: neither what came later nor how far the deletion has come changes the hash of a revision."""
    for number in range(40):
        client.put(prefix + b"%d" % (number % 7))
    client.delete(prefix + b"3")
    now = client.revision()
    client.compact(now - 5)
    at_once = client.hash_kv(now).hash
    assert client.hash_kv().hash == at_once
    client.put(prefix)
    assert client.hash_kv(now).hash == at_once
    assert client.hash_kv(now + 1).hash != at_once

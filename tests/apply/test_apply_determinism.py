"""Same entries, same state and same results: however they are batched, and wherever the process dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from apply_logs import logs
from apply_support import Machine, plain
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.apply import Applied
from raftkv.raft import Entry


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    made = [Machine() for _ in range(count)]
    yield made
    for each in made:
        each.close()


def apply_one_by_one(machine: Machine, entries: Sequence[Entry], commits: set[int]) -> list[Applied]:
    """Commits after the entries with these indexes."""
    applied: list[Applied] = []
    for each in entries:
        applied += machine.applier.apply([each])[0]
        if each.index in commits:
            machine.backend.commit()
    return applied


def assert_same_state(one: Machine, other: Machine) -> None:
    assert one.content() == other.content()
    assert one.hash() == other.hash()
    assert one.store.current_revision == other.store.current_revision
    assert list(one.members) == list(other.members)
    assert one.members.removed == other.members.removed
    assert one.applier.conf_state == other.applier.conf_state == other.stored_conf_state()
    assert one.applier.state_hash == other.applier.state_hash
    assert one.alarms.active() == other.alarms.active()


@settings(max_examples=30, deadline=None)
@given(entries=logs(), commits=st.sets(st.integers(1, 8)))
def test_batches_and_commits_do_not_show(entries: list[Entry], commits: set[int]) -> None:
    """RF-52: two members see the same log cut into turns at different places."""
    with machines(2) as (one, other):
        in_one_go, _ = one.applier.apply(entries)
        one_by_one = apply_one_by_one(other, entries, commits)
        assert plain(in_one_go) == plain(one_by_one)
        assert_same_state(one, other)


@settings(max_examples=30, deadline=None)
@given(entries=logs(), commits=st.sets(st.integers(1, 8)), died_after=st.integers(0, 8), data=st.data())
def test_a_death_at_any_moment_does_not_show_after_replay(
    entries: list[Entry], commits: set[int], died_after: int, data: st.DataObject
) -> None:
    """RF-50: the log is replayed from its beginning; what was committed is skipped, what was open is done again."""
    with machines(2) as (steady, mortal):
        expected = apply_one_by_one(steady, entries, commits)
        before = apply_one_by_one(mortal, entries[:died_after], commits)
        mortal.die()
        survived = mortal.applier.index
        assert survived == max((index for index in commits if index <= len(before)), default=0)

        replayed, _ = mortal.applier.apply(entries[data.draw(st.integers(0, survived)) :])

        assert plain(before) == plain(expected[: len(before)])
        assert plain(replayed) == plain(expected[survived:])
        assert_same_state(steady, mortal)

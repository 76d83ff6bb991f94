"""The store's revision as one clock for all keys (RF-57)."""

from chaos_support import cas, failed, missed, read, unknown, write

from chaos.checkers import revisions
from chaos.checkers.verdict import Result
from chaos.history import Op


def result(*ops: Op) -> Result:
    return revisions.check("test", ops).result


def test_what_overlaps_may_be_told_in_either_order() -> None:
    assert result(write(0, 5, "a", 3), write(1, 6, "b", 2, key="x"), read(2, 4, None, 0, 1, key="y")) is Result.PASSED


def test_a_read_of_another_key_may_not_be_older_than_an_acknowledged_write() -> None:
    verdict = revisions.check("test", [write(0, 1, "a", 3, member="m1"), read(2, 3, None, 0, 2, key="x", member="m2")])
    assert verdict.result is Result.FAILED
    (line,) = verdict.evidence
    assert "m2" in line
    assert "m1" in line


def test_a_read_may_be_of_the_same_revision_but_a_write_may_not() -> None:
    assert result(write(0, 1, "a", 3), read(2, 3, "a", 3, 3)) is Result.PASSED
    assert result(read(0, 1, "a", 3, 3), write(2, 3, "b", 3)) is Result.FAILED


def test_a_compare_and_set_that_found_something_else_counts_as_a_read() -> None:
    assert result(write(0, 1, "a", 3), missed(cas(2, 3, "b", 1, 0), "a", 3, 3)) is Result.PASSED
    assert result(write(0, 1, "a", 3), missed(cas(2, 3, "b", 1, 0), None, 0, 2)) is Result.FAILED


def test_two_writes_never_have_the_same_revision_even_if_they_overlap() -> None:
    assert result(write(0, 5, "a", 3), write(0, 5, "b", 3, key="x")) is Result.FAILED


def test_the_highest_of_all_that_ended_counts_not_the_last() -> None:
    assert (
        result(write(0, 1, "a", 9), read(0, 2, None, 0, 4, key="x"), read(3, 4, None, 0, 5, key="x")) is Result.FAILED
    )


def test_calls_without_an_answer_say_nothing() -> None:
    assert result(unknown(write(0, 1, "a", 9)), failed(write(0, 1, "b", 9)), read(2, 3, None, 0, 1)) is Result.PASSED

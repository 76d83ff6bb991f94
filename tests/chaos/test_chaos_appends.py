"""Lists that only grow."""

from __future__ import annotations

from chaos_support import cas, failed, missed, read, unknown

from chaos.checkers import appends
from chaos.checkers.verdict import Result
from chaos.history import Op

FIRST = cas(0, 1, "a", 0, 2)
SECOND = cas(2, 3, "a,b", 2, 3)


def check(*ops: Op) -> tuple[Result, str]:
    verdict = appends.check("test", ops)
    return verdict.result, "\n".join(verdict.evidence)


def test_what_was_acknowledged_is_there() -> None:
    assert check(FIRST, SECOND, read(4, 5, "a,b", 3, 3)) == (Result.PASSED, "")


def test_a_lost_append_is_named_with_its_witnesses() -> None:
    result, evidence = check(FIRST, SECOND, read(4, 5, "a", 2, 2, member="m3"))
    assert result is Result.FAILED
    assert "lost: b, acknowledged to c1 by m1" in evidence
    assert "m3" in evidence


def test_an_append_that_is_there_twice() -> None:
    result, evidence = check(FIRST, read(4, 5, "a,a", 3, 3))
    assert result is Result.FAILED
    assert "a is there 2 times" in evidence


def test_a_refused_append_may_not_be_there() -> None:
    refused = failed(SECOND)
    assert check(FIRST, refused, read(4, 5, "a", 2, 2))[0] is Result.PASSED
    assert check(FIRST, refused, read(4, 5, "a,b", 3, 3))[0] is Result.FAILED
    found_other = missed(SECOND, "a", 2, 2)
    assert check(FIRST, found_other, read(4, 5, "a,b", 3, 3))[0] is Result.FAILED


def test_an_unknown_append_may_be_there_or_not() -> None:
    assert check(FIRST, unknown(SECOND), read(4, 5, "a", 2, 2))[0] is Result.PASSED
    assert check(FIRST, unknown(SECOND), read(4, 5, "a,b", 3, 3))[0] is Result.PASSED


def test_what_was_ever_read_is_a_beginning_of_the_end() -> None:
    third = cas(6, 7, "a,c", 2, 4)
    result, evidence = check(FIRST, unknown(SECOND), read(4, 5, "a,b", 3, 3), third, read(8, 9, "a,c", 4, 4))
    assert result is Result.FAILED
    assert "no beginning" in evidence


def test_a_read_that_overlaps_the_final_one_may_show_more() -> None:
    """The unknown append comes to pass between the answers of the two."""
    longer = read(4, 8, "a,b", 3, 3, member="m2")
    assert check(FIRST, unknown(SECOND), longer, read(5, 6, "a", 2, 2))[0] is Result.PASSED
    longer_before = read(4, 4.5, "a,b", 3, 3, member="m2")
    assert check(FIRST, unknown(SECOND), longer_before, read(5, 6, "a", 2, 2))[0] is Result.FAILED


def test_a_list_that_could_not_be_read_in_the_end_is_undecided() -> None:
    assert check(FIRST, failed(read(4, 5, "a", 2, 2)))[0] is Result.UNDECIDED
    assert check(read(0, 1, None, 0, 1), FIRST)[0] is Result.UNDECIDED


def test_lists_are_written_and_read_the_same_way() -> None:
    assert appends.elements(appends.appended(appends.appended(None, "a"), "b")) == ["a", "b"]
    assert appends.elements(None) == []

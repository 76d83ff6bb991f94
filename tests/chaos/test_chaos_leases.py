"""Leased keys: not gone early (L-16, L-50), not there for ever (L-14)."""

from chaos.checkers import leases
from chaos.checkers.leases import Life
from chaos.checkers.verdict import Result


def life(*reads: tuple[float, float, bool, str], renewed: tuple[tuple[float, float, int], ...] = ()) -> Life:
    """Granted for 4 s at 0, put at 0.3."""
    return Life("k", "m1", 0.3, [(0.0, 0.1, 4), *renewed], list(reads))


def result(each: Life, left: tuple[str, ...] = ()) -> Result:
    return leases.check("test", [each], left).result


def test_there_while_promised_and_gone_after() -> None:
    assert result(life((1, 1.1, True, "m2"), (3.9, 4.1, False, "m2"), (9, 9.1, False, "m2"))) is Result.PASSED


def test_gone_before_its_time() -> None:
    verdict = leases.check("test", [life((3, 3.9, False, "m2"))], ())
    assert verdict.result is Result.FAILED
    assert "read through m2" in verdict.evidence[0]


def test_a_renewal_promises_from_when_it_was_asked() -> None:
    renewed = ((2.0, 2.6, 4),)
    assert result(life((5, 5.9, False, "m2"), renewed=renewed)) is Result.FAILED
    assert result(life((5, 6.1, False, "m2"), renewed=renewed)) is Result.PASSED


def test_a_renewal_that_was_answered_after_the_read_began_promises_nothing_to_it() -> None:
    assert result(life((4.5, 4.9, False, "m2"), renewed=((4.0, 4.6, 4),))) is Result.PASSED


def test_a_renewal_that_says_gone_too_early() -> None:
    assert result(life(renewed=((2.0, 2.1, 0),))) is Result.FAILED
    assert result(life(renewed=((4.5, 4.6, 0),))) is Result.PASSED


def test_a_key_that_was_not_put_yet_is_not_gone() -> None:
    assert result(life((0.2, 0.4, False, "m2"))) is Result.PASSED


def test_a_key_left_over() -> None:
    assert result(life((1, 1.1, True, "m2")), left=("k",)) is Result.FAILED

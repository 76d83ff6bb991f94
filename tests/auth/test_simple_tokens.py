"""Simple tokens: AU-43 and AU-47, with a clock made by hand."""

from __future__ import annotations

from raftkv.auth import DEFAULT_TOKEN_TTL_S, SimpleTokens


def test_a_token_lives_its_time_from_when_a_clock_first_sees_it_au43() -> None:
    tokens = SimpleTokens()
    tokens.assign("t", "alice")
    tokens.expire(1000.0)
    tokens.expire(1000.0 + DEFAULT_TOKEN_TTL_S - 0.1)
    assert len(tokens) == 1
    tokens.expire(1000.0 + DEFAULT_TOKEN_TTL_S)
    assert len(tokens) == 0


def test_each_use_begins_its_life_anew_au43() -> None:
    tokens = SimpleTokens(10.0)
    tokens.assign("used", "alice")
    tokens.assign("idle", "alice")
    for now_s in (0.0, 9.0, 18.0, 27.0):
        assert tokens.resolve("used", now_s) == "alice"
    assert len(tokens) == 1
    assert tokens.resolve("idle", 27.0) is None


def test_one_that_ran_out_is_unknown_though_nobody_swept_au47() -> None:
    tokens = SimpleTokens(10.0)
    tokens.assign("t", "alice")
    assert tokens.resolve("t", 5.0) == "alice"
    assert tokens.resolve("t", 15.0) is None
    assert tokens.resolve("never", 0.0) is None


def test_those_in_use_do_not_keep_idle_ones_alive_and_none_is_swept_early() -> None:
    tokens = SimpleTokens(10.0)
    for at in range(100):
        tokens.assign(f"t{at}", "alice")
        tokens.expire(float(at))
        assert tokens.resolve("t0", float(at)) == "alice"
        assert len(tokens) == min(at + 1, 11 if at > 9 else 10)
    assert tokens.resolve("t90", 99.0) == "alice"
    assert tokens.resolve("t89", 99.0) is None


def test_a_users_tokens_go_together_old_and_new_au21() -> None:
    tokens = SimpleTokens(10.0)
    for token, user in (("a1", "alice"), ("b1", "bob")):
        tokens.assign(token, user)
    tokens.expire(0.0)
    for token, user in (("a2", "alice"), ("b2", "bob")):
        tokens.assign(token, user)
    tokens.drop_user("alice")
    assert [tokens.resolve(token, 0.0) for token in ("a1", "a2", "b1", "b2")] == [None, None, "bob", "bob"]
    tokens.clear()
    assert tokens.resolve("b1", 0.0) is None
    assert len(tokens) == 0

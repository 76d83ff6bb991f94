"""What must be true after healing, asked of members that answer as told."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from chaos import aftermath
from chaos.checkers.verdict import Result
from chaos.client import Answer, HashKV, UnclearError

ENDPOINTS = {"m1": "x:1", "m2": "x:2", "m3": "x:3"}


class FakeClient:
    """Answers from tables by member."""

    refusals: ClassVar[dict[str, int]] = {}
    """Puts that fail before one works."""
    hashes: ClassVar[dict[str, HashKV]] = {}
    revisions: ClassVar[dict[str, int]] = {}
    asked: ClassVar[list[int]] = []

    def __init__(self, member: str, endpoint: str) -> None:
        assert ENDPOINTS[member] == endpoint
        self.member = member

    async def put(self, _key: str, _value: str) -> Answer:
        left = self.refusals.get(self.member, 0)
        if left:
            self.refusals[self.member] = left - 1
            raise UnclearError("no leader yet")
        return Answer(2, took=True)

    async def get(self, _key: str) -> Answer:
        return Answer(self.revisions.get(self.member, 9))

    async def hash_kv(self, revision: int) -> HashKV:
        self.asked.append(revision)
        if self.member not in self.hashes:
            raise UnclearError("gone")
        return self.hashes[self.member]

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _fake_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftermath, "Client", FakeClient)
    monkeypatch.setattr(aftermath, "_AGAIN_S", 0.01)
    for table in (FakeClient.refusals, FakeClient.hashes, FakeClient.revisions, FakeClient.asked):
        table.clear()


def test_every_member_takes_a_write_in_the_end() -> None:
    FakeClient.refusals["m2"] = 3
    after = asyncio.run(aftermath.writes_again(ENDPOINTS, within_s=5))
    assert after.alive == ("m1", "m2", "m3")
    assert after.verdict.result is Result.PASSED
    assert FakeClient.refusals["m2"] == 0


def test_a_member_that_takes_none_fails_the_run_and_is_named() -> None:
    FakeClient.refusals["m3"] = 1_000_000
    after = asyncio.run(aftermath.writes_again(ENDPOINTS, within_s=0.1))
    assert after.alive == ("m1", "m2")
    assert after.verdict.result is Result.FAILED
    assert after.verdict.evidence == ("m3 took no write within 0.1 s after healing; the last answer: no leader yet",)


def test_the_same_hash_everywhere() -> None:
    FakeClient.hashes.update(dict.fromkeys(ENDPOINTS, HashKV(0xABC, -1)))
    FakeClient.revisions["m2"] = 7
    assert asyncio.run(aftermath.same_hashes(ENDPOINTS)).result is Result.PASSED
    assert FakeClient.asked == [7, 7, 7], "a revision that all have applied"


def test_one_member_that_differs() -> None:
    FakeClient.hashes.update(dict.fromkeys(ENDPOINTS, HashKV(0xABC, -1)), m3=HashKV(0xDEF, -1))
    found = asyncio.run(aftermath.same_hashes(ENDPOINTS))
    assert found.result is Result.FAILED
    assert "m3 0x00000def" in found.evidence[0]


def test_a_member_that_does_not_answer_leaves_it_undecided() -> None:
    FakeClient.hashes.update(m1=HashKV(0xABC, -1), m2=HashKV(0xABC, -1))
    assert asyncio.run(aftermath.same_hashes(ENDPOINTS, within_s=0.1)).result is Result.UNDECIDED

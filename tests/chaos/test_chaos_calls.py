"""What a failed call means, and how it is recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from chaos.client import Answer, CallError, RefusedError, UnclearError, after_prefix, classify
from chaos.history import NEVER, Counts, History, Kind, Op, Outcome, by_key, write_jsonl

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (CODE.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: Connection refused"),
        (CODE.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
        (CODE.UNKNOWN, "etcdserver: too many requests"),  # G-55: what the real server sends
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
        (CODE.UNIMPLEMENTED, "unknown method"),
    ],
)
def test_surely_without_effect(code: grpc.StatusCode, text: str) -> None:
    assert isinstance(classify(code, text), RefusedError)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (CODE.UNAVAILABLE, "etcdserver: request timed out"),
        (CODE.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"),
        (CODE.UNAVAILABLE, "etcdserver: leader changed"),
        (CODE.UNAVAILABLE, "etcdserver: server stopped"),
        (CODE.UNAVAILABLE, "Socket closed"),
        (CODE.UNAVAILABLE, "recvmsg:Connection reset by peer"),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (CODE.UNKNOWN, "raft proposal dropped"),
        (CODE.CANCELLED, "etcdserver: request canceled"),
        (CODE.INTERNAL, ""),
        (CODE.RESOURCE_EXHAUSTED, "Received message larger than max"),
    ],
)
def test_nobody_knows(code: grpc.StatusCode, text: str) -> None:
    assert isinstance(classify(code, text), UnclearError)


def record(error: CallError | None, kind: Kind) -> Op:
    times = iter([1.0, 2.5])
    history = History("test", lambda: next(times))

    async def call() -> Answer:
        if error is not None:
            raise error
        return Answer(7, took=kind is Kind.WRITE)

    return asyncio.run(history.observe(call(), "c1", "m1", kind, "k", "v" if kind is Kind.WRITE else None))


def test_an_answer_is_recorded_with_its_interval() -> None:
    op = record(None, Kind.WRITE)
    assert (op.outcome, op.called_s, op.returned_s, op.revision, op.took) == (Outcome.OK, 1.0, 2.5, 7, True)


def test_a_write_without_an_answer_never_ends() -> None:
    op = record(UnclearError("gone"), Kind.WRITE)
    assert (op.outcome, op.returned_s, op.error) == (Outcome.UNKNOWN, NEVER, "gone")


def test_a_refused_write_has_ended() -> None:
    op = record(RefusedError("no"), Kind.WRITE)
    assert (op.outcome, op.returned_s) == (Outcome.FAILED, 2.5)


def test_a_read_without_an_answer_had_no_effect_in_any_case() -> None:
    op = record(UnclearError("gone"), Kind.READ)
    assert (op.outcome, op.returned_s) == (Outcome.FAILED, 2.5)


def test_counts_and_files(tmp_path: Path) -> None:
    history = History("test", lambda: 1.0)
    for error in (None, RefusedError("no"), UnclearError("gone")):
        history.ops.append(record(error, Kind.WRITE))
    assert history.counts() == Counts(ok=1, failed=1, unknown=1)
    write_jsonl(tmp_path / "ops.jsonl", history.ops)
    lines = [json.loads(line) for line in (tmp_path / "ops.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["ok", "failed", "unknown"]
    assert [line["returned_s"] for line in lines] == [2.5, 2.5, None]
    assert list(by_key(history.ops)) == ["k"]


def test_the_end_of_a_prefix() -> None:
    assert after_prefix(b"watch/") == b"watch0"

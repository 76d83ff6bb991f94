"""The overload comparison: what it makes of its figures, and a client of it given an answer cut at every byte."""

from __future__ import annotations

import asyncio
from typing import Any

import hpack
import pytest
from bench_support import result

from bench.cli import build_parser
from bench.listing import ListingResult, _frame, _Lister
from bench.overload import Finding, Overload, is_good, put_ratio, text_of

PLAN = Overload(2, 1, 1000, 100.0, 1.0, 10.0, 1 << 30)


def finding(program: str = "raftkv", p99_ms: float = 10.0, **fields: Any) -> Finding:
    values: dict[str, Any] = {
        "program": program,
        "baseline": result(p99_ms=4.0, errors={}),
        "during": result(p99_ms=p99_ms, errors=fields.pop("errors", {})),
        "idle_bytes": 34_000_000,
        "peak_bytes": 265_000_000,
        "listing": ListingResult(2.0, 2_000_000, 1.5, fields.pop("ends", {"OK": 2})),
        "killed": False,
    }
    return Finding(**(values | fields))


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (finding(), True),
        (finding(ends={"OK": 1, "RESOURCE_EXHAUSTED": 1}), True),
        (finding(p99_ms=19.9), True),
        (finding(p99_ms=20.0), False),
        (finding(ends={"OK": 1, "unfinished": 1}), False),
        (finding(errors={"UNAVAILABLE: gone": 1}), False),
        (finding(killed=True), False),
    ],
)
def test_what_is_good(found: Finding, good: bool) -> None:
    assert is_good(found) is good


def test_the_text_says_it_all() -> None:
    *_, raftkv, etcd = text_of(PLAN, [finding(), finding("etcd", errors={"no": 3}, killed=True)]).splitlines()
    assert raftkv.split() == ["raftkv", *raftkv.split()[1:3], "4.00", "10.00", "2.50", "34", "265", "1.5", "2", "OK"]
    assert etcd.endswith("2 OK; puts: 3 x no; killed, for its memory")
    assert etcd.split()[2:6] == ["?", "4.00", "?", "?"]
    assert put_ratio(finding()) == 2.5


def test_the_keys_make_up_what_is_to_be_listed() -> None:
    assert PLAN._replace(list_mb=100, value_bytes=500).shape.key_space == 200_000


def test_the_command_is_there() -> None:
    arguments = build_parser().parse_args(["overload", "--only=raftkv", "--clients=5"])
    assert (arguments.only, arguments.clients, arguments.list_mb) == ("raftkv", 5, 100)


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
def test_a_client_counts_an_answer_whatever_the_pieces_are_it_comes_in(size: int) -> None:
    encoder = hpack.Encoder()
    answer = (
        _frame(4, 0, 0, b"")
        + _frame(1, 4, 1, encoder.encode([(b":status", b"200")]))
        + _frame(0, 0, 1, bytes(5 + 3000))
        + _frame(0, 0, 1, bytes(2000))
        + _frame(1, 5, 1, encoder.encode([(b"grpc-status", b"8")]))
    )

    class Transport:
        written = b""

        def write(self, data: bytes) -> None:
            self.written += data

    async def main() -> None:
        transport: Any = Transport()
        lister = _Lister(asyncio.get_running_loop(), b"")
        lister._transport = transport
        for at in range(0, len(answer), size):
            piece = answer[at : at + size]
            lister.get_buffer(-1)[: len(piece)] = piece
            lister.buffer_updated(len(piece))
        assert (lister.received_bytes, lister.ended.result()) == (5005, "RESOURCE_EXHAUSTED")
        assert transport.written == _frame(4, 1, 0, b"")

    asyncio.run(main())

"""HPACK: remembered blocks are right when tables change, and what RFC 7541 forbids is refused."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.rpc.frames import ErrorCode, Http2Error
from raftkv.rpc.headers import HeaderReader, HeaderWriter, literal, literal_indexed_name

texts = st.sampled_from([b"a", b"bb", b"token", b"x" * 300, b"grpc-timeout", b"0", b"\xff"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(texts, texts), max_size=5), max_size=40), st.sampled_from([4096, 100, 0]))
def test_remembered_blocks_equal_decoded_ones(lists: list[list[tuple[bytes, bytes]]], table_bytes: int) -> None:
    encoder = hpack.Encoder()
    reader = HeaderReader(lambda headers: [(n, v) for n, v, _ in headers], 1 << 20)
    for number, headers in enumerate(lists):
        if number == 20:
            encoder.header_table_size = table_bytes
        block = encoder.encode(headers)
        known = reader.remembered.get(block)
        assert (known if known is not None else reader.read(block)) == headers


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(texts, texts), max_size=5).map(tuple), max_size=30))
def test_written_blocks_are_decoded_by_others(lists: list[tuple[tuple[bytes, bytes], ...]]) -> None:
    writer = HeaderWriter()
    decoder = hpack.Decoder()
    for number, headers in enumerate(lists):
        if number == 10:
            writer.resize_table(64)
        block = writer.remembered.get(headers)
        if block is None:
            block = writer.encode(headers, headers)
        assert list(decoder.decode(block, raw=True)) == list(headers)


FORBIDDEN = {
    "4.2 size update after a field": b"\x82\x20",
    "5.1 integer cut short": b"\xff",
    "5.1 integer too large": b"\xff\xff\xff\xff\xff\x01",
    "5.2 string cut short": b"\x00\x05abc",
    "5.2 value missing": b"\x00\x01a",
    "5.2 padding of more than seven bits": b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\xf2\xb2\x4a\x84",
    "5.2 padding with zeros": b"\x00\x85\xf2\xb2\x4a\x84\x80\x01a",
    "6.1 index 0": b"\x80",
    "6.1 index beyond the tables": b"\xc6",
    "6.3 table larger than announced": b"\x3f\xe2\x1f",
}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_forbidden(rule: str) -> None:
    with pytest.raises(Http2Error) as caught:
        HeaderReader(list, 1 << 16).read(FORBIDDEN[rule])
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 300, 20_000])
def test_literals(length: int) -> None:
    block = literal(b"name", b"v" * length) + literal_indexed_name(31, b"w")
    assert hpack.Decoder(1 << 20).decode(block, raw=True) == [
        (b"name", b"v" * length),
        (b"content-type", b"w"),
    ]

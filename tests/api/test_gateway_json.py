"""JSON to messages and back (H-24 to H-26, H-31)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from raftkv.api import gateway_json
from raftkv.api.gateway_json import MalformedJSON, decode_text, fill, json_pieces, next_value, to_json
from raftkv.api.gateway_paths import BINDINGS
from raftkv.pb import kv_pb2, rpc_pb2

REQUESTS = sorted({binding.request for binding in BINDINGS.values()}, key=lambda each: each.DESCRIPTOR.full_name)
RESPONSES = sorted({binding.response for binding in BINDINGS.values()}, key=lambda each: each.DESCRIPTOR.full_name)


def read(text: str, message: Message) -> Any:
    found = next_value(text, 0)
    assert found is not None
    fill(message, found[0])
    return message


def range_of(text: str) -> rpc_pb2.RangeRequest:
    return read(text, rpc_pb2.RangeRequest())  # type: ignore[no-any-return]  # what was given


# --- any message --------------------------------------------------------------------------------------------------

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def _values(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _contents(field.message_type, depth + 1)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values]) | st.integers(0, 99)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=20)
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.text(max_size=10)
    return st.integers(*_INTEGERS[field.type])


def _contents(descriptor: Any, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments for the message's constructor: any fields, at most one of a oneof."""
    fields = [field for field in descriptor.fields if depth < 4 or field.type != FieldDescriptor.TYPE_MESSAGE]

    @st.composite
    def draw_fields(draw: st.DrawFn) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        groups = set()
        for field in draw(st.lists(st.sampled_from(fields), unique_by=lambda field: field.name)) if fields else ():
            group = field.containing_oneof.name if field.containing_oneof else field.name
            if group not in groups:
                groups.add(group)
                values = _values(field, depth)
                chosen[field.name] = draw(st.lists(values, max_size=3) if field.is_repeated else values)
        return chosen

    return st.deferred(draw_fields)


@st.composite
def messages(draw: st.DrawFn, types: list[type[Message]]) -> Message:
    kind = draw(st.sampled_from(types))
    return kind(**draw(_contents(kind.DESCRIPTOR)))


@given(messages(REQUESTS + RESPONSES))
def test_what_was_written_is_read_again(message: Message) -> None:
    assert read(to_json(message), type(message)()) == message


@given(messages(REQUESTS + RESPONSES))
def test_written_as_protobuf_says(message: Message) -> None:
    """The names of the .proto file, 64 bits as texts, bytes as base64, no default values (H-24)."""
    expected = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert json.loads(to_json(message)) == expected


@given(messages(REQUESTS))
def test_lower_camel_case_is_read(message: Message) -> None:
    """H-24, H-25."""
    text = json_format.MessageToJson(message, preserving_proto_field_name=False)
    assert read(text, type(message)()) == message


@given(messages(RESPONSES), st.sampled_from([0, 10, 1 << 20]))
def test_pieces_are_the_whole(message: Message, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_json, "PIECE_BYTES", piece_bytes)
        assert "".join(json_pieces(message)) == to_json(message)


def test_a_long_list_comes_in_many_pieces() -> None:
    kvs = [kv_pb2.KeyValue(key=b"%d" % number, value=bytes(100)) for number in range(1000)]
    response = rpc_pb2.RangeResponse(kvs=kvs, count=1000)
    pieces = list(json_pieces(response))
    assert len(pieces) > 1000
    assert max(map(len, pieces)) < 1000
    assert json.loads("".join(pieces))["count"] == "1000"


# --- single values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"key":"Zm9v"}', {"key": b"foo"}),
        ('{"key":"Zm9vYQ"}', {"key": b"fooa"}),
        ('{"key":"-_-_"}', {"key": b"\xfb\xff\xbf"}),
        ('{"key":"+/+/"}', {"key": b"\xfb\xff\xbf"}),
        (r'{"key":"Zm\n9v"}', {"key": b"foo"}),
        ('{"key":null,"limit":null}', {}),
        ('{"limit":7}', {"limit": 7}),
        ('{"limit":"7"}', {"limit": 7}),
        ('{"limit":"-7"}', {"limit": -7}),
        ('{"limit":1.0}', {"limit": 1}),
        ('{"limit":1e3}', {"limit": 1000}),
        ('{"limit":"1e3"}', {"limit": 1000}),
        ('{"limit":9223372036854775807}', {"limit": 2**63 - 1}),
        ('{"limit":9007199254740993.0}', {"limit": 2**53 + 1}),
        ('{"sort_order":"DESCEND","sortTarget":2}', {"sort_order": 2, "sort_target": 2}),
        ('{"sort_order":"SIDEWAYS"}', {}),
        ('{"sort_order":77}', {"sort_order": 77}),
        ('{"serializable":true,"keysOnly":false}', {"serializable": True}),
        ('{"unknown":[1,{"key":"?"}],"KEY":"Zm9v","key ":"Zm9v"}', {}),
        (' \n\t{ "key" : "Zm9v" } ', {"key": b"foo"}),
    ],
)
def test_values_that_are_taken(text: str, expected: dict[str, Any]) -> None:
    """H-24."""
    assert range_of(text) == rpc_pb2.RangeRequest(**expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xx",
        "[]",
        "null",
        "5",
        "{",
        '{"key":',
        '{"key":"Zm9v",}',
        "{'key':1}",
        '{"key":"!!"}',
        '{"key":"a"}',
        '{"key":"Zm9vYQ="}',
        '{"key":"=="}',
        '{"key":"Zm9v=YQ="}',
        '{"key":"+_+_"}',
        r'{"key":"\u00e9"}',
        '{"key":5}',
        '{"key":{}}',
        '{"key":"Zm9v","key":"Zm9v"}',
        '{"range_end":"Zm9v","rangeEnd":"Zm9v"}',
        '{"limit":"abc"}',
        '{"limit":""}',
        '{"limit":" 1"}',
        '{"limit":"007"}',
        '{"limit":"+1"}',
        '{"limit":"\u0663"}',
        '{"limit":1.5}',
        '{"limit":true}',
        '{"limit":9223372036854775808}',
        '{"limit":1e400}',
        '{"limit":"1e999999999"}',
        '{"limit":1e-999999999}',
        '{"limit":' + "9" * 10_000 + "}",
        '{"limit":NaN}',
        '{"other":Infinity}',
        '{"serializable":"true"}',
        '{"serializable":1}',
        '{"sort_order":true}',
        '{"sort_order":99999999999}',
        "\ufeff{}",
        '{"other":' + "[" * 100_000,
        '{"other":' + '{"a":' * 100_000,
    ],
)
def test_values_that_are_refused(text: str) -> None:
    """H-31."""
    with pytest.raises(MalformedJSON) as raised:
        fill(rpc_pb2.RangeRequest(), (next_value(text, 0) or (None,))[0])
    assert len(str(raised.value)) < 300


def test_an_end_that_is_missing_is_told() -> None:
    with pytest.raises(MalformedJSON, match=r"^unexpected EOF$"):
        next_value('{"key":"Zm9v"', 0)


@pytest.mark.parametrize("name", [r"\ud800", r"\udfff x"])
def test_half_a_character_is_no_text(name: str) -> None:
    with pytest.raises(MalformedJSON):
        read(f'{{"name":"{name}"}}', rpc_pb2.AuthUserAddRequest())


def test_what_is_not_utf8_is_refused() -> None:
    with pytest.raises(MalformedJSON):
        decode_text(b'{"key":"\xff"}')


# --- lists and members of a oneof ---------------------------------------------------------------------------------


def test_the_example_of_a_transaction() -> None:
    """H-25: also that a zero is a value when it is compared with."""
    text = """{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"0"}],
               "success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}], "failure":[{"request_range":{}}]}"""
    txn = read(text, rpc_pb2.TxnRequest())
    assert txn.compare[0].WhichOneof("target_union") == "create_revision"
    assert txn.success[0].request_put.value == b"bar"
    assert txn.failure[0].WhichOneof("request") == "request_range"


def test_null_is_no_member_of_a_oneof() -> None:
    txn = read('{"compare":[{"create_revision":null,"version":"3"}]}', rpc_pb2.TxnRequest())
    assert txn.compare[0].version == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"success":[{"requestPut":{},"requestRange":{}}]}',
        '{"success":[null]}',
        '{"success":[5]}',
        '{"success":{}}',
        '{"success":"x"}',
        '{"success":[{"request_put":[]}]}',
    ],
)
def test_lists_that_are_refused(text: str) -> None:
    with pytest.raises(MalformedJSON):
        read(text, rpc_pb2.TxnRequest())


def test_messages_within_messages_have_a_limit() -> None:
    def nested(depth: int) -> str:
        return '{"success":[{"request_txn":' * depth + "{}" + "}]}" * depth

    read(nested(40), rpc_pb2.TxnRequest())
    with pytest.raises(MalformedJSON, match="depth"):
        read(nested(200), rpc_pb2.TxnRequest())


def test_values_follow_each_other() -> None:
    """H-27."""
    text = '{"a":1}{"b":2} \n {"c":3} '
    at, found = 0, []
    while (value := next_value(text, at)) is not None:
        found.append(value[0])
        at = value[1]
    assert found == [(("a", 1),), (("b", 2),), (("c", 3),)]


# --- whatever comes -----------------------------------------------------------------------------------------------

_ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Zm9v", "1", "PUT"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [field.name for kind in REQUESTS for field in kind.DESCRIPTOR.fields]
                + ["request_txn", "success", "compare", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_ANY_JSON, st.sampled_from(REQUESTS))
def test_any_json_is_taken_or_refused(value: Any, kind: type[Message]) -> None:
    try:
        message = read(json.dumps(value), kind())
    except MalformedJSON:
        return
    assert kind.FromString(message.SerializeToString()) == message


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789.eE+-ntf \\u', max_size=60).map(str.encode))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    try:
        found = next_value(decode_text(body), 0)
        if found is not None:
            fill(rpc_pb2.TxnRequest(), found[0])
    except MalformedJSON:
        pass

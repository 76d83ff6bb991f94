"""Server reflection holds nothing for clients that ask without reading, or that are gone."""

from __future__ import annotations

from typing import Any

from api_support import FakeCall, FakeNode, raw

from raftkv.api.errors import STOPPED, TOO_MANY_REQUESTS
from raftkv.api.reflection import Reflection
from raftkv.pb import reflection_pb2
from raftkv.rpc.codes import Code

QUESTION = raw(reflection_pb2.ServerReflectionRequest(file_containing_symbol="etcdserverpb.KV"))


def _opened(node: FakeNode, call: FakeCall) -> tuple[Reflection, Any]:
    reflection = Reflection(node.context(), ["etcdserverpb.KV"])
    handler: Any = reflection.services()[0].methods[0].handler
    stream = handler(call)
    call.on_closed = stream.on_closed
    return reflection, stream


def test_who_asks_without_reading_is_refused(fake_node: FakeNode) -> None:
    call = FakeCall(room=3)
    _, stream = _opened(fake_node, call)
    for _ in range(3):
        assert call.failure is None
        stream.on_message(QUESTION)
    assert call.failure == TOO_MANY_REQUESTS


def test_er_03_a_stream_ends_with_the_server_unless_it_has_ended(fake_node: FakeNode) -> None:
    for has_ended in (False, True):
        call = FakeCall()
        reflection, stream = _opened(fake_node, call)
        if has_ended:
            stream.on_closed()
        reflection.end_streams()
        assert call.failure == (None if has_ended else STOPPED)


def test_ws_02_a_message_that_is_no_request(fake_node: FakeNode) -> None:
    call = FakeCall()
    _, stream = _opened(fake_node, call)
    stream.on_message(b"\xff")
    assert call.failure is not None
    assert call.failure[0] is Code.INTERNAL

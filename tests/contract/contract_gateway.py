"""A client of the JSON gateway for contract tests: calls, streams line by line, WebSockets.

Owns requests, answers and refusals. Knows no rule: what an answer must be is written in the tests.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from contextlib import closing
from typing import Any, Final

from helpers.processes import Server
from wsproto import ConnectionType, WSConnection
from wsproto.events import Message, Request

TIMEOUT_S: Final = 20


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def raw(text: str) -> bytes:
    return base64.b64decode(text)


class Gateway:
    """Calls by JSON; a connection for each."""

    def __init__(self, server: Server) -> None:
        self.endpoint = server.endpoint

    def ask(
        self, path: str, body: str | bytes = "", method: str = "POST", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with closing(http.client.HTTPConnection(self.endpoint, timeout=TIMEOUT_S)) as connection:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, fields)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def __call__(self, path: str, request: Any = None, **headers: str) -> Any:
        """The answer of a call that succeeds."""
        status, fields, body = self.ask(f"/v3/{path}", json.dumps(request or {}), **headers)
        assert (status, fields["content-type"]) == (200, "application/json"), body
        return json.loads(body)

    def refused(self, path: str, body: Any, **headers: str) -> tuple[int, int, str]:
        """HTTP status, gRPC code and text of a call that does not (H-30)."""
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        status, fields, answer = self.ask(f"/v3/{path}", text, **headers)
        assert fields["content-type"] == "application/json"
        error = json.loads(answer)
        assert error.get("details", []) == []
        return status, error["code"], error["message"]

    def stream(self, path: str, body: str, **headers: str) -> Lines:
        return Lines(self.endpoint, path, body, headers)

    def put(self, key: bytes, value: bytes = b"v") -> Any:
        return self("kv/put", {"key": b64(key), "value": b64(value)})


class Lines:
    """The answer of a stream, line by line as it comes (H-27)."""

    def __init__(self, endpoint: str, path: str, body: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(endpoint, timeout=TIMEOUT_S)
        self._connection.request("POST", f"/v3/{path}", body, {k.replace("_", "-"): v for k, v in headers.items()})
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """Its head comes with the first line."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def result(self) -> Any:
        return json.loads(self.response.readline())["result"]

    def rest(self) -> list[Any]:
        return [json.loads(line) for line in self.response.read().splitlines()]

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


class Socket:
    """A WebSocket client, one message at a time."""

    def __init__(self, server: Server, path: str, connected: socket.socket | None = None) -> None:
        host = server.endpoint.partition(":")[0]
        self._socket = connected or socket.create_connection((host, server.client_port), TIMEOUT_S)
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._events: list[Any] = []
        request = Request(host=server.endpoint, target=f"/v3/{path}")
        self._socket.sendall(self._connection.send(request))
        self.opening = self.event()

    def send(self, value: Any) -> None:
        self._socket.sendall(self._connection.send(Message(data=json.dumps(value))))

    def event(self) -> Any:
        while not self._events:
            self._connection.receive_data(self._socket.recv(65536) or None)
            self._events += self._connection.events()
        return self._events.pop(0)

    def message(self) -> Any:
        """A whole one."""
        text = ""
        while True:
            event = self.event()
            assert isinstance(event, Message), event
            text += str(event.data)
            if event.message_finished:
                return json.loads(text)

    def close(self) -> None:
        self._socket.close()

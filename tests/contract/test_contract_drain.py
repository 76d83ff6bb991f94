"""A member that is told to stop takes leave of everybody, whichever way they came: GOAWAY, an end for each stream, and
an answer to each write that it has taken (ER-03, RF-71). What it answered is there when it comes
back, and nothing else.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import product
from typing import Final

import grpc
import pytest
from contract_gateway import Socket, b64
from contract_support import TIMEOUT_S, Client, Code, Stream, new_prefix, prefix_end
from helpers.processes import Program, Server
from helpers.secure import SecureServer, credentials
from helpers.waiting import wait_until
from wsproto.events import AcceptConnection, CloseConnection

from raftkv.pb import rpc_pb2
from raftkv.rpc import frames

_WRITERS: Final = 8
_WRITES: Final = 200
"""By all together before the member is told to stop."""
_STOPPED: Final = {"error": {"code": 14, "message": "etcdserver: server stopped"}}


class Door:
    """One way to a member: which RPC server, over which transport."""

    def __init__(self, kind: str, server: Server, path: str = "") -> None:
        self.also_refused_with = {Code.CANCELLED} if kind == "grpcio" else set()
        """grpcio's own answer to a call that comes after it has begun to stop, and before its client knows."""
        self.server = server
        self._path = path
        """Of the Unix socket; empty: TCP."""

    @property
    def target(self) -> str:
        return f"unix:{self._path}" if self._path else self.server.endpoint

    def channel(self) -> grpc.Channel:
        if not isinstance(self.server, SecureServer):
            return grpc.insecure_channel(self.target)
        secured = credentials(self.server.authority, self.server.admin)
        return grpc.secure_channel(self.target, secured, [("grpc.ssl_target_name_override", "localhost")])

    @contextmanager
    def socket(self, protocol: str) -> Iterator[socket.socket]:
        """Connected, and over TLS if need be with this protocol agreed on."""
        if self._path:
            raw = socket.socket(socket.AF_UNIX)
            raw.settimeout(TIMEOUT_S)
            raw.connect(self._path)
        else:
            raw = socket.create_connection(("127.0.0.1", self.server.client_port), TIMEOUT_S)
        with raw:
            if isinstance(self.server, SecureServer):
                with self._tls(protocol).wrap_socket(raw, server_hostname="localhost") as wrapped:
                    yield wrapped
            else:
                yield raw

    def http(self) -> http.client.HTTPConnection:
        if not isinstance(self.server, SecureServer):
            return http.client.HTTPConnection("127.0.0.1", self.server.client_port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(
            "localhost", self.server.client_port, timeout=TIMEOUT_S, context=self._tls("http/1.1")
        )

    def _tls(self, protocol: str) -> ssl.SSLContext:
        assert isinstance(self.server, SecureServer)
        context = ssl.create_default_context(cafile=str(self.server.authority.ca))
        context.load_cert_chain(self.server.admin.cert, self.server.admin.key)
        context.set_alpn_protocols([protocol])
        return context


@pytest.fixture(params=list(product(("native", "grpcio"), ("http", "https", "unix", "unixs"))), ids="-".join)
def door(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    kind, scheme = request.param
    if subject_program.kind == "etcd":
        pytest.skip("the RPC servers are chosen by a flag of raftkv's")
    directory = tmp_path_factory.mktemp("drain")
    make = SecureServer if scheme in ("https", "unixs") else Server
    server = make(subject_program, directory, [f"--rpc-server={kind}"])
    path = ""
    if scheme.startswith("unix"):
        path = str(directory / f"localhost:{server.client_port}")
        # H-06: the socket has the name of an address.
        server.client_url += f",{scheme}://localhost:{server.client_port}"
    try:
        yield Door(kind, server.start(), path)
    finally:
        server.stop()


class Writers:
    """Threads that write, one key after the other each, until they are refused. `write(key)` raises when it is."""

    def __init__(self, prefix: bytes, make_write: Callable[[], Callable[[bytes], None]]) -> None:
        self._prefix = prefix
        self.answered: set[bytes] = set()
        self.refusals: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(make_write(), n)) for n in range(_WRITERS)]
        for thread in self._threads:
            thread.start()
        wait_until("enough is written", lambda: len(self.answered) >= _WRITES)

    def _run(self, write: Callable[[bytes], None], name: int) -> None:
        number = 0
        while True:
            key = self._prefix + b"%d-%d" % (name, number)
            try:
                write(key)
            except Exception as refusal:
                self.refusals.append(refusal)
                return
            self.answered.add(key)
            number += 1

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        assert len(self.refusals) == _WRITERS


def stored(door: Door, prefix: bytes) -> set[bytes]:
    """What the member has once it is back."""
    door.server.start()
    with door.channel() as channel:
        return {kv.key for kv in Client(channel).range(prefix, prefix_end(prefix), keys_only=True).kvs}


class Idle:
    """A client with an HTTP/2 connection and nothing to ask. It answers pings, and notes which GOAWAYs came."""

    def __init__(self, sock: socket.socket) -> None:
        self.goaways: list[int] = []
        self._sock = sock
        sock.sendall(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._sock.makefile("rb") as sent:
            while head := sent.read(9):
                payload = sent.read(int.from_bytes(head[:3], "big"))
                if head[3] == frames.GOAWAY:
                    self.goaways.append(int.from_bytes(payload[4:8], "big"))
                elif head[3] == frames.PING:
                    with suppress(OSError):  # closed meanwhile
                        self._sock.sendall(frames.ping(payload, ack=True))

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


def test_er_03_everybody_is_told_and_every_write_answered(door: Door) -> None:
    prefix = new_prefix()
    with door.channel() as channel, door.socket("h2") as sock:
        client, idle = Client(channel), Idle(sock)
        lease = client.grant(60).ID
        with client.watch() as watch, client.keep_alive() as keep_alive:
            watch.create(prefix, prefix_end(prefix))
            keep_alive.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
            assert keep_alive.next().TTL == 60
            writers = Writers(prefix, lambda: lambda key: client.put(key) and None)
            assert door.server.terminate() == 0
            writers.join()
            assert {refusal.code() for refusal in writers.refusals} <= {Code.UNAVAILABLE, *door.also_refused_with}
            for stream in (watch, keep_alive):
                assert ended(stream) is Code.UNAVAILABLE
        idle.join()
        assert set(idle.goaways) == {frames.ErrorCode.NO_ERROR}
    assert stored(door, prefix) == writers.answered


def ended(stream: Stream) -> grpc.StatusCode:
    """How, after what it had to say."""
    try:
        while True:
            stream.next()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code


# --- the JSON gateway -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["http", "https"])
def gateway_door(
    request: pytest.FixtureRequest, subject_program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    if subject_program.kind == "etcd":
        pytest.skip("how a gateway takes leave is not in the contract")
    directory = tmp_path_factory.mktemp("drain-gateway")
    server = (
        SecureServer(subject_program, directory) if request.param == "https" else Server(subject_program, directory)
    )
    try:
        yield Door("native", server.start())
    finally:
        server.stop()


def test_er_03_h_27_h_28_the_gateways_clients_are_told_too(gateway_door: Door) -> None:
    """Streams of lines and WebSockets get the error and an orderly end; a connection without a request is closed."""
    prefix, door = new_prefix(), gateway_door
    created = {"create_request": {"key": b64(prefix), "range_end": b64(prefix_end(prefix))}}

    def make_write() -> Callable[[bytes], None]:
        connection = door.http()

        def write(key: bytes) -> None:
            connection.request("POST", "/v3/kv/put", json.dumps({"key": b64(key), "value": "dg=="}))
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body

        return write

    with closing(door.http()) as idle, closing(door.http()) as streaming, door.socket("http/1.1") as sock:
        web = Socket(door.server, "watch", sock)
        assert isinstance(web.opening, AcceptConnection)
        idle.request("GET", "/version")
        assert idle.getresponse().read()
        streaming.request("POST", "/v3/watch", json.dumps(created))
        lines = streaming.getresponse()
        web.send(created)
        assert json.loads(lines.readline())["result"]["created"]
        assert web.message()["result"]["created"]
        writers = Writers(prefix, make_write)
        assert door.server.terminate() == 0
        writers.join()
        last = json.loads(lines.read().splitlines()[-1])
        assert last == _STOPPED
        while "error" not in (said := web.message()):
            pass
        assert said == _STOPPED
        assert isinstance(web.event(), CloseConnection)
        assert idle.sock.recv(1) == b""
    assert stored(door, prefix) == writers.answered

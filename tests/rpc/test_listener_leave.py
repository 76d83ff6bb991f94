"""Answers that leave before the loop's turn ends (docs/adr/0010)."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from rpc_kit import bound_socket, until
from tls_kit import authority_in, context_of, settings

from raftkv.rpc.http_exchange import HttpExchange
from raftkv.rpc.listener import Listener
from raftkv.rpc.tls import server_tls

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
CLIENTS = 3


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main, 30))


def readable(socks: list[socket.socket]) -> int:
    return len(select.select(socks, [], [], 0)[0])


@LOOPS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_answers_leave_at_once(tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], secure: bool) -> None:
    authority, pair = authority_in(tmp_path)

    def ask(port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        if secure:
            sock = context_of(authority).wrap_socket(sock, server_hostname="127.0.0.1")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock

    async def main() -> None:
        asked: list[HttpExchange] = []
        listener = Listener(asyncio.get_running_loop(), {}, asked.append)
        sock, port = bound_socket()
        await listener.start(sock, server_tls(settings(authority, pair, wants_client_cert=False)) if secure else None)
        clients = await asyncio.gather(*(asyncio.to_thread(ask, port) for _ in range(CLIENTS)))
        await until(lambda: len(asked) == CLIENTS)
        for client in clients:
            client.setblocking(False)
            while secure and readable([client]):  # tickets, which come with the handshake
                with pytest.raises(OSError, match="did not complete"):
                    client.recv(1)
        for exchange in asked:
            exchange.respond(200, (), b"answer")
        assert readable(clients) == 0, "it waits for the end of the turn"
        listener.leave()
        assert readable(clients) == CLIENTS, "though the loop has not gone on"
        listener.leave()  # with nothing to say
        for client in clients:
            assert client.recv(1000).endswith(b"answer")
            client.close()
        await listener.drain()

    run(new_loop, main())


def test_a_connection_that_fails_does_not_keep_the_others_from_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked: list[HttpExchange] = []
        loop = asyncio.get_running_loop()
        listener = Listener(loop, {}, asked.append)
        sock, port = bound_socket()
        await listener.start(sock)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(asked) == CLIENTS)
        for exchange in asked:
            exchange.respond(200, (), b"answer")
        monkeypatch.setattr(listener._talking[0], "_transport", None)
        with pytest.raises(AttributeError):
            listener.leave()
        await asyncio.sleep(0.01)
        assert readable(clients) == CLIENTS - 1
        for client in clients:
            client.close()
        listener._servers[0].close()

    run(asyncio.new_event_loop, main())

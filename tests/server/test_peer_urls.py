"""What the peer URLs let through as they are served in earnest: any entry that a client may have written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.certificates import Authority
from peers_support import ME, PEER, PEERS, FakeHost
from trio import until

from raftkv.api.serving import Purpose, Serving, bind
from raftkv.config import load
from raftkv.raft import Entry, Message, MessageType
from raftkv.server.peers import Link, PeerService
from raftkv.server.tls import load_tls

ENTRY_BYTES = 65 << 20
"""More than other connections may leave incomplete."""


class Owner:
    """Of the link, with no wishes."""

    def accepts(self, _peer_id: int, _data_id: int) -> bool:
        return True

    def on_link_up(self, peer_id: int) -> None: ...

    def on_link_down(self, peer_id: int) -> None: ...

    def on_refused(self, peer_id: int, refusal: Exception) -> None: ...


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_append_of_any_size_passes(tmp_path: Path, scheme: str) -> None:
    """LIM-03: an entry is as large as --max-request-bytes lets requests be, and is sent whole."""
    pair = Authority(tmp_path / "pki").server()
    files = [
        f"--peer-cert-file={pair.cert}",
        f"--peer-key-file={pair.key}",
        f"--peer-trusted-ca-file={tmp_path}/pki/ca.pem",
    ]

    async def story() -> None:
        loop = asyncio.get_running_loop()
        listen = [f"--listen-peer-urls={scheme}://127.0.0.1:0", "--listen-client-urls=http://127.0.0.1:0"]
        config = load([f"--data-dir={tmp_path}", "--advertise-client-urls=http://127.0.0.1:1", *listen, *files], {})
        tls = load_tls(config)
        host, serving = FakeHost(), Serving(loop, config, bind(config), tls)
        copies: Any = SimpleNamespace(read=None, close=None)
        await serving.open_peers(PeerService(host, copies), no_pages)
        link = Link(loop, PEERS, ME, serving.urls(Purpose.PEER), (), Owner(), tls.to_peers)
        link.on_tick(loop.time())
        await until(lambda: link.up)
        entries = [Entry(4, 7, data=b"x" * ENTRY_BYTES)]
        assert link.send(Message(MessageType.APP, ME, sender=PEER, term=4, index=6, log_term=4, entries=entries))
        await until(lambda: host.messages or not link.up)
        assert [each.entries == entries for each in host.messages] == [True]
        assert (link.up, link.disconnects) == (True, 0)
        link.close()
        await serving.drain()

    asyncio.run(story())


def no_pages(*_: object) -> None:
    raise AssertionError("nobody asks for a page")

"""What a member with TLS shows of it, on a plain address for Prometheus."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from cryptography import x509
from helpers.grpc_calls import Calls, connect
from helpers.processes import RAFTKV, free_port
from helpers.secure import SecureServer
from helpers.waiting import wait_until
from scrape_support import scrape

from raftkv.pb import rpc_pb2


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecureServer, int]]:
    """The member, and its port for Prometheus."""
    port = free_port()
    server = SecureServer(RAFTKV, tmp_path_factory.mktemp("tls"), [f"--listen-metrics-urls=http://127.0.0.1:{port}"])
    try:
        server.start()
        yield server, port
    finally:
        server.stop()


def expiry(port: int, of: str = "certificate") -> float:
    return scrape(port).value(f"raftkv_tls_{of}_expiry_timestamp_seconds", side="client")


def test_when_the_certificate_ends(secured: tuple[SecureServer, int]) -> None:
    """H-08, H-65: Prometheus needs no certificate there. A new certificate shows without a restart (TLS-02)."""
    server, port = secured
    old = x509.load_pem_x509_certificate(server.pair.cert.read_bytes())
    assert expiry(port) == old.not_valid_after_utc.timestamp()
    ca = x509.load_pem_x509_certificate(server.authority.ca.read_bytes())
    assert expiry(port, "ca") == ca.not_valid_after_utc.timestamp()
    time.sleep(1.1)  # certificates know whole seconds
    server.authority.server()
    new = x509.load_pem_x509_certificate(server.pair.cert.read_bytes())
    assert new.not_valid_after_utc > old.not_valid_after_utc
    wait_until("it is noticed", lambda: expiry(port) == new.not_valid_after_utc.timestamp())
    assert scrape(port).value("raftkv_tls_reloads_total", side="client") >= 1
    assert scrape(port).value("raftkv_tls_reload_failures_total", side="client") == 0


def test_handshakes(secured: tuple[SecureServer, int]) -> None:
    server, port = secured
    before = scrape(port)
    with connect(server.endpoint) as channel:
        Calls(channel).KV.Put(rpc_pb2.PutRequest(key=b"k"), timeout=20)
    after = scrape(port)
    name = "raftkv_tls_handshakes_total"
    assert after.value(name, port="client") > before.value(name, port="client")
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=20) as stranger:
        stranger.sendall(b"this is no handshake\n" * 10)
        stranger.recv(100)
    failed = "raftkv_tls_handshakes_failed_total"
    wait_until(
        "the failure counts",
        lambda: scrape(port).value(failed, port="client") == before.value(failed, port="client") + 1,
    )

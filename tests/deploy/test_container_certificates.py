"""deploy/certificates.py: what it makes is what members and clients take, and what is still good is kept."""

from __future__ import annotations

import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from helpers.processes import RAFTKV, Server, clean_environment
from helpers.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "deploy" / "certificates.py"
MEMBER = "default=localhost,127.0.0.1"


def make(directory: Path, *words: str) -> str:
    done = subprocess.run(
        (sys.executable, SCRIPT, directory, *words), capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def serial(directory: Path, name: str) -> int:
    return x509.load_pem_x509_certificate((directory / name / "cert.pem").read_bytes()).serial_number


def context(directory: Path, *, with_pair: bool) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(directory / "client" / "ca.pem"))
    if with_pair:
        made.load_cert_chain(directory / "client" / "cert.pem", directory / "client" / "key.pem")
    return made


def test_a_member_serves_with_them_and_asks_clients_for_theirs(tmp_path: Path) -> None:
    make(tmp_path / "tls", MEMBER, "client")
    own = tmp_path / "tls" / "default"
    server = Server(RAFTKV, tmp_path / "member")
    url = f"https://127.0.0.1:{server.client_port}"
    server.client_url = url
    server._extra_flags = (
        f"--cert-file={own}/cert.pem",
        f"--key-file={own}/key.pem",
        f"--trusted-ca-file={own}/ca.pem",
        "--client-cert-auth=true",
    )
    try:
        server.spawn()
        wait_until("it serves", lambda: "ready to serve client requests" in server.log_text())
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context(tmp_path / "tls", with_pair=True)),
        )
        with opener.open(f"{url}/version", timeout=20) as answer:
            assert answer.status == 200
        stranger = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context(tmp_path / "tls", with_pair=False)),
        )
        with pytest.raises(OSError, match=r"(?i)certificate.required|closed|reset"):
            stranger.open(f"{url}/version", timeout=20).read()
    finally:
        server.stop()


def test_a_second_run_keeps_what_is_good(tmp_path: Path) -> None:
    make(tmp_path, MEMBER, "client")
    before = {name: serial(tmp_path, name) for name in ("ca", "default", "client")}
    said = make(tmp_path, MEMBER, "client", "more")
    assert {name: serial(tmp_path, name) for name in before} == before
    assert said.splitlines() == [
        "kept the certificate of default",
        "kept the certificate of client",
        "made a certificate for more: a client",
    ]


def test_other_names_and_another_authority_make_another_certificate(tmp_path: Path) -> None:
    make(tmp_path, MEMBER)
    first = serial(tmp_path, "default")
    make(tmp_path, f"{MEMBER},db1.example")
    second = serial(tmp_path, "default")
    assert second != first
    for file in (tmp_path / "ca").iterdir():
        file.unlink()
    make(tmp_path, f"{MEMBER},db1.example")
    assert serial(tmp_path, "default") != second


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    make(tmp_path, MEMBER, "client")
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.pem")}
    assert modes == {0o600}
    assert not (tmp_path / "default" / "ca-key.pem").exists()
    assert sorted(path.name for path in (tmp_path / "default").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


@pytest.mark.parametrize("word", ["ca", "../up", "=host", ".hidden"])
def test_names_that_cannot_be(tmp_path: Path, word: str) -> None:
    done = subprocess.run((sys.executable, SCRIPT, tmp_path, word), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot be a name" in done.stderr
    assert not list(tmp_path.iterdir())


def test_half_an_authority_is_refused(tmp_path: Path) -> None:
    make(tmp_path, MEMBER)
    (tmp_path / "ca" / "key.pem").unlink()
    done = subprocess.run((sys.executable, SCRIPT, tmp_path, MEMBER), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        f"certificates: {tmp_path}/ca has only one of cert.pem and key.pem; put the other back, or remove it\n"
    )

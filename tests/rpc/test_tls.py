"""TLS on the server's port: who is let in, what they speak there, and files that change meanwhile."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from helpers.certificates import CLIENT_AUTH, SERVER_AUTH, Authority, Pair, write
from rpc_kit import until
from tls_kit import LIMITS, WHO, Serving, authority_in, caller, context_of, credentials_of, run, serving, settings

from raftkv.rpc.channel import Channel
from raftkv.rpc.codes import Code, RpcError
from raftkv.rpc.frames import PREFACE
from raftkv.rpc.tls import TlsFilesError, TlsSettings, client_tls, server_tls

UNARY = b"/test.Echo/Unary"
EXPIRED = datetime.timedelta(days=-1)
BOTH_SERVERS = pytest.mark.parametrize("kind", ["native", "grpcio"])


async def refusal_of(server: Serving, *args: Any, **more: Any) -> str:
    """Why a connection of our own channel does not serve calls."""
    with pytest.raises(RpcError) as caught:
        await server.who(*args, **more)
    assert caught.value.code in (Code.UNAVAILABLE, Code.UNAUTHENTICATED)
    return caught.value.text


# --- who is let in (TLS-03 to TLS-06) ---------------------------------------------------------------------------------


@BOTH_SERVERS
def test_tls_03_a_client_certificate_is_asked_for_and_verified(tmp_path: Path, kind: str) -> None:
    """And its common name is what handlers see of the caller (AU-60)."""
    authority, server_pair = authority_in(tmp_path)
    stranger = Authority(tmp_path / "other").client("mallory")
    expired = authority.client("old", valid=EXPIRED)
    for_servers = authority.issue("no-client", "no-client", usages=(SERVER_AUTH,))

    async def main() -> None:
        async with serving(settings(authority, server_pair), kind) as server:
            assert await server.who(caller(authority, authority.client("alice"))) == "alice"
            for pair in (None, stranger, expired, for_servers):
                assert "TLS: " in await refusal_of(server, caller(authority, pair)) or kind == "grpcio"
            assert await server.who(caller(authority, authority.client("bob"))) == "bob"

    run(main)


@BOTH_SERVERS
def test_without_client_certificates_nobody_has_a_name(tmp_path: Path, kind: str) -> None:
    """Also who shows one that was not asked for: it was not verified."""
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair, wants_client_cert=False, ca_file=""), kind) as server:
            assert await server.who(caller(authority)) == "nobody"
            assert await server.who(caller(authority, authority.client("alice"))) == "nobody"

    run(main)


@BOTH_SERVERS
@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
def test_tls_04_revoked_certificates_are_refused(tmp_path: Path, kind: str, form: Encoding) -> None:
    """The list is read again when it changes, in both directions."""
    authority, server_pair = authority_in(tmp_path)
    alice, bob = authority.client("alice"), authority.client("bob")
    crl = authority.revoke(alice.serial, form=form)

    async def main() -> None:
        async with serving(settings(authority, server_pair, crl_file=str(crl)), kind) as server:
            assert await server.who(caller(authority, bob)) == "bob"
            await refusal_of(server, caller(authority, alice))
            authority.revoke(bob.serial, form=form)
            await refusal_of(server, caller(authority, bob))
            assert await server.who(caller(authority, alice)) == "alice"

    run(main)


def test_tls_04_an_intermediate_that_is_revoked_takes_all_with_it(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    below = authority.subordinate("below")
    alice = below.client("alice")
    write(alice.cert, alice.cert.read_bytes() + below.ca.read_bytes())
    crl = authority.revoke(1)

    async def main() -> None:
        async with serving(settings(authority, server_pair, crl_file=str(crl))) as server:
            assert await server.who(caller(authority, alice)) == "alice"
            authority.revoke(below.serial)
            await refusal_of(server, caller(authority, alice))

    run(main)


@BOTH_SERVERS
def test_tls_05_allowed_host_names(tmp_path: Path, kind: str) -> None:
    """Names in the certificate, with wildcards; its common name does not count."""
    authority, server_pair = authority_in(tmp_path)
    fits = [
        authority.issue(f"fit{number}", "x", names=[name], usages=(CLIENT_AUTH,))
        for number, name in enumerate(("one.example", "*.two.example", "10.0.0.9"))
    ]
    misfits = [
        authority.issue("cn-only", "one.example", names=(), usages=(CLIENT_AUTH,)),
        authority.issue("deeper", "x", names=["*.b.two.example", "10.0.0.90"], usages=(CLIENT_AUTH,)),
    ]
    allowed = ("one.example", "a.two.example", "10.0.0.9")

    async def main() -> None:
        async with serving(settings(authority, server_pair, allowed_hostnames=allowed), kind) as server:
            for pair in fits:
                assert await server.who(caller(authority, pair)) == "x"
            for pair in misfits:
                await refusal_of(server, caller(authority, pair))

    run(main)


def test_tls_05_allowed_common_names_hold_in_both_directions(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    m2, m3 = authority.client("m2"), authority.client("m3")

    async def main() -> None:
        async with serving(settings(authority, server_pair, allowed_cns=("m1", "m2"))) as server:
            assert await server.who(caller(authority, m2)) == "m2"
            await refusal_of(server, caller(authority, m3))
            assert await server.who(caller(authority, m2, allowed_cns=("server",))) == "m2"
            text = await refusal_of(server, caller(authority, m2, allowed_cns=("m1",)))
            assert text.endswith("TLS: the certificate's common name 'server' is not among those allowed")

    run(main)


@pytest.mark.parametrize(
    ("names", "let_in"),
    [
        (["127.0.0.1"], True),
        (["::ffff:127.0.0.1"], True),
        (["localhost"], True),
        (["10.9.8.7", "localhost"], True),
        ([], True),
        (["10.9.8.7"], False),
        (["no-such-host.invalid"], False),
        (["*.invalid"], False),
    ],
)
def test_tls_06_a_member_calls_from_an_address_that_its_certificate_names(
    tmp_path: Path, names: list[str], let_in: bool
) -> None:
    authority, server_pair = authority_in(tmp_path)
    pair = authority.issue("member", "m2", names=names)

    async def main() -> None:
        async with serving(settings(authority, server_pair, checks_address=True)) as server:
            if let_in:
                assert await server.who(caller(authority, pair)) == "m2"
            else:
                await refusal_of(server, caller(authority, pair))
            assert server.stats.tls_handshakes_failed == (not let_in)

    run(main)


def test_the_server_is_verified_too(tmp_path: Path) -> None:
    """By its CA and by its name; who skips that is connected to whoever answers."""
    authority, server_pair = authority_in(tmp_path)
    other = Authority(tmp_path / "other")

    async def main() -> None:
        async with serving(settings(authority, server_pair, wants_client_cert=False)) as server:
            assert "unable to get local issuer" in await refusal_of(server, caller(other))
            assert "Hostname mismatch" in await refusal_of(server, caller(authority), server_hostname="elsewhere")
            assert "TLS: " in await refusal_of(server, caller(authority), server_hostname=".nowhere")
            assert await server.who(caller(authority), server_hostname="localhost") == "nobody"
            assert await server.who(client_tls(TlsSettings(trusts_anybody=True)), server_hostname="x") == "nobody"

    run(main)


# --- what is spoken (H-03, H-05, TLS-07) ------------------------------------------------------------------------------


async def ask_page(server: Serving, context: ssl.SSLContext) -> tuple[str | None, bytes]:
    """What ALPN chose, and the answer to an HTTP/1.1 request."""
    reader, writer = await server.open(context)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return chosen, answer


def test_h_03_alpn_chooses_the_protocol(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    alice = authority.client("alice")

    async def main() -> None:
        async with serving(settings(authority, server_pair)) as server:
            for alpn, expected in (((), None), (("http/1.1",), "http/1.1"), (("spdy",), None)):
                chosen, answer = await ask_page(server, context_of(authority, alice, alpn))
                assert chosen == expected
                assert answer.startswith(b"HTTP/1.1 200")
                assert answer.endswith(b"page for alice")
            for start in (PREFACE, PREFACE[:5]):
                reader, writer = await server.open(context_of(authority, alice))
                writer.write(start + b"\r\n\r\n")
                assert not (await reader.read()).startswith(b"\x00")  # no SETTINGS: HTTP/2 has to be asked for
                writer.close()
            reader, writer = await server.open(context_of(authority, alice, ("http/1.1", "h2")))
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            # What was agreed upon holds: no HTTP/1 answer, but the GOAWAY for a broken preface.
            assert not (await reader.read()).startswith(b"HTTP/")
            assert server.stats.protocol_errors == 3
            writer.close()

    run(main)


def test_h_03_grpc_clients_of_others(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair)) as server:
            credentials = credentials_of(authority, authority.client("alice"))
            async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
                assert await channel.unary_unary(WHO.decode())(b"") == b"alice"
                body = bytes(range(256)) * 5000
                assert await channel.unary_unary(UNARY.decode())(body) == body

    run(main)


def test_h_05_the_first_byte_decides_where_both_are_served(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair), takes_plain=True) as server:
            assert await server.who(caller(authority, authority.client("alice"))) == "alice"
            async with server.channel(None) as channel:
                assert await channel.unary_future(WHO, b"", 5.0) == b"nobody"
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"page for None")
            writer.close()
            await until(lambda: server.listener.connections == 0)

    run(main)


def test_h_06_tls_on_a_unix_socket(tmp_path: Path) -> None:
    """It has no host name: the certificate is for localhost, or for whom the client expects."""
    authority, server_pair = authority_in(tmp_path)
    path = str(tmp_path / "socket")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(settings(authority, server_pair, checks_address=True)) as server:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            await server.listener.start(sock, server.tls)
            member = authority.issue("member", "m2", names=["10.9.8.7"])
            channel = Channel(loop, "", 0, path=path, tls=caller(authority, member))
            assert await channel.unary_future(WHO, b"", 5.0) == b"m2"  # from no address: nothing to compare (TLS-06)
            channel.close()
            other = Channel(loop, "", 0, path=path, tls=caller(authority, member), server_hostname="elsewhere")
            with pytest.raises(RpcError, match=f"connecting to {path}: TLS: Hostname mismatch"):
                await other.unary_future(WHO, b"", 5.0)
            other.close()

    run(main)


def test_plain_text_gets_nothing_on_a_tls_port(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair)) as server:
            for start in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE, b"\x16", bytes(3000)):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(start)
                writer.write_eof()
                answer = await reader.read()
                assert not answer.startswith((b"HTTP/", b"\x00"))
                writer.close()
            await until(lambda: server.stats.tls_handshakes_failed == 4)
            assert server.stats.connections_accepted == 0

    run(main)


def test_tls_07_versions(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    cases = [
        ({}, "TLS1.2", "TLS1.2", "TLSv1.2"),
        ({}, "TLS1.3", "TLS1.3", "TLSv1.3"),
        ({"min_version": "TLS1.3"}, "TLS1.2", "TLS1.2", None),
        ({"max_version": "TLS1.2"}, "TLS1.2", "TLS1.3", "TLSv1.2"),
        ({"max_version": "TLS1.2"}, "TLS1.3", "TLS1.3", None),
    ]
    versions = {"TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}

    async def main() -> None:
        for more, oldest, newest, expected in cases:
            async with serving(settings(authority, server_pair, wants_client_cert=False, **more)) as server:
                context = context_of(authority)
                context.minimum_version, context.maximum_version = versions[oldest], versions[newest]
                if expected is None:
                    with pytest.raises(ssl.SSLError):
                        await server.open(context)
                    continue
                _, writer = await server.open(context)
                assert writer.get_extra_info("ssl_object").version() == expected
                writer.close()

    run(main)


def test_tls_07_nothing_older_than_1_2(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    tls = server_tls(settings(authority, server_pair))
    assert tls.loaded.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_tls_07_cipher_suites(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"

    async def main() -> None:
        more: dict[str, Any] = {"wants_client_cert": False, "cipher_suites": (suite, "TLS_AES_128_GCM_SHA256")}
        async with serving(settings(authority, server_pair, **more)) as server:
            context = context_of(authority)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            _, writer = await server.open(context)
            assert writer.get_extra_info("ssl_object").cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
            writer.close()
            context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
            with pytest.raises(ssl.SSLError):
                await server.open(context)

    run(main)


# --- files that change (TLS-02) ---------------------------------------------------------------------------------------


async def serial_of(server: Serving, authority: Authority, pair: Pair | None) -> int:
    _, writer = await server.open(context_of(authority, pair))
    certificate: dict[str, Any] = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return int(certificate["serialNumber"], 16)


def test_tls_02_a_new_certificate_is_shown_at_the_next_handshake(tmp_path: Path) -> None:
    """Connections that are there go on with the one they have seen."""
    authority, first = authority_in(tmp_path)
    alice = authority.client("alice")

    async def main() -> None:
        async with serving(settings(authority, first)) as server:
            assert await serial_of(server, authority, alice) == first.serial
            async with server.channel(caller(authority, alice)) as channel:
                await channel.unary_future(WHO, b"", 5.0)
                second = authority.server()
                assert await serial_of(server, authority, alice) == second.serial
                assert await channel.unary_future(WHO, b"", 5.0) == b"alice"
            assert (server.tls.loaded.serial, server.tls.reloads, server.tls.reload_failures) == (second.serial, 1, 0)

    run(main)


def test_tls_02_a_new_ca_is_trusted_and_the_old_no_more(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    other = Authority(tmp_path / "other")
    bundle = tmp_path / "bundle.pem"
    write(bundle, authority.ca.read_bytes())

    async def main() -> None:
        async with serving(settings(authority, server_pair, ca_file=str(bundle))) as server:
            old, new = authority.client("old"), other.client("new")
            await refusal_of(server, caller(authority, new))
            write(bundle, authority.ca.read_bytes() + other.ca.read_bytes())
            assert await server.who(caller(authority, new)) == "new"
            assert await server.who(caller(authority, old)) == "old"
            write(bundle, other.ca.read_bytes())
            await refusal_of(server, caller(authority, old))
            assert await server.who(caller(authority, new)) == "new"

    run(main)


def test_tls_02_a_client_shows_its_new_certificate_as_well(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair)) as server:
            tls = caller(authority, authority.issue("rotating", "before"))
            assert await server.who(tls) == "before"
            authority.issue("rotating", "after")
            assert await server.who(tls) == "after"

    run(main)


@BOTH_SERVERS
def test_tls_02_a_change_that_cannot_be_used_changes_nothing(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    authority, first = authority_in(tmp_path)
    whole = first.cert.read_bytes()

    async def main() -> None:
        async with serving(settings(authority, first), kind) as server:
            alice = caller(authority, authority.client("alice"))
            write(first.cert, whole[: len(whole) // 2])
            assert await server.who(alice) == "alice"
            first.cert.unlink()
            assert await server.who(alice) == "alice"
            assert server.tls.reload_failures == 2
            second = authority.server()
            assert await server.who(alice) == "alice"
            assert server.tls.loaded.serial == second.serial
            assert server.tls.reloads == 1

    with caplog.at_level(logging.ERROR):
        run(main)
    told = [record.__dict__["kv"] for record in caplog.records if record.levelno == logging.ERROR]
    assert [each["problem"].partition(str(first.cert))[2] for each in told] == [
        " holds no certificate in PEM form",
        " cannot be read: No such file or directory",
    ]
    assert all(each["hint"] for each in told)


def test_a_change_is_noticed_without_a_handshake(tmp_path: Path) -> None:
    """So that whoever has replaced a file hears of a mistake before the first client does."""
    authority, first = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, first)) as server:
            write(first.key, b"nonsense")
            await until(lambda: server.tls.reload_failures == 1)

    run(main)


def test_the_end_of_the_certificate_is_known(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    tls = server_tls(settings(authority, server_pair))
    assert tls.loaded.not_after_s is not None
    left_s = tls.loaded.not_after_s - datetime.datetime.now(datetime.UTC).timestamp()
    assert 86_000 < left_s <= 86_400
    assert client_tls(TlsSettings(ca_file=str(authority.ca))).loaded.not_after_s is None


def test_the_end_of_ca_certificates_and_of_the_revocation_list_is_known(tmp_path: Path) -> None:
    """Of a bundle, that of the first to end."""
    authority, server_pair = authority_in(tmp_path)
    tls = server_tls(settings(authority, server_pair, crl_file=str(authority.revoke())))
    ca = x509.load_pem_x509_certificate(authority.ca.read_bytes())
    list_ = x509.load_pem_x509_crl(authority.crl.read_bytes())
    assert list_.next_update_utc is not None
    assert tls.loaded.ca_not_after_s == ca.not_valid_after_utc.timestamp()
    assert tls.loaded.crl_next_update_s == list_.next_update_utc.timestamp()
    later = Authority(tmp_path / "later")
    bundle = tmp_path / "bundle.pem"
    write(bundle, later.ca.read_bytes() + authority.ca.read_bytes())
    tls = server_tls(settings(authority, server_pair, ca_file=str(bundle)))
    assert tls.loaded.ca_not_after_s == ca.not_valid_after_utc.timestamp()
    assert tls.loaded.crl_next_update_s is None
    assert client_tls(TlsSettings(trusts_anybody=True)).loaded.ca_not_after_s is None


# --- files that cannot be used (TLS-01) -------------------------------------------------------------------------------

Spoil = Callable[[Authority, Pair], dict[str, Any]]


def _without_key(authority: Authority, pair: Pair) -> dict[str, Any]:
    pair.key.unlink()
    return {}


def _with_other_key(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"key_file": str(authority.client("alice").key)}


def _with_passphrase(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"key_file": str(authority.issue("locked", password=b"secret").key)}


def _swapped(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"cert_file": str(pair.key), "key_file": str(pair.cert)}


def _key_is_certificate(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"key_file": str(pair.cert)}


def _ca_is_key(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"ca_file": str(pair.key)}


def _no_ca(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"ca_file": "/no/such/ca.pem"}


def _crl_is_ca(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"crl_file": str(authority.ca)}


def _crl_is_noise(authority: Authority, pair: Pair) -> dict[str, Any]:
    write(authority.crl, b"\x30noise")
    return {"crl_file": str(authority.crl)}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_without_key, "--key-file {key} cannot be read: No such file or directory"),
        (_with_other_key, "--key-file {other}/client-alice.key is not the key of --cert-file {cert}"),
        (_with_passphrase, "--key-file {other}/locked.key is encrypted, and nobody is there to type its passphrase"),
        (_swapped, "--cert-file {key} holds no certificate in PEM form"),
        (_key_is_certificate, "--key-file {cert} holds no private key in PEM form"),
        (_ca_is_key, "--trusted-ca-file {key} cannot be used"),
        (_no_ca, "--trusted-ca-file /no/such/ca.pem cannot be read: No such file or directory"),
        (_crl_is_ca, "--client-crl-file {ca} holds no revocation list"),
        (_crl_is_noise, "--client-crl-file {crl} holds no revocation list"),
    ],
)
def test_tls_01_what_is_wrong_with_a_file_is_said(tmp_path: Path, spoil: Spoil, problem: str) -> None:
    authority, pair = authority_in(tmp_path)
    more = spoil(authority, pair)
    with pytest.raises(TlsFilesError) as caught:
        server_tls(settings(authority, pair)._replace(**more))
    places = {
        "cert": pair.cert,
        "key": pair.key,
        "other": authority.directory,
        "ca": authority.ca,
        "crl": authority.crl,
    }
    assert caught.value.text.startswith(problem.format(**places))
    assert caught.value.hint


def test_tls_11_a_certificate_for_something_else_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, _ = authority_in(tmp_path)
    server_only = authority.issue("server-only", usages=(SERVER_AUTH,))
    server_tls(settings(authority, server_only, usages=("serverAuth",)))
    assert not caplog.records
    server_tls(settings(authority, server_only, usages=("serverAuth", "clientAuth")))
    (record,) = caplog.records
    assert record.__dict__["kv"]["missing"] == "clientAuth"


def test_an_expired_certificate_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, _ = authority_in(tmp_path)
    server_tls(settings(authority, authority.server("old", valid=EXPIRED)))
    assert [record.getMessage() for record in caplog.records] == ["the certificate has expired; others will refuse it"]


# --- connections that do not go as they should (TLS-10) ---------------------------------------------------------------


def test_tls_10_slow_handshakes_end_and_disturb_nobody(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)
    limits = LIMITS._replace(handshake_timeout_s=0.5)

    async def main() -> None:
        async with serving(settings(authority, server_pair), limits=limits) as server:
            slow = []
            for start in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
                slow.append(await asyncio.open_connection("127.0.0.1", server.port))
                slow[-1][1].write(start)
            await until(lambda: server.listener.connections == 3)
            assert await server.who(caller(authority, authority.client("alice"))) == "alice"
            for reader, writer in slow:
                assert await reader.read() == b""
                writer.close()
            assert server.stats.handshake_timeouts == 3
            # The one that never said anything may have been a look whether the port is open.
            assert server.stats.tls_handshakes_failed == 2
            await until(lambda: server.listener.connections == 0)

    run(main)


def test_connections_in_a_handshake_count(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair), limits=LIMITS._replace(max_connections=2)) as server:
            waiting = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
            await until(lambda: server.listener.connections == 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            assert server.stats.connections_refused == 1
            for _, each in waiting:
                each.close()
            await until(lambda: server.listener.connections == 0)
            assert await server.who(caller(authority, authority.client("alice"))) == "alice"

    run(main)


def test_broken_records_end_their_connection_only(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair, wants_client_cert=False)) as server:
            async with server.channel(caller(authority)) as channel:
                await channel.unary_future(WHO, b"", 5.0)
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                await _shake_hands_by_hand(reader, writer, context_of(authority))
                writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))
                await reader.read()
                writer.close()
                assert await channel.unary_future(WHO, b"", 5.0) == b"nobody"
            await until(lambda: server.listener.connections == 0)

    run(main)


async def _shake_hands_by_hand(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
        else:
            writer.write(outgoing.read())
            return


# --- the rest of a connection's life ----------------------------------------------------------------------------------


def test_large_messages_and_a_reader_that_takes_its_time(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        tls = settings(authority, server_pair, wants_client_cert=False)
        async with serving(tls) as server, server.channel(caller(authority)) as channel:
            size = 20_000_000
            answers = [channel.unary_future(b"/test.Echo/Size", b"%d" % size, 20.0) for _ in range(2)]
            body = bytes(range(256)) * 6000
            assert await channel.unary_future(UNARY, body, 20.0) == body
            assert [len(each) for each in await asyncio.gather(*answers)] == [size, size]

    run(main)


def test_draining_says_goaway_answers_and_says_goodbye(tmp_path: Path) -> None:
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair, wants_client_cert=False)) as server:
            idle = await asyncio.open_connection("127.0.0.1", server.port)
            async with server.channel(caller(authority)) as channel:
                held = channel.unary_future(b"/test.Echo/Hold", b"x", 10.0)
                await until(lambda: bool(server.service.held))
                drained = server.listener.drain()
                await until(lambda: channel.stats.goaways_received > 0)
                assert not held.done()
                call, message = server.service.held.pop()
                call.reply(message)
                assert await held == b"x"
                await drained
            assert await idle[0].read() == b""
            idle[1].close()

    run(main)


def test_the_end_is_said_so_that_nobody_can_cut_an_answer_short(tmp_path: Path) -> None:
    """close_notify, which tells the end of an answer from a connection that was cut."""
    authority, server_pair = authority_in(tmp_path)

    async def main() -> None:
        async with serving(settings(authority, server_pair, wants_client_cert=False)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                session.do_handshake()
            writer.write(outgoing.read())
            while True:
                incoming.write(await reader.read(65536))
                try:
                    session.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    continue
            session.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            writer.write(outgoing.read())
            incoming.write(await reader.read())
            answer = b""
            while piece := session.read():  # the empty piece is the goodbye; without it this raises
                answer += piece
            assert answer.endswith(b"page for None")
            writer.close()

    run(main)

"""TLS on the client port of a real member: certificates, who may come, and who somebody is by a certificate."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from contract_auth import BOTH, DENIED, USER_EMPTY, USER_NOT_FOUND, Admin, saying
from contract_support import Client, Code, refused
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.certificates import Authority, Pair
from helpers.etcd_tools import ToolMissingError, etcdctl
from helpers.processes import Program, Server, ServerNotServingError, free_port
from helpers.secure import SecureServer, credentials, ctl_flags
from helpers.waiting import wait_until

NewServer = Callable[..., SecureServer]
TIMEOUT_S: Final = 20.0


@pytest.fixture(params=["native", "grpcio"])
def kind(request: pytest.FixtureRequest, subject_program: Program) -> list[str]:
    """Flags for each of the RPC servers in turn."""
    if subject_program.kind == "etcd":
        if request.param == "grpcio":
            pytest.skip("the real etcd has one RPC server")
        return []
    return [f"--rpc-server={request.param}"]


@pytest.fixture
def new_server(subject_program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewServer]:
    """`new_server("--flag=x")`: a TLS server of the test's own, not started."""
    with ExitStack() as stack:

        def make(*flags: str, admin: str = "admin") -> SecureServer:
            server = SecureServer(subject_program, tmp_path_factory.mktemp("tls"), flags, admin)
            stack.callback(server.stop)
            return server

        yield make


class Callers:
    """Clients of one server, each with a certificate of its own."""

    def __init__(self, server: SecureServer) -> None:
        self._server = server
        self._stack = ExitStack()

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def known_as(self, name: str) -> Client:
        return self.with_pair(self._server.authority.client(name))

    def with_pair(self, pair: Pair | None, authority: Authority | None = None) -> Client:
        """`authority`: whom the client trusts; None: the server's."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        secured = credentials(authority or self._server.authority, pair)
        channel = grpc.secure_channel(self._server.endpoint, secured, options)
        return Client(self._stack.enter_context(channel))


def is_kept_out(client: Client) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        client.range(b"any")
    error: Any = caught.value
    return error.code() in (Code.UNAVAILABLE, Code.UNAUTHENTICATED)


# --- who may come -----------------------------------------------------------------------------------------------------


def test_tls_03_only_clients_with_a_certificate_of_the_ca(
    kind: list[str], new_server: NewServer, tmp_path: Path
) -> None:
    server = new_server(*kind).start()
    stranger = Authority(tmp_path).client("admin")
    with Callers(server) as callers:
        callers.known_as("anybody").put(b"k", b"v")
        for pair in (None, stranger):
            assert is_kept_out(callers.with_pair(pair))
        assert callers.known_as("other").only(b"k").value == b"v"


def test_tls_04_revoked_certificates_are_refused(kind: list[str], new_server: NewServer) -> None:
    server = new_server(*kind)
    lost, kept = server.authority.client("lost"), server.authority.client("kept")
    crl = server.authority.revoke(lost.serial)
    server.start_with(f"--client-crl-file={crl}")
    with Callers(server) as callers:
        callers.with_pair(kept).put(b"k")
        assert is_kept_out(callers.with_pair(lost))
        server.authority.revoke(kept.serial)
        assert is_kept_out(callers.with_pair(kept))
        callers.with_pair(lost).put(b"k")


def test_tls_05_allowed_host_names(kind: list[str], new_server: NewServer) -> None:
    server = new_server(*kind, "--client-cert-allowed-hostname=good.example")
    server.become(server.authority.issue("admin", "admin", names=["good.example"]))
    server.start()
    with Callers(server) as callers:
        callers.with_pair(server.admin).put(b"k")
        assert is_kept_out(callers.with_pair(server.authority.issue("bad", "good.example", names=["bad.example"])))


@pytest.mark.parametrize("version", ["3.5.1", "3.4"])
def test_etcdctl(new_server: NewServer, tmp_path: Path, version: str) -> None:
    server = new_server().start()
    try:
        tool = etcdctl(version, tmp_path)
    except ToolMissingError as error:
        pytest.skip(str(error))

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(tool.path), f"--endpoints=https://{server.endpoint}", "--command-timeout=5s", *words]
        environment = {"ETCDCTL_API": "3"}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    with_pair, without = ctl_flags(server.authority, server.admin), ctl_flags(server.authority)
    assert ctl(*with_pair, "put", "a", "1").stdout == "OK\n"
    assert ctl(*with_pair, "get", "a").stdout == "a\n1\n"
    health = ctl(*with_pair, "endpoint", "health")
    assert "is healthy" in health.stdout + health.stderr  # 3.5.1 says it on the other of the two
    assert ctl(*without, "get", "a").returncode != 0
    assert ctl("--insecure-skip-tls-verify", *with_pair[1:], "get", "a").stdout == "a\n1\n"


# --- who somebody is (AU-60 to AU-63) ---------------------------------------------------------------------------------


def test_au_60_the_common_name_is_the_user(kind: list[str], new_server: NewServer) -> None:
    """And a token says better who calls (AU-61); a name that is no user's has no rights (AU-63)."""
    server = new_server(*kind, "--bcrypt-cost=4", admin="root").start()
    with Callers(server) as callers:
        root = callers.known_as("root")
        admin = Admin(root)
        admin.add_user("root", "secret")
        admin.grant_role("root", "root")
        admin.add_user("alice", "pass")
        admin.add_role("alices")
        admin.permit("alices", BOTH, b"a", b"b")
        admin.grant_role("alice", "alices")
        admin.enable()
        alice, stranger = callers.known_as("alice"), callers.known_as("mallory")
        root.put(b"elsewhere", b"1")
        alice.put(b"a1", b"1")
        with refused(DENIED):
            alice.put(b"elsewhere", b"2")
        with refused(DENIED):
            stranger.put(b"a1", b"2")
        with refused(USER_NOT_FOUND), Callers(server) as others:
            Admin(others.known_as("mallory")).add_role("theirs")

        token = Admin(alice).token("root", "secret")
        saying(alice, ("token", token)).put(b"elsewhere", b"3")
        token = Admin(root).token("alice", "pass")
        with refused(DENIED):
            saying(root, ("token", token)).put(b"elsewhere", b"4")

        # What comes through the JSON gateway has the gateway's certificate, if any (AU-62, G-25).
        with refused(USER_EMPTY):
            saying(root, ("grpcgateway-accept", "application/json")).put(b"elsewhere", b"5")
        assert root.only(b"elsewhere").value == b"3"


def test_au_60_not_without_client_cert_auth(new_server: NewServer) -> None:
    """--trusted-ca-file asks for certificates too, and yet they name nobody."""
    server = new_server("--bcrypt-cost=4", "--client-cert-auth=false", admin="root").start()
    with Callers(server) as callers:
        root = callers.known_as("root")
        admin = Admin(root)
        admin.add_user("root", "secret")
        admin.grant_role("root", "root")
        admin.enable()
        with refused(USER_EMPTY):
            root.put(b"k")


# --- files ------------------------------------------------------------------------------------------------------------


def shown_serial(server: SecureServer, port: int | None = None) -> int:
    context = ssl.create_default_context(cafile=str(server.authority.ca))
    context.load_cert_chain(server.admin.cert, server.admin.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port or server.client_port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        certificate: dict[str, Any] = sock.getpeercert() or {}
        return int(certificate["serialNumber"], 16)


def test_tls_02_a_renewed_certificate_needs_no_restart(kind: list[str], new_server: NewServer) -> None:
    server = new_server(*kind).start()
    with Callers(server) as callers:
        client = callers.known_as("anybody")
        client.put(b"k")
        assert shown_serial(server) == server.pair.serial
        renewed = server.authority.server()
        assert renewed.serial != server.pair.serial
        assert shown_serial(server) == renewed.serial
        client.put(b"k")


def start_problem(server: Server) -> str:
    """What a member that cannot start says last; its exit code is 1."""
    with pytest.raises(ServerNotServingError):
        server.start()
    assert server.wait_exit() == 1
    return server.log_text()


def test_tls_01_https_needs_a_certificate(subject_program: Program, tmp_path: Path) -> None:
    server = Server(subject_program, tmp_path)
    server.client_url = f"https://{server.endpoint}"
    text = start_problem(server)
    if subject_program.kind == "raftkv":
        assert f"{server.client_url} is to be served over TLS, but there is no certificate" in text
        assert "Give --cert-file and --key-file, or --auto-tls." in text


def test_tls_01_files_that_do_not_fit(new_server: NewServer, subject_program: Program) -> None:
    server = new_server()
    server.pair.key.write_bytes(server.admin.key.read_bytes())
    text = start_problem(server)
    if subject_program.kind == "raftkv":
        assert f"--key-file {server.pair.key} is not the key of --cert-file {server.pair.cert}" in text
        assert not server.data_dir.exists()


def test_tls_01_files_for_http_are_ignored(subject_program: Program, tmp_path: Path) -> None:
    server = Server(subject_program, tmp_path, ["--cert-file=/no/such", "--key-file=/no/such"])
    try:
        server.start()
        if subject_program.kind == "raftkv":
            assert "TLS settings are ignored, no listen URL is https" in server.log_text()
    finally:
        server.stop()


def test_tls_08_a_certificate_of_ones_own(subject_program: Program, tmp_path: Path) -> None:
    """Made once, and kept; P-521, for the hosts that are listened on, for as many years as was said."""
    server = Server(subject_program, tmp_path, ["--auto-tls", "--self-signed-cert-validity=3"])
    server.client_url = f"https://{server.endpoint}"
    made = server.data_dir / "fixtures" / "client"
    try:
        server.spawn()
        wait_until("the certificate is made", lambda: (made / "cert.pem").exists() and (made / "key.pem").exists())
        wait_until("it is shown", lambda: fetched_pem(server))
        pem = (made / "cert.pem").read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp521r1"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert x509.oid.ExtendedKeyUsageOID.SERVER_AUTH in usages
        days = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days
        assert 3 * 365 <= days <= 3 * 366
        assert (made / "key.pem").stat().st_mode & 0o077 == 0
        assert fetched_pem(server) == certificate
        server.terminate()
        server.spawn()
        assert wait_until("it is shown again", lambda: fetched_pem(server)) == certificate
    finally:
        server.stop()


def fetched_pem(server: Server) -> x509.Certificate | None:
    """What the server shows; None while it does not answer."""
    try:
        return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", server.client_port)).encode())
    except OSError:
        return None


# --- where ------------------------------------------------------------------------------------------------------------


def get(server: SecureServer, path: str, port: int | None = None) -> tuple[int, bytes]:
    """Over TLS and HTTP/1.1, without ALPN (H-03)."""
    context = ssl.create_default_context(cafile=str(server.authority.ca))
    context.load_cert_chain(server.admin.cert, server.admin.key)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", port or server.client_port, timeout=TIMEOUT_S, context=context
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_h_03_pages_and_grpc_on_one_tls_port(new_server: NewServer) -> None:
    server = new_server().start()
    status, body = get(server, "/health")
    assert (status, body[:16]) == (200, b'{"health":"true"')
    with Callers(server) as callers:
        callers.known_as("anybody").put(b"k")


@pytest.mark.beyond_etcd("3.5.1 resets plain gRPC of newer clients on such a port")
def test_h_05_http_and_https_on_one_port(new_server: NewServer) -> None:
    """Both the first byte and the certificate decide: plain text asks for none."""
    server = new_server()
    server.client_url = f"http://{server.endpoint},https://{server.endpoint}"
    server.start()
    with Callers(server) as callers, grpc.insecure_channel(server.endpoint) as plain:
        callers.known_as("anybody").put(b"k", b"v")
        assert Client(plain).only(b"k").value == b"v"
        assert is_kept_out(callers.with_pair(None))
        assert get(server, "/version")[0] == 200
        urls = callers.known_as("anybody").members().members[0].clientURLs
        assert sorted(urls) == [f"http://{server.endpoint}", f"https://{server.endpoint}"]


def test_h_06_tls_on_a_unix_socket(new_server: NewServer) -> None:
    server = new_server()
    path = f"localhost:{server.client_port}"
    server.client_url = f"https://{server.endpoint},unixs://{path}"
    server.start()
    options = [("grpc.ssl_target_name_override", "localhost")]
    secured = credentials(server.authority, server.admin)
    with grpc.secure_channel(f"unix:{server.log_path.parent / path}", secured, options) as channel:
        Client(channel).put(b"k", b"v")
        assert Client(channel).only(b"k").value == b"v"


def test_h_08_probes_over_tls(new_server: NewServer) -> None:
    port = free_port()
    server = new_server(f"--listen-metrics-urls=https://127.0.0.1:{port}").start()
    assert get(server, "/health", port)[0] == 200
    assert shown_serial(server, port) == server.pair.serial


def test_h_09_the_host_check_is_for_plain_text(new_server: NewServer) -> None:
    server = new_server("--host-whitelist=only.example")
    server.client_url = f"http://{server.endpoint},https://{server.endpoint}"
    server.start()
    assert get(server, "/health")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        assert connection.getresponse().status == 421
    finally:
        connection.close()


@pytest.mark.beyond_etcd("3.5.1 has no --tls-min-version")
def test_tls_07_the_oldest_version(new_server: NewServer) -> None:
    server = new_server("--tls-min-version=TLS1.3").start()
    context = ssl.create_default_context(cafile=str(server.authority.ca))
    context.load_cert_chain(server.admin.cert, server.admin.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", server.client_port), TIMEOUT_S) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert shown_serial(server) == server.pair.serial


def test_a_stop_ends_watches_as_in_plain_text(new_server: NewServer) -> None:
    server = new_server().start()
    with Callers(server) as callers:
        client = callers.known_as("anybody")
        with client.watch() as watch:
            watch.create(b"k")
            client.put(b"k", b"v")
            assert watch.events(1)[0].kv.value == b"v"
            server.terminate()
            with pytest.raises(grpc.RpcError) as caught:
                watch.next()
    error: Any = caught.value
    assert error.code() is Code.UNAVAILABLE

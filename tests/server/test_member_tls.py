"""Which settings make which side of a member's TLS, and the certificates it makes for itself."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest
from cryptography import x509
from helpers.certificates import Authority, Pair

from raftkv.config import Config, StartError, load
from raftkv.server.self_signed import keep_self_signed, make_self_signed
from raftkv.server.tls import MemberTls, load_tls

HTTPS_PEERS = (
    "--listen-peer-urls=https://127.0.0.1:2380",
    "--initial-advertise-peer-urls=https://127.0.0.1:2380",
    "--initial-cluster=default=https://127.0.0.1:2380",
)
HTTPS_CLIENTS = ("--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379")


def files(pair: Pair, side: str = "") -> tuple[str, str]:
    return f"--{side}cert-file={pair.cert}", f"--{side}key-file={pair.key}"


def settings(tmp_path: Path, *flags: str) -> Config:
    return load([f"--data-dir={tmp_path / 'data'}", *flags], {})


def test_plain_text_needs_nothing(tmp_path: Path) -> None:
    assert load_tls(settings(tmp_path)) == MemberTls(None, None, None)


def test_f_68_files_that_nothing_needs_are_not_even_read(tmp_path: Path) -> None:
    tls = load_tls(settings(tmp_path, "--cert-file=/no/such", "--key-file=/no/such", "--client-cert-auth"))
    assert tls.clients is None


@pytest.mark.parametrize(
    "urls",
    [
        HTTPS_CLIENTS,
        ("--listen-metrics-urls=https://127.0.0.1:2381",),
        ("--listen-client-http-urls=https://127.0.0.1:2382",),
        ("--listen-client-urls=unixs:///run/x,http://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1"),
    ],
)
def test_whatever_url_of_clients_is_secure_takes_their_files(tmp_path: Path, urls: tuple[str, ...]) -> None:
    """H-08 and H-06 as well."""
    pair = Authority(tmp_path).server()
    tls = load_tls(settings(tmp_path, *urls, *files(pair)))
    assert tls.clients is not None
    assert (tls.clients.loaded.serial, tls.peers, tls.to_peers) == (pair.serial, None, None)
    assert tls.clients.settings.alpn == ("h2", "http/1.1")
    assert not tls.clients.settings.wants_client_cert


@pytest.mark.parametrize("flag", ["--trusted-ca-file={ca}", "--client-cert-auth"])
def test_tls_03_either_setting_asks_for_certificates(tmp_path: Path, flag: str) -> None:
    authority = Authority(tmp_path)
    tls = load_tls(settings(tmp_path, *HTTPS_CLIENTS, *files(authority.server()), flag.format(ca=authority.ca)))
    assert tls.clients is not None
    assert tls.clients.settings.wants_client_cert
    peers = f"--peer-{flag[2:].format(ca=authority.ca)}"
    tls = load_tls(settings(tmp_path, *HTTPS_PEERS, *files(authority.server(), "peer-"), peers))
    assert tls.peers is not None
    assert tls.peers.settings.wants_client_cert


def test_tls_06_addresses_are_checked_among_members_alone(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server()
    both = (*HTTPS_CLIENTS, *files(pair), *HTTPS_PEERS, *files(pair, "peer-"))
    tls = load_tls(settings(tmp_path, *both))
    assert tls.clients is not None
    assert tls.peers is not None
    assert (tls.clients.settings.checks_address, tls.peers.settings.checks_address) == (False, True)
    for flag in ("--peer-skip-client-san-verification", "--experimental-peer-skip-client-san-verification"):
        tls = load_tls(settings(tmp_path, *both, flag))
        assert tls.peers is not None
        assert not tls.peers.settings.checks_address


def test_tls_09_a_certificate_of_its_own_for_calling(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown, own = authority.server(), authority.client("m1")
    common = (*HTTPS_PEERS, *files(shown, "peer-"), f"--peer-trusted-ca-file={authority.ca}")
    tls = load_tls(settings(tmp_path, *common))
    assert tls.to_peers is not None
    assert tls.to_peers.loaded.serial == shown.serial
    tls = load_tls(settings(tmp_path, *common, *files(own, "peer-client-")))
    assert tls.to_peers is not None
    assert tls.peers is not None
    assert (tls.to_peers.loaded.serial, tls.peers.loaded.serial) == (own.serial, shown.serial)
    assert not tls.to_peers.settings.trusts_anybody
    own.key.write_bytes(shown.key.read_bytes())
    with pytest.raises(StartError, match=r"--peer-client-key-file .* is not the key of --peer-client-cert-file"):
        load_tls(settings(tmp_path, *common, *files(own, "peer-client-")))


def test_a_member_that_listens_in_plain_text_can_call_others_over_tls(tmp_path: Path) -> None:
    """While a cluster goes over to TLS, one member after the other."""
    authority = Authority(tmp_path)
    tls = load_tls(settings(tmp_path, f"--peer-trusted-ca-file={authority.ca}"))
    assert tls.peers is None
    assert tls.to_peers is not None
    mixed = "--initial-cluster=default=http://localhost:2380,b=https://b:2380"
    assert load_tls(settings(tmp_path, mixed)).to_peers is not None


def test_files_of_peers_that_may_never_be_needed_do_not_stop_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_tls(settings(tmp_path, "--peer-trusted-ca-file=/no/such")).to_peers is None
    assert [record.getMessage() for record in caplog.records] == ["TLS settings for other members cannot be used"]


@pytest.mark.parametrize(
    ("urls", "flags", "problem"),
    [
        (HTTPS_CLIENTS, ("--cert-file=/x", "--key-file=/y"), "--cert-file /x cannot be read: No such file or"),
        (HTTPS_PEERS, ("--peer-cert-file=/x", "--peer-key-file=/y"), "--peer-cert-file /x cannot be read: No such"),
    ],
)
def test_tls_01_files_that_cannot_be_used(
    tmp_path: Path, urls: tuple[str, ...], flags: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(StartError) as caught:
        load_tls(settings(tmp_path, *urls, *flags))
    assert caught.value.text.startswith(problem)
    assert (caught.value.hint, caught.value.exit_code) == ("Name a file that this user may read", 1)


# --- certificates of one's own (TLS-08) -------------------------------------------------------------------------------


def test_tls_08_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    config = settings(tmp_path, *HTTPS_CLIENTS, "--auto-tls", *HTTPS_PEERS, "--peer-auto-tls")
    first, second = load_tls(config), load_tls(config)
    for side in ("client", "peer"):
        assert sorted(each.name for each in (config.data_dir / "fixtures" / side).iterdir()) == ["cert.pem", "key.pem"]
    assert first.clients is not None
    assert first.peers is not None
    assert first.to_peers is not None
    assert second.clients is not None
    assert second.clients.loaded.serial == first.clients.loaded.serial
    assert first.to_peers.loaded.serial == first.peers.loaded.serial != first.clients.loaded.serial
    # As in etcd: a certificate that nobody signed cannot be verified by the others.
    assert first.to_peers.settings.trusts_anybody


def test_tls_08_files_that_are_given_come_first(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server()
    config = settings(tmp_path, *HTTPS_PEERS, "--peer-auto-tls", *files(pair, "peer-"))
    tls = load_tls(config)
    assert tls.to_peers is not None
    assert (tls.to_peers.loaded.serial, tls.to_peers.settings.trusts_anybody) == (pair.serial, False)
    assert not config.data_dir.exists()


def test_tls_08_names_and_years() -> None:
    pem, _ = make_self_signed(["10.0.0.1", "::1", "localhost"], 2)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert 729 <= left.days <= 730


def test_tls_08_one_that_has_expired_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = keep_self_signed(tmp_path / "fixtures", ["localhost"], 0)
    expired = Path(cert).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert keep_self_signed(tmp_path / "fixtures", ["localhost"], 1) == (cert, key)
    assert Path(cert).read_bytes() != expired
    assert [record.getMessage() for record in caplog.records] == [
        "the self-signed certificate has expired; another one is made"
    ]


def test_tls_08_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"a file")
    with pytest.raises(StartError, match="--auto-tls: a certificate cannot be kept in"):
        load_tls(settings(tmp_path, *HTTPS_CLIENTS, "--auto-tls"))

"""The first start: F-65, F-70; and the word to systemd, F-09."""

import socket
from pathlib import Path

import pytest

from raftkv.config import Config, ConfigError, load
from raftkv.config.bootstrap import resolve, verify_bootstrap
from raftkv.config.systemd import READY, notify

ADDRESSES = {
    "db1.example": frozenset({"10.0.0.1", "fd00::1"}),
    "10.0.0.1": frozenset({"10.0.0.1"}),
    "10.0.0.2": frozenset({"10.0.0.2"}),
}


def resolver(host: str) -> frozenset[str]:
    return ADDRESSES.get(host, frozenset())


def config(members: str, advertised: str) -> Config:
    argv = ["--name=a", f"--initial-cluster={members}", f"--initial-advertise-peer-urls={advertised}"]
    return load(argv, {}, unsupported={})


@pytest.mark.parametrize(
    ("members", "advertised"),
    [
        ("a=http://h:1", "http://h:1"),
        ("a=http://h:1,b=http://i:1,a=http://g:1", "http://g:1,http://h:1"),
        ("a=http://db1.example:1", "http://10.0.0.1:1"),
        ("a=http://10.0.0.1:1,a=http://10.0.0.2:1", "http://10.0.0.2:1,http://db1.example:1"),
    ],
)
def test_cluster_agrees_with_the_member(members: str, advertised: str) -> None:
    """F-65."""
    verify_bootstrap(config(members, advertised), resolver)


@pytest.mark.parametrize(
    ("members", "advertised"),
    [
        ("a=http://h:1", "http://h:2"),
        ("a=http://h:1", "https://h:1"),
        ("a=http://10.0.0.2:1", "http://db1.example:1"),
        ("a=http://10.0.0.1:1,a=http://10.0.0.2:1", "http://10.0.0.1:1"),
        ("a=http://unknown1:1", "http://unknown2:1"),
        ("a=unix://x", "unix://y"),
    ],
)
def test_cluster_contradicts_the_member(members: str, advertised: str) -> None:
    """F-65."""
    with pytest.raises(ConfigError, match="--initial-cluster gives member 'a' the URLs"):
        verify_bootstrap(config(members, advertised), resolver)


def test_cluster_does_not_name_the_member() -> None:
    """F-65."""
    with pytest.raises(ConfigError) as caught:
        verify_bootstrap(config("b=http://h:1,c=http://i:1", "http://h:1"), resolver)
    assert caught.value.text == "--initial-cluster names b, c, but not this member, 'a'"


def test_members_from_discovery_are_not_checked() -> None:
    verify_bootstrap(load(["--discovery-srv=example.org"], {}, unsupported={}), resolver)


def test_resolving() -> None:
    assert resolve("127.0.0.1") == {"127.0.0.1"}
    assert resolve("no such name") == frozenset()


def test_data_means_a_log_segment(tmp_path: Path) -> None:
    """F-70: an empty mount point, even with its lost+found, is no data."""
    member = load([f"--data-dir={tmp_path}"], {})
    assert not member.has_data()
    (member.wal_dir / "lost+found").mkdir(parents=True)
    assert not member.has_data()
    (member.wal_dir / "0000000000000000-0000000000000000.wal").touch()
    assert member.has_data()


def test_systemd_is_told(tmp_path: Path) -> None:
    """F-09."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = str(tmp_path / "notify")
        systemd.bind(path)
        systemd.settimeout(5)
        assert notify(READY, {"NOTIFY_SOCKET": path})
        assert systemd.recv(100) == b"READY=1"


def test_systemd_with_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # The kernel picks an abstract name.
        systemd.settimeout(5)
        name = systemd.getsockname().decode().replace("\0", "@", 1)
        assert notify(READY, {"NOTIFY_SOCKET": name})
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}, {"NOTIFY_SOCKET": "x"}]
)
def test_nobody_to_tell(environ: dict[str, str]) -> None:
    assert not notify(READY, environ)

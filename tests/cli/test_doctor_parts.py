"""What `raftkv doctor` finds out about volumes and networks, and how it judges."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.certificates import Authority

from raftkv.cli import doctor_disk, doctor_network
from raftkv.cli.doctor_disk import Timing
from raftkv.cli.doctor_latency import Finding, Latencies, milliseconds
from raftkv.cli.doctor_network import NoAnswer, RoundTrips
from raftkv.cli.doctor_volume import Mount, Volume, find_mount, volume_of
from raftkv.config.urls import Url
from raftkv.rpc.tls import TlsSettings, client_tls

FAST = Latencies(20_000, 0.000_15, 0.000_3, 0.002, 0.011)


def test_percentiles_by_nearest_rank() -> None:
    assert Latencies.of([0.3, 0.1, 0.2]) == Latencies(3, 0.2, 0.3, 0.3, 0.3)
    assert Latencies.of([each / 1000 for each in range(1, 1001)]) == Latencies(1000, 0.5, 0.9, 0.99, 1.0)
    assert Latencies.of([0.5]) == Latencies(1, 0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000_153, "0.153 ms"), (0.002_41, "2.41 ms"), (0.0118, "11.8 ms"), (1.2, "1200 ms")]
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


# --- volumes ----------------------------------------------------------------------------------------------------------

MOUNTS = [
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro",
    "23 22 0:21 / /proc rw - proc proc rw",
    "24 22 8:1 / /var/lib rw,noatime shared:2 master:1 - xfs /dev/sda1 rw,nobarrier",
    "25 24 0:40 / /var/lib/raftkv rw - tmpfs tmpfs rw,size=1g",
    "26 22 0:41 / /mnt/with\\040blank rw - nfs4 server:/export rw",
    "27 22 8:2 / /twice rw - ext4 /dev/sda2 rw",
    "28 27 8:3 / /twice rw - xfs /dev/sda3 rw",
]


@pytest.mark.parametrize(
    ("path", "filesystem", "source"),
    [
        ("/", "ext4", "/dev/vda"),
        ("/home", "ext4", "/dev/vda"),
        ("/var/lib/other", "xfs", "/dev/sda1"),
        ("/var/library", "ext4", "/dev/vda"),
        ("/var/lib/raftkv/member", "tmpfs", "tmpfs"),
        ("/mnt/with blank", "nfs4", "server:/export"),
        ("/twice/x", "xfs", "/dev/sda3"),
    ],
)
def test_the_innermost_mount(path: str, filesystem: str, source: str) -> None:
    mount = find_mount(MOUNTS, Path(path))
    assert mount is not None
    assert (mount.filesystem, mount.source) == (filesystem, source)


def test_options_of_both_kinds() -> None:
    mount = find_mount(MOUNTS, Path("/var/lib"))
    assert mount is not None
    assert mount.options == ("rw", "noatime", "nobarrier")


def test_this_volume(tmp_path: Path) -> None:
    """On whatever this runs: the kernel knows the mount, and so do we."""
    volume = volume_of(tmp_path)
    assert 0 < volume.free_bytes <= volume.size_bytes
    assert volume.mount is not None
    assert tmp_path.stat().st_dev == volume.mount.point.stat().st_dev


# --- judging a disk ---------------------------------------------------------------------------------------------------


def volume(filesystem: str = "ext4", options: str = "rw", free_gb: int = 80, rotational: bool | None = False) -> Volume:
    mount = Mount(Path("/data"), filesystem, "/dev/sda1", tuple(options.split(",")), "8:1")
    return Volume(free_gb * 10**9, 250 * 10**9, mount, rotational)


def judged(volume: Volume, fsync: Latencies = FAST) -> list[Finding]:
    return doctor_disk.findings(volume, Timing(fsync, 10.0))


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "f2fs", "ext3"])
def test_nothing_to_say_of_a_fast_local_disk(filesystem: str) -> None:
    assert judged(volume(filesystem)) == []


@pytest.mark.parametrize(
    ("case", "fsync", "text"),
    [
        (volume("tmpfs"), FAST, "tmpfs is memory"),
        (volume("tmpfs"), FAST._replace(p50_s=0.000_001), "tmpfs is memory"),
        (volume("nfs4"), FAST, "nfs4 is not a local file system"),
        (volume("fuse.sshfs"), FAST, "fuse.sshfs is not a local file system"),
        (volume("overlay"), FAST, "overlay is a container's own layer"),
        (volume(options="rw,nobarrier"), FAST, "mounted with nobarrier: a power cut may"),
        (volume(options="rw,barrier=0"), FAST, "mounted with barrier=0: a power cut may"),
        (volume(), FAST._replace(p50_s=0.000_009), "half of the fsyncs took less than 0.010 ms"),
        (volume(), FAST._replace(p99_s=0.010), "p99 of fsync is 10.0 ms, the advice is less than 10.0 ms"),
        (volume(), FAST._replace(max_s=1.0), "one fsync took 1.0 s, longer than an election timeout"),
    ],
)
def test_problems(case: Volume, fsync: Latencies, text: str) -> None:
    (finding,) = judged(case, fsync)
    assert finding.problem
    assert finding.text.startswith(text)
    assert finding.advice


@pytest.mark.parametrize(
    ("case", "fsync", "text"),
    [
        (volume("btrfs"), FAST, "btrfs copies blocks"),
        (volume(rotational=True), FAST, "the drive says that it turns"),
        (volume(free_gb=3), FAST, "3.0 GB are free; a member with the default quota of 2 GiB can need 5.4 GB"),
        (volume(), FAST._replace(samples=99), "99 writes are too few for a p99"),
        (volume()._replace(mount=None), FAST, "which file system this is cannot be found out here"),
    ],
)
def test_notes(case: Volume, fsync: Latencies, text: str) -> None:
    """Worth knowing, and fit all the same."""
    (finding,) = judged(case, fsync)
    assert not finding.problem
    assert finding.text.startswith(text)


def test_a_slow_drive_that_turns_is_told_what_it_is() -> None:
    (finding,) = judged(volume(rotational=True), FAST._replace(p99_s=0.02))
    assert "use an SSD" in finding.advice


def test_problems_come_first() -> None:
    found = judged(volume("btrfs", free_gb=3), FAST._replace(p99_s=0.02))
    assert [finding.problem for finding in found] == [True, False, False]


# --- networks ---------------------------------------------------------------------------------------------------------

HERE = Url("http", "127.0.0.1", 2380)


@pytest.mark.parametrize(
    ("p99_s", "advice"),
    [
        (0.010, "The default timeouts still hold"),
        (0.1, "The default timeouts still hold"),
        (0.101, "--heartbeat-interval=150 --election-timeout=1500"),
        (0.4, "--heartbeat-interval=400 --election-timeout=4000"),
    ],
)
def test_a_slow_network(p99_s: float, advice: str) -> None:
    (finding,) = doctor_network.findings([RoundTrips(HERE, 0.001, FAST._replace(p99_s=p99_s))])
    assert finding.problem
    assert finding.advice.endswith(advice)


def test_a_fast_network() -> None:
    assert doctor_network.findings([RoundTrips(HERE, 0.001, FAST)]) == []
    (note,) = doctor_network.findings([RoundTrips(HERE, 0.001, FAST._replace(samples=99))])
    assert not note.problem


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def measured(port: int, host: str = "127.0.0.1") -> RoundTrips | NoAnswer:
    return doctor_network.measure(Url("http", host, port), 0.05, None)


def answering(listener: socket.socket, reply: bytes) -> RoundTrips | NoAnswer:
    """Of a server that says this to the first request, and closes."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return measured(listener.getsockname()[1])
    finally:
        thread.join()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "it closed the connection or speaks another protocol; is it http or https?"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", "it closed the connection or speaks another protocol; is it http or https?"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "GET /version is answered with 404 Not Found"),
    ],
)
def test_not_a_member(listener: socket.socket, reply: bytes, why: str) -> None:
    assert answering(listener, reply) == NoAnswer(Url("http", "127.0.0.1", listener.getsockname()[1]), why)


def test_silence(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_network, "TIMEOUT_S", 0.6)
    result = measured(listener.getsockname()[1])
    assert isinstance(result, NoAnswer)
    assert result.why == "no answer within 1 s"


def test_nobody_and_no_name() -> None:
    nobody = measured(1)
    assert isinstance(nobody, NoAnswer)
    assert nobody.why == "Connection refused"
    no_name = measured(2380, "no-such-host.invalid")
    assert isinstance(no_name, NoAnswer)
    assert no_name.why.startswith("the name does not resolve: ")


class _Version(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK if self.path == "/version" else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_arguments: object) -> None:
        """Not into the tests' output."""


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_arguments: object) -> None:
        """A client that does not like the certificate is what is tested."""


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[int]:
    """Port of a server with a certificate of the authority whose files are in `tmp_path`."""
    pair = Authority(tmp_path).server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with _QuietServer(("127.0.0.1", 0), _Version) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def over_tls(port: int, ca: Path) -> RoundTrips | NoAnswer:
    context = client_tls(TlsSettings(ca_file=str(ca))).current().context
    return doctor_network.measure(Url("https", "127.0.0.1", port), 0.05, context)


def test_over_tls(tls_server: int, tmp_path: Path) -> None:
    result = over_tls(tls_server, tmp_path / "ca.pem")
    assert isinstance(result, RoundTrips)
    assert result.round_trip.p50_s > 0


def test_a_certificate_of_somebody_else(tls_server: int, tmp_path: Path) -> None:
    result = over_tls(tls_server, Authority(tmp_path / "other").ca)
    assert isinstance(result, NoAnswer)
    assert result.why.startswith("its certificate cannot be verified: ")

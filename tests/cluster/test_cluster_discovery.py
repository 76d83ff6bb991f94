"""Members that find each other when they start: through another etcd, and by the records of a name server (F-74)."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from helpers.cluster import Cluster, Member
from helpers.grpc_calls import Calls, connect
from helpers.member_client import MemberClient
from helpers.processes import RAFTKV, Program, ServerNotServingError, worker_number
from helpers.secure import SecureServer
from helpers.waiting import wait_until

from raftkv.pb import auth_pb2, rpc_pb2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beyond_etcd(
        "etcd 3.5.1 has no discovery over the v3 API; discovery by DNS is compared by what it makes"
    ),
]

NewCluster = Callable[..., Cluster]
TOKEN = "a-token"
SIZE_KEY = f"/_etcd/registry/{TOKEN}/_config/size".encode()


@pytest.fixture(params=["raftkv", "etcd"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, etcd_program: Program) -> Iterator[Member]:
    """A discovery service: raftkv and the real one."""
    program = RAFTKV if request.param == "raftkv" else etcd_program
    member = Member(program, tmp_path / "registry", "registry")
    member.start()
    yield member
    member.end()


def _forget_the_members(cluster: Cluster) -> None:
    for member in cluster.members:
        member.initial_cluster = ""


def _members(member: Member) -> set[tuple[str, str]]:
    return {(each.name, each.peerURLs[0]) for each in member.client.members().members}


def _check_one_cluster(cluster: Cluster) -> None:
    wanted = {(each.name, each.peer_url) for each in cluster.members}
    for member in cluster.members:
        wait_until("all have told their names", lambda member=member: _members(member) == wanted)  # type: ignore[misc]
    revision = cluster.members[0].client.put(b"k", b"v").header.revision
    assert cluster.members[2].client.range(b"k").kvs[0].mod_revision == revision
    cluster.wait_same_hash()


def test_members_find_each_other_through_another_etcd(new_cluster: NewCluster, registry: Member) -> None:
    """F-74, F-70, CL-05."""
    flags = (f"--discovery-endpoints={registry.endpoint}", f"--discovery-token={TOKEN}")
    cluster = new_cluster(4, *flags)
    _forget_the_members(cluster)
    late = cluster.members.pop()

    cluster.members[0].spawn()
    assert cluster.members[0].wait_exit() == 1
    assert "discovery: size key not found" in cluster.members[0].log_text()
    registry.client.put(SIZE_KEY, b"3")
    cluster.start()
    _check_one_cluster(cluster)
    registered = registry.client.range(b"/_etcd/registry/a-token/members/", b"/_etcd/registry/a-token/members0").kvs
    assert {kv.key.decode().rpartition("/")[2] for kv in registered} == {f"{each.id:x}" for each in cluster.members}
    assert {kv.value.decode() for kv in registered} == {f"{each.name}={each.peer_url}" for each in cluster.members}

    late.spawn()
    with pytest.raises(ServerNotServingError):
        late.wait_serving()
    assert "discovery: cluster is full: 3 members have registered" in late.log_text()

    registry.end()
    cluster.kill9(*cluster.members)
    cluster.start()
    _check_one_cluster(cluster)


def test_over_tls_as_a_user(new_cluster: NewCluster, tmp_path: Path) -> None:
    """F-74: the service wants a certificate, a password and the right of its user to that token's keys."""
    registry = SecureServer(RAFTKV, tmp_path / "registry", ("--bcrypt-cost=4",), admin="root")
    registry.start()
    try:
        client = MemberClient(registry.endpoint)
        client.put(SIZE_KEY, b"3")
        keys = f"/_etcd/registry/{TOKEN}/".encode()
        _allow(registry.endpoint, "finder", "secret", keys, keys[:-1] + b"0")
        pair = registry.authority.client("member")
        flags = [
            f"--discovery-endpoints={registry.client_url}",
            f"--discovery-token={TOKEN}",
            f"--discovery-cacert={registry.authority.ca}",
            f"--discovery-cert={pair.cert}",
            f"--discovery-key={pair.key}",
        ]
        cluster = new_cluster(3, *flags)
        _forget_the_members(cluster)
        stranger = cluster.members[0]
        for flag, text in (
            ("--discovery-user=finder:wrong", "refuses: etcdserver: authentication failed"),
            ("--discovery-cacert=", "TLS: self-signed certificate in certificate chain"),
        ):
            stranger.once = (flag,)
            stranger.spawn()
            wait_until("it says why not", lambda text=text: text in stranger.log_text())  # type: ignore[misc]
            stranger.end()
        for member in cluster.members:
            member.once = ("--discovery-user=finder:secret",)
        cluster.start()
        _check_one_cluster(cluster)
    finally:
        registry.stop()


def _allow(endpoint: str, user: str, password: str, key: bytes, range_end: bytes) -> None:
    """Turn auth on; besides root there is this user, with a right to these keys alone."""
    with connect(endpoint) as channel:
        auth = Calls(channel).Auth
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="x"), timeout=20)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"), timeout=20)
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=user, password=password), timeout=20)
        auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name=user), timeout=20)
        permission = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=key, range_end=range_end)
        auth.RoleGrantPermission(rpc_pb2.AuthRoleGrantPermissionRequest(name=user, perm=permission), timeout=20)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user=user, role=user), timeout=20)
        auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=20)


def test_a_member_that_waits_for_others_can_be_stopped(new_cluster: NewCluster, registry: Member) -> None:
    registry.client.put(SIZE_KEY, b"3")
    cluster = new_cluster(1, f"--discovery-endpoints={registry.endpoint}", f"--discovery-token={TOKEN}")
    _forget_the_members(cluster)
    (member,) = cluster.members
    member.spawn()
    wait_until("it waits", lambda: "waiting for the other members to register" in member.log_text())
    member.terminate()
    assert member.wait_exit() == 0
    assert not list(member.data_dir.glob("member/wal/*"))


# --- DNS --------------------------------------------------------------------------------------------------------------

ADDRESS = f"127.66.{worker_number()}.53"
DOMAIN = "discovery.test"


class NameServer:
    """A zone of SRV records and addresses on port 53 of a loopback address of its own."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ADDRESS, 53))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            packet, asker = self._socket.recvfrom(4096)
            if not packet:
                return
            query = dns.message.from_wire(packet)
            (question,) = query.question
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.AA | dns.flags.RA
            kind, name = dns.rdatatype.to_text(question.rdtype), question.name.to_text(omit_final_dot=True).lower()
            texts = self.records.get((kind, name))
            if texts:
                answer.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, texts))
            elif not any(each == name for _, each in self.records):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), asker)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (ADDRESS, 53))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    if os.geteuid() != 0:
        pytest.skip("a name server listens on port 53, which needs root")
    try:
        server = NameServer()
    except OSError as problem:
        pytest.skip(f"no name server can listen on {ADDRESS}:53: {problem}")
    yield server
    server.close()


@pytest.fixture
def asks_it(name_server: NameServer, tmp_path: Path) -> Program:
    """raftkv in a mount namespace in which the system's resolver asks that name server."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {ADDRESS}\n")
    enter = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", enter, str(resolv))
    seen = subprocess.run([*prefix, "cat", "/etc/resolv.conf"], capture_output=True, text=True, check=False)
    if seen.stdout != resolv.read_text():
        pytest.skip(f"another /etc/resolv.conf in a mount namespace is not to be had here: {seen.stderr.strip()}")
    return Program("raftkv", (*prefix, *RAFTKV.command))


@pytest.mark.parametrize("service", ["etcd-server", "etcd-server-x"])
def test_members_find_each_other_by_the_records_of_a_domain(
    new_cluster: NewCluster, name_server: NameServer, asks_it: Program, service: str
) -> None:
    """CL-04, CL-05, F-70."""
    flags = [f"--discovery-srv={DOMAIN}"] + ["--discovery-srv-name=x"] * service.endswith("-x")
    cluster = new_cluster(3, *flags, program=asks_it)
    _forget_the_members(cluster)
    cluster.members[0].spawn()
    assert cluster.members[0].wait_exit() == 1
    assert f"no SRV record of {DOMAIN} names a member" in cluster.members[0].log_text()

    for number, member in enumerate(cluster.members):
        host = f"n{number}.{DOMAIN}"
        name_server.records["A", host] = ["127.0.0.1"]
        name_server.records.setdefault(("SRV", f"_{service}._tcp.{DOMAIN}"), []).append(
            f"0 0 {member.peer_port} {host}."
        )
    cluster.start()
    for number, member in enumerate(cluster.members):
        member.peer_url = f"http://n{number}.{DOMAIN}:{member.peer_port}"
    _check_one_cluster(cluster)
    name_server.records.clear()  # but for the addresses, nobody asks again
    for number in range(3):
        name_server.records["A", f"n{number}.{DOMAIN}"] = ["127.0.0.1"]
    cluster.kill9(*cluster.members)
    for member in cluster.members:
        member.peer_url = f"http://127.0.0.1:{member.peer_port}"
    cluster.start()
    for number, member in enumerate(cluster.members):
        member.peer_url = f"http://n{number}.{DOMAIN}:{member.peer_port}"
    _check_one_cluster(cluster)

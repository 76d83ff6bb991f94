"""Logging in, and the tokens that stand for a user afterwards (contract section 7.5)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from contract_auth import (
    AUTH_FAILED,
    BOTH,
    CHEAP_HASHES,
    INVALID_TOKEN,
    OLD_REVISION,
    USER_EMPTY,
    Admin,
    Guarded,
    saying,
)
from contract_support import Client, Code, refused
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from helpers.processes import Program, Server, ServerNotServingError

from raftkv.pb import rpc_pb2

StartServer = Callable[..., Server]
Connected = Callable[[Server], Client]

TTL_S = 2


def _token(guarded: Guarded, name: str) -> str:
    return Admin(guarded.nobody).token(name, "pass")


def test_a_simple_token(guarded: Guarded) -> None:
    """AU-42, AU-43: sixteen letters and an index of the log; every log-in gives another one."""
    name = guarded.add_user()
    tokens = [_token(guarded, name) for _ in range(3)]
    assert all(re.fullmatch(r"[A-Za-z]{16}\.[0-9]+", each) for each in tokens)
    assert len({each[:16] for each in tokens}) == 3
    indexes = [int(each[17:]) for each in tokens]
    assert indexes == sorted(set(indexes))
    for each in tokens:
        saying(guarded.nobody, ("token", each)).members()


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ([("token", "{}")], None),
        ([("authorization", "{}")], None),
        pytest.param(
            [("authorization", "Bearer {}")], None, marks=pytest.mark.beyond_etcd("3.5.1 takes Bearer for a part of it")
        ),
        pytest.param(
            [("token", "Bearer {}")], None, marks=pytest.mark.beyond_etcd("3.5.1 takes Bearer for a part of it")
        ),
        ([("token", "{}"), ("authorization", "x")], None),
        ([("authorization", "x"), ("token", "{}")], None),
        ([("token", "x"), ("authorization", "{}")], INVALID_TOKEN),
        ([("token", "")], INVALID_TOKEN),
        ([("token", "{}x")], INVALID_TOKEN),
        ([("token", "x{}")], INVALID_TOKEN),
        ([("authorization", "bearer {}")], INVALID_TOKEN),
        ([("other", "{}")], USER_EMPTY),
        ([], USER_EMPTY),
    ],
    ids=str,
)
def test_where_the_token_is(guarded: Guarded, prefix: bytes, metadata: Any, status: Any) -> None:
    """G-23, AU-47, AU-48; ER-06: the Go client logs in again after both refusals."""
    token = _token(guarded, guarded.add_user((BOTH, prefix, b"")))
    client = saying(guarded.nobody, *((name, value.format(token)) for name, value in metadata))
    for attempt in (
        lambda: client.range(prefix),
        lambda: client.range(prefix, serializable=True),
        lambda: client.put(prefix),
        lambda: client.txn([], [], []) and client.delete(prefix),
    ):
        if status is None:
            attempt()
        else:
            with refused(status):
                attempt()


@pytest.mark.parametrize("token", ["x", "x.", ".", "x.y", "x.1", "x.0", "x.-1", "x.1.1", "x.18446744073709551616"])
def test_what_is_no_token(guarded: Guarded, prefix: bytes, token: str) -> None:
    """AU-47: refused at once, for nothing can come that would make one of it."""
    client = saying(guarded.nobody, ("token", token))
    started = time.monotonic()
    with refused(INVALID_TOKEN):
        client.put(prefix)
    assert time.monotonic() - started < 3


def test_a_token_of_the_future_is_waited_for(guarded: Guarded, prefix: bytes) -> None:
    """AU-44: until the client has no more patience."""
    request: Any = guarded.nobody.calls.KV.Range
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        request(rpc_pb2.RangeRequest(key=prefix, serializable=True), timeout=1, metadata=[("token", "x.99999999999")])
    error: Any = raised.value
    assert error.code() is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - started >= 0.9


def test_whoever_waits_for_the_password_disturbs_nobody(guarded: Guarded, prefix: bytes) -> None:
    """AU-41: many log-ins at once, right and wrong, and each gets its own answer."""
    names = [guarded.add_user((BOTH, prefix + b"%d" % number, b"")) for number in range(4)]

    def log_in(number: int) -> tuple[int, Client | None]:
        try:
            return number, guarded.login(names[number % 4], "pass" if number % 3 else "wrong")
        except grpc.RpcError as refusal:
            error: Any = refusal
            assert (error.code(), error.details()) == AUTH_FAILED
            return number, None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(log_in, range(24)))
    for number, client in answers:
        assert (client is None) is (number % 3 == 0)
        if client is not None:
            client.put(prefix + b"%d" % (number % 4))


def test_a_changed_password_ends_the_tokens(guarded: Guarded, prefix: bytes) -> None:
    """AU-22; other users' live on."""
    name, other = guarded.add_user((BOTH, prefix, b"")), guarded.new_user((BOTH, prefix, b""))
    user = guarded.login(name)
    user.put(prefix)
    guarded.admin.change_password(name, "other")
    with refused(INVALID_TOKEN):
        user.put(prefix)
    other.put(prefix)
    guarded.login(name, "other").put(prefix)


def test_rights_are_those_of_the_user_and_not_of_the_token(guarded: Guarded, prefix: bytes) -> None:
    """AU-43, AU-76: a simple token says who it is for and nothing else."""
    name = guarded.add_user()
    user = guarded.login(name)
    guarded.admin.permit(name, BOTH, prefix)
    user.put(prefix)
    guarded.admin.add_role(f"{name}-more")
    user.put(prefix)


# --- lifetimes --------------------------------------------------------------------------------------------------------


def test_a_token_ends_when_it_is_not_used(start_server: StartServer, connected: Connected) -> None:
    """AU-43: each use gives it its whole life again."""
    guarded = Guarded(connected(start_server(CHEAP_HASHES, f"--auth-token-ttl={TTL_S}")))
    user, idle = guarded.new_user((BOTH, b"k", b"")), guarded.new_user((BOTH, b"k", b""))
    idle.put(b"k")
    started = time.monotonic()
    while time.monotonic() - started < 3 * TTL_S:
        user.put(b"k")
        time.sleep(TTL_S / 8)
    with refused(INVALID_TOKEN):
        idle.put(b"k")
    user.put(b"k")
    time.sleep(TTL_S + 2)
    with refused(INVALID_TOKEN):
        user.put(b"k")


def test_a_restart_forgets_tokens_and_nothing_else(start_server: StartServer, connected: Connected) -> None:
    """AU-02, AU-43."""
    server = start_server(CHEAP_HASHES)
    client = connected(server)
    guarded = Guarded(client)
    name = guarded.add_user((BOTH, b"k", b""))
    user = guarded.login(name)
    user.put(b"k")
    before = guarded.admin.revision()
    # Whatever a restart would apply again lies behind this.
    for _ in range(3):
        user.put(b"k")
    server.terminate()
    server.start()
    with refused(USER_EMPTY):
        client.put(b"k")
    with refused(INVALID_TOKEN):
        user.put(b"k")
    user, root = guarded.login(name), Admin(guarded.login("root", "secret"))
    user.put(b"k")
    assert root.revision() == before
    assert root.permissions(name) == [(BOTH, b"k", b"")]
    assert root.users() == sorted([name, "root"])
    server.kill9()
    server.start()
    with refused(AUTH_FAILED):
        guarded.login(name, "wrong")
    guarded.login(name).put(b"k")


# --- signed tokens ----------------------------------------------------------------------------------------------------

KEYS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS384": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def _write_keys(directory: Path, method: str) -> tuple[Path, Path]:
    """Files of the private and of the public key."""
    private, public = directory / "private", directory / "public"
    if method == "HS256":
        private.write_bytes(b"a secret of more than thirty-two bytes")
        return private, private
    key = KEYS[method]()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.mark.beyond_etcd("3.5.1 says UNKNOWN and other words of a token that is too old, and has no EdDSA")
@pytest.mark.parametrize("method", [*KEYS, "HS256"])
def test_signed_tokens(
    start_server: StartServer,
    connected: Connected,
    tmp_path: Path,
    method: str,
) -> None:
    """AU-45, AU-46, AU-47: who, as of which authRevision, until when."""
    private, public = _write_keys(tmp_path, method)
    keys = f"priv-key={private}" if method == "HS256" else f"pub-key={public},priv-key={private}"
    guarded = Guarded(connected(start_server(CHEAP_HASHES, f"--auth-token=jwt,{keys},sign-method={method},ttl=1m")))
    name = guarded.add_user((BOTH, b"k", b""))
    token = Admin(guarded.nobody).token(name, "pass")
    claims = jwt.decode(token, public.read_bytes(), algorithms=[method])
    assert (claims["username"], 50 < claims["exp"] - time.time() <= 61) == (name, True)
    user = saying(guarded.nobody, ("token", token))
    user.put(b"k")
    assert user.only(b"k").key == b"k"
    saying(guarded.nobody, ("authorization", token)).put(b"k")
    root = Admin(guarded.login("root", "secret"))
    assert claims["revision"] == root.revision()
    root.add_role("any change")
    for attempt in (lambda: user.put(b"k"), lambda: user.range(b"k"), lambda: user.range(b"k", serializable=True)):
        with refused(OLD_REVISION):
            attempt()
    current = root_revision = Admin(guarded.login("root", "secret")).revision()

    def signed(key: Path = private, by: str = method, **changes: Any) -> Client:
        claims = {"username": name, "revision": current, "exp": time.time() + 60} | changes
        return saying(guarded.nobody, ("token", jwt.encode(claims, key.read_bytes(), by)))

    signed().put(b"k")
    assert root_revision == claims["revision"] + 1
    with refused(INVALID_TOKEN):
        signed(exp=time.time() - 60).put(b"k")
    other = tmp_path / "other"
    other.mkdir()
    with refused(INVALID_TOKEN):
        signed(key=_write_keys(other, method)[0] if method != "HS256" else _odd_secret(other)).put(b"k")


def _odd_secret(directory: Path) -> Path:
    path = directory / "private"
    path.write_bytes(b"another secret of more than thirty-two bytes")
    return path


def test_a_signed_token_outlives_a_restart(start_server: StartServer, connected: Connected, tmp_path: Path) -> None:
    """AU-45: nobody has to remember it."""
    private, public = _write_keys(tmp_path, "ES256")
    server = start_server(CHEAP_HASHES, f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=ES256")
    guarded = Guarded(connected(server))
    root = guarded.login("root", "secret")
    root.put(b"k")
    server.terminate()
    server.start()
    root.put(b"k")


def test_who_has_only_the_public_key_hands_out_no_tokens(
    start_server: StartServer, connected: Connected, tmp_path: Path
) -> None:
    """AU-45, G-57."""
    private, public = _write_keys(tmp_path, "RS256")
    client = connected(start_server(CHEAP_HASHES, f"--auth-token=jwt,pub-key={public},sign-method=RS256"))
    admin = Admin(client)
    admin.add_user("root", "secret")
    admin.grant_role("root", "root")
    admin.enable()
    with refused(AUTH_FAILED):
        admin.token("root", "wrong")
    with pytest.raises(grpc.RpcError) as raised:
        admin.token("root", "secret")
    error: Any = raised.value
    assert error.code() is Code.UNKNOWN
    assert "verify-only" in error.details()
    claims = {"username": "root", "revision": 3, "exp": time.time() + 60}
    root = saying(client, ("token", jwt.encode(claims, private.read_bytes(), "RS256")))
    assert Admin(root).users() == ["root"]


@pytest.mark.beyond_etcd("how raftkv says it")
def test_keys_that_cannot_be_used_end_the_start(
    start_server: StartServer, subject_program: Program, tmp_path: Path
) -> None:
    """AU-45: with what is wrong, before anything is made."""
    private, public = _write_keys(tmp_path, "ES256")
    missing = tmp_path / "missing"
    for setting, text in (
        (f"jwt,priv-key={missing},sign-method=RS256", "cannot be read: No such file or directory"),
        (f"jwt,priv-key={private},sign-method=RS256", "is no RSA key, which RS256 needs"),
        (f"jwt,pub-key={public},sign-method=ES384", "is on the curve secp256r1, and ES384 needs secp384r1"),
        (f"jwt,pub-key={private},sign-method=ES256", "It must hold a public key or certificate"),
        ("jwt,sign-method=ES256", "--auth-token: jwt needs the file of a key"),
    ):
        server = Server(subject_program, tmp_path / "member", [f"--auth-token={setting}"])
        with pytest.raises(ServerNotServingError) as caught:
            server.start()
        assert text in str(caught.value)
        assert server.wait_exit() == 1
        assert not server.data_dir.exists()

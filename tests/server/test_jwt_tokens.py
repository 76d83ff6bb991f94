"""Signed tokens: every method, what is believed of what others signed, keys that cannot be used (AU-45 to AU-47)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from raftkv.auth import Identity, InvalidAuthToken
from raftkv.config import StartError
from raftkv.config.compound import parse_auth_token
from raftkv.server import jwt_tokens as module
from raftkv.server.jwt_tokens import JwtTokens, VerifyOnly, load_jwt

METHODS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SECRET_METHODS = ("HS256", "HS384", "HS512")


_MAKE: dict[str, Callable[[], Any]] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "short": lambda: rsa.generate_private_key(65537, 1024),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}


class Keys:
    """Files of keys, made when asked for: `rsa`, `p256`, ..., `other-rsa` and the like are different ones."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._keys: dict[str, Any] = {}

    def key(self, name: str) -> Any:
        if name not in self._keys:
            self._keys[name] = _MAKE[name.removeprefix("other-")]()
        return self._keys[name]

    def private(self, name: str, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes | None = None) -> Path:
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        return self.write(f"{name}.key", self.key(name).private_bytes(Encoding.PEM, form, encryption))

    def public(self, name: str, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> Path:
        return self.write(f"{name}.pub", self.key(name).public_key().public_bytes(Encoding.PEM, form))

    def certificate(self, name: str) -> Path:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            subject, subject, self.key(name).public_key(), 1, now, now + timedelta(days=1)
        )
        signed = builder.sign(self.key(name), hashes.SHA256())
        return self.write(f"{name}.crt", signed.public_bytes(Encoding.PEM))

    def write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def _key_for(method: str) -> str:
    return {"RS": "rsa", "PS": "rsa", "Ed": "ed25519"}.get(method[:2]) or {"256": "p256", "384": "p384", "512": "p521"}[
        method[2:]
    ]


def _load(method: str, **options: object) -> JwtTokens:
    words = [f"{name.replace('_', '-')}={value}" for name, value in options.items()]
    return load_jwt(parse_auth_token(",".join(["jwt", f"sign-method={method}", *words])))


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_token_is_taken_by_who_has_the_public_key(keys: Keys, method: str) -> None:
    """AU-45: also without the private one; and other libraries read it."""
    name = _key_for(method)
    signer = _load(method, priv_key=keys.private(name), pub_key=keys.public(name), ttl="90s")
    verifier = _load(method, pub_key=keys.public(name))
    assert (signer.signs, verifier.signs) == (True, False)
    before = int(time.time())
    token = signer.sign("alice", 7)
    for each in (signer, verifier, _load(method, priv_key=keys.private(name))):
        assert each.verify(token) == Identity("alice", 7)
    claims = jwt.decode(token, keys.public(name).read_bytes(), algorithms=[method])
    assert (claims["username"], claims["revision"]) == ("alice", 7)
    assert before + 90 <= claims["exp"] <= time.time() + 90
    with pytest.raises(VerifyOnly, match="token signing attempted with verify-only key"):
        verifier.sign("alice", 7)


@pytest.mark.parametrize("method", SECRET_METHODS)
@pytest.mark.parametrize(
    "secret", [b"x" * 64, b"short", bytes(range(256)), b"-----BEGIN PUBLIC KEY-----\n", b"ssh-rsa AAAA"]
)
def test_any_bytes_are_a_secret(keys: Keys, method: str, secret: bytes) -> None:
    """AU-45: also those that look like something else."""
    path = keys.write("secret", secret)
    token = _load(method, priv_key=path).sign("alice", 7)
    assert _load(method, priv_key=path).verify(token) == Identity("alice", 7)
    keys.write("secret", secret + b"!")
    with pytest.raises(InvalidAuthToken):
        _load(method, priv_key=path).verify(token)


def test_a_short_secret_is_mentioned(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    _load("HS256", priv_key=keys.write("secret", bytes(32)))
    assert caplog.records == []
    _load("HS256", priv_key=keys.write("secret", bytes(31)))
    (record,) = caplog.records
    assert "short" in record.getMessage()


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8], ids=["openssl", "pkcs8"])
@pytest.mark.parametrize("method", ["RS256", "ES256"])
def test_the_forms_in_which_keys_are_written(keys: Keys, method: str, form: PrivateFormat) -> None:
    name = _key_for(method)
    token = _load(method, priv_key=keys.private(name, form)).sign("alice", 7)
    assert _load(method, pub_key=keys.certificate(name)).verify(token) == Identity("alice", 7)
    if name == "rsa":
        public = keys.public(name, PublicFormat.PKCS1)
        assert _load(method, pub_key=public).verify(token) == Identity("alice", 7)


# --- what is believed -------------------------------------------------------------------------------------------------


def _forged(keys: Keys, claims: Any, method: str = "RS256", **header: Any) -> str:
    """Signed with the right key, whatever it says."""
    if isinstance(claims, dict):
        claims = {name: _from_now(value) if name in ("exp", "nbf") else value for name, value in claims.items()}
    return jwt.PyJWS().encode(json.dumps(claims).encode(), keys.key("rsa"), method, headers=header or None)


def _from_now(seconds: Any) -> Any:
    return time.time() + seconds if type(seconds) is int else seconds


@pytest.fixture
def verifier(keys: Keys) -> JwtTokens:
    return _load("RS256", pub_key=keys.public("rsa"))


GOOD = {"username": "alice", "revision": 7, "exp": 1000}
"""Here `exp` and `nbf` are seconds from now."""


@pytest.mark.parametrize(
    "changes",
    [{}, {"exp": None}, {"revision": 7.0}, {"nbf": -5}, {"aud": "x", "iss": 1, "sub": 2, "iat": 1e12}],
    ids=str,
)
def test_tokens_that_others_signed(keys: Keys, verifier: JwtTokens, changes: dict[str, Any]) -> None:
    """AU-45: what a token says beside these claims is between others."""
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    assert verifier.verify(_forged(keys, claims)) == Identity("alice", 7)


@pytest.mark.parametrize(
    "claims",
    [
        GOOD | {"exp": -1},
        GOOD | {"exp": "tomorrow"},
        GOOD | {"exp": True},
        GOOD | {"exp": float("nan")},
        GOOD | {"nbf": 500},
        GOOD | {"username": 5},
        GOOD | {"username": None},
        GOOD | {"username": "\udcff"},
        GOOD | {"revision": "7"},
        GOOD | {"revision": True},
        GOOD | {"revision": -1},
        GOOD | {"revision": 2**64},
        GOOD | {"revision": float("inf")},
        GOOD | {"revision": float("nan")},
        {"username": "alice"},
        {"revision": 7},
        [],
        "alice",
        None,
    ],
    ids=str,
)
def test_claims_that_say_nothing_we_can_use(keys: Keys, verifier: JwtTokens, claims: Any) -> None:
    """AU-47."""
    with pytest.raises(InvalidAuthToken):
        verifier.verify(_forged(keys, claims))


def test_signatures_that_prove_nothing(keys: Keys, verifier: JwtTokens) -> None:
    """AU-47: another key, another method, none, or the public key taken for a secret."""
    good = _forged(keys, GOOD)
    head, payload, signature = good.split(".")
    forged_payload = (
        base64.urlsafe_b64encode(json.dumps(GOOD | {"exp": 1e12, "username": "root"}).encode()).decode().rstrip("=")
    )
    nobody = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    public_as_secret = jwt.PyJWS()
    public_as_secret.unregister_algorithm("HS256")
    public_as_secret.register_algorithm("HS256", module._Secret(module.hashlib.sha256))
    bad = [
        jwt.encode(GOOD | {"exp": 1e12}, keys.key("other-rsa"), "RS256"),
        _forged(keys, GOOD, "RS512"),
        _forged(keys, GOOD, "PS256"),
        public_as_secret.encode(json.dumps(GOOD | {"exp": 1e12}).encode(), keys.public("rsa").read_bytes(), "HS256"),
        f"{head}.{forged_payload}.{signature}",
        f"{nobody}.{payload}.",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        good + "x",
        good[:-4],
        "",
        "...",
        "\udcff.\udcff.\udcff",
        base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".x.x",
        _forged(keys, GOOD, crit=["x"]),
    ]
    for token in bad:
        with pytest.raises(InvalidAuthToken):
            verifier.verify(token)
    assert verifier.verify(good) == Identity("alice", 7)


def test_a_token_runs_out(keys: Keys, verifier: JwtTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-47: also one that is remembered."""
    token = _load("RS256", priv_key=keys.private("rsa"), ttl="10s").sign("alice", 7)
    assert verifier.verify(token) == Identity("alice", 7)
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 11)
    with pytest.raises(InvalidAuthToken):
        verifier.verify(token)


def test_a_signature_is_looked_at_once(keys: Keys, verifier: JwtTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client shows the same token in every call. Wrong ones are not remembered, and right ones not without end."""
    looked: list[str] = []
    decode = verifier._jws.decode

    def counting(token: str, *rest: Any) -> Any:
        looked.append(token)
        return decode(token, *rest)

    monkeypatch.setattr(verifier._jws, "decode", counting)
    monkeypatch.setattr(module, "REMEMBERED", 3)
    good = _forged(keys, GOOD)
    for _ in range(5):
        assert verifier.verify(good) == Identity("alice", 7)
    assert looked == [good]
    for _ in range(2):
        with pytest.raises(InvalidAuthToken):
            verifier.verify(good + "x")
    assert len(looked) == 3
    for number in range(20):
        verifier.verify(_forged(keys, GOOD | {"revision": number}))
    assert len(verifier._found_right) <= 3


# --- keys -------------------------------------------------------------------------------------------------------------


def _refused(method: str, **options: object) -> StartError:
    with pytest.raises(StartError) as caught:
        _load(method, **options)
    assert caught.value.hint
    return caught.value


def test_keys_of_the_wrong_sort(keys: Keys) -> None:
    """AU-45: said at start, with what to do."""
    for method, name, problem in (
        ("RS256", "p256", "is no RSA key, which RS256 needs"),
        ("PS512", "ed25519", "is no RSA key, which PS512 needs"),
        ("ES256", "rsa", "is no elliptic-curve key, which ES256 needs"),
        ("ES256", "p384", "is on the curve secp384r1, and ES256 needs secp256r1"),
        ("ES512", "p256", "is on the curve secp256r1, and ES512 needs secp521r1"),
        ("EdDSA", "rsa", "is no Ed25519 key, which EdDSA needs"),
        ("EdDSA", "ed448", "is no Ed25519 key, which EdDSA needs"),
        ("RS256", "short", "has 1024 bits, which is too short to be safe"),
    ):
        for option, path in (("priv_key", keys.private(name)), ("pub_key", keys.public(name))):
            error = _refused(method, **{option: path})
            assert error.text == f"--auth-token: the {option.replace('_', '-')} {path} {problem}"
            assert error.hint.startswith("Make one with: openssl ")


def test_keys_that_are_no_pair(keys: Keys) -> None:
    for method in ("RS256", "ES256", "EdDSA"):
        name = _key_for(method)
        error = _refused(method, priv_key=keys.private(name), pub_key=keys.public(f"other-{name}"))
        assert error.text.endswith("are not a pair")


def test_files_that_are_no_keys(keys: Keys, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing", keys.write("empty", b"")
    for option in ("priv_key", "pub_key"):
        assert _refused("RS256", **{option: missing}).text.endswith("cannot be read: No such file or directory")
        assert "cannot be used: " in _refused("RS256", **{option: empty}).text
        assert "cannot be used: " in _refused("RS256", **{option: keys.write("odd", b"\x00\xff" * 50)}).text
    assert _refused("RS256", priv_key=tmp_path).text.endswith("cannot be read: Is a directory")
    assert "public key or certificate" in _refused("RS256", pub_key=keys.private("rsa")).hint
    assert "private key without" in _refused("RS256", priv_key=keys.public("rsa")).hint
    locked = keys.private("rsa", passphrase=b"secret")
    assert "without a passphrase" in _refused("RS256", priv_key=locked).hint
    damaged = keys.write("damaged.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "cannot be used: " in _refused("RS256", pub_key=damaged).text
    assert _refused("HS256", priv_key=empty).text.endswith("is empty")
    assert _refused("HS256", priv_key=missing).text.endswith("cannot be read: No such file or directory")


def test_a_member_that_only_verifies_says_so(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    _load("RS256", priv_key=keys.private("rsa"))
    assert caplog.records == []
    _load("RS256", pub_key=keys.public("rsa"))
    (record,) = caplog.records
    assert "hands out none" in record.getMessage()
    assert _claims(_load("RS256", priv_key=keys.private("rsa")).sign("a", 1)).keys() == {"username", "revision", "exp"}

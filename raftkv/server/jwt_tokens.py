"""Signed tokens: who somebody is, as of which authRevision and until when, vouched for by a key (AU-45, AU-46).

Any member with the key takes them, also one that has just started, and nobody keeps a list of them. Owns the keys and
the form of the claims; knows nothing of users. A member with the public key alone takes the tokens of others and hands
out none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt import InvalidTokenError, PyJWS
from jwt.algorithms import HMACAlgorithm

from raftkv.auth import Identity, InvalidAuthToken
from raftkv.config import StartError
from raftkv.config.kinds import parse_duration
from raftkv.config.model import AuthToken
from raftkv.server.errors import NodeError

_log = logging.getLogger(__name__)

DEFAULT_TTL: Final = "5m"
MIN_RSA_BITS: Final = 2048
"""Shorter ones can be broken, and newer libraries refuse them."""
REMEMBERED: Final = 4096
"""Tokens whose signature was found right. When full all are forgotten."""
_MAX_REVISION: Final = 2**64 - 1

_CURVES: Final[Mapping[str, str]] = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
"""By the names of the library; openssl calls the first prime256v1."""


class VerifyOnly(NodeError):
    """This member was given the public key alone: it cannot make tokens."""

    def __init__(self) -> None:
        super().__init__("token signing attempted with verify-only key")


class JwtTokens:
    """Made by `load_jwt`."""

    def __init__(self, method: str, ttl_s: float, signing_key: Any, verifying_key: Any) -> None:
        """`signing_key`: None for a member that only verifies."""
        self._method = method
        self._ttl_s = ttl_s
        self._signing_key = signing_key
        self._verifying_key = verifying_key
        self._jws = _make_jws(method)
        self._found_right: dict[str, tuple[Identity, float, float]] = {}
        """token -> (who, not before, until), seconds of the wall clock: a client shows the same one in every call, and
        to verify it costs more than all the rest of its call."""

    @property
    def signs(self) -> bool:
        return self._signing_key is not None

    def sign(self, user: str, auth_revision: int) -> str:
        """A token that is good from now on. Touches no state: may run in a thread. Raises VerifyOnly."""
        if self._signing_key is None:
            raise VerifyOnly
        claims = {"username": user, "revision": auth_revision, "exp": int(time.time() + self._ttl_s)}
        return self._jws.encode(json.dumps(claims).encode(), self._signing_key, self._method)

    def verify(self, token: str) -> Identity:
        """Who it is for, and as of which authRevision. Raises InvalidAuthToken, also when it has run out (AU-47)."""
        found = self._found_right.get(token)
        if found is None:
            found = self._read(token)
            if len(self._found_right) >= REMEMBERED:
                self._found_right.clear()
            self._found_right[token] = found
        identity, not_before, until = found
        if not not_before <= time.time() < until:
            raise InvalidAuthToken
        return identity

    def _read(self, token: str) -> tuple[Identity, float, float]:
        """Whoever else has the key may sign tokens too: what is in them is not taken for granted."""
        try:
            claims = json.loads(self._jws.decode(token, self._verifying_key, [self._method]))
            user, revision = claims["username"], claims["revision"]
            not_before, until = claims.get("nbf", 0), claims.get("exp", float("inf"))
            if not (isinstance(user, str) and all(map(_is_number, (revision, not_before, until)))):
                raise InvalidAuthToken
            user.encode()
            identity = Identity(user, int(revision))
        except (InvalidTokenError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            raise InvalidAuthToken from None
        if not 0 <= identity.auth_revision <= _MAX_REVISION:
            raise InvalidAuthToken
        return identity, not_before, until


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _make_jws(method: str) -> PyJWS:
    jws = PyJWS()
    if method in _SECRET_HASHES:
        jws.unregister_algorithm(method)
        jws.register_algorithm(method, _Secret(_SECRET_HASHES[method]))
    return jws


class _Secret(HMACAlgorithm):
    """Any bytes are a secret. The library would refuse those that look like a key's file, and warn of short ones in
    every call; `load_jwt` warns once."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> str | None:
        return None


_SECRET_HASHES: Final[Mapping[str, Any]] = {
    "HS256": hashlib.sha256,
    "HS384": hashlib.sha384,
    "HS512": hashlib.sha512,
}


# --- keys -------------------------------------------------------------------------------------------------------------


def load_jwt(setting: AuthToken) -> JwtTokens:
    """What --auth-token=jwt,… asks for. Reads the key files. Raises StartError."""
    options = setting.options
    method = options["sign-method"]
    ttl_s = parse_duration(options.get("ttl", DEFAULT_TTL)) / 1e9
    if method in _SECRET_HASHES:
        secret = _load_secret(options["priv-key"], method)
        return JwtTokens(method, ttl_s, secret, secret)
    private = public = None
    if options.get("priv-key"):
        private = _load_key("priv-key", options["priv-key"], method, _parse_private)
        public = private.public_key()
    if options.get("pub-key"):
        public = _load_key("pub-key", options["pub-key"], method, _parse_public)
    tokens = JwtTokens(method, ttl_s, private, public)
    if tokens.signs:
        _refuse_other_pair(tokens, options)
    else:
        _log.warning(
            "this member verifies tokens and hands out none: Authenticate has to be called elsewhere",
            extra={"kv": {"because": "--auth-token has a pub-key and no priv-key"}},
        )
    return tokens


def _refuse_other_pair(tokens: JwtTokens, options: Mapping[str, str]) -> None:
    try:
        tokens.verify(tokens.sign("", 0))
    except InvalidAuthToken:
        raise StartError(
            f"--auth-token: the priv-key {options['priv-key']} and the pub-key {options.get('pub-key')} are not a pair",
            "Make the public key from the private one: openssl pkey -in PRIVATE -pubout -out PUBLIC",
        ) from None


def _load_secret(path: str, method: str) -> bytes:
    secret = _read_file("priv-key", path)
    if not secret:
        raise StartError(f"--auth-token: the priv-key {path} is empty", "Write a secret of random bytes into it")
    size = _SECRET_HASHES[method]().digest_size
    if len(secret) < size:
        _log.warning(
            "the secret that tokens are signed with is short, and may be guessed",
            extra={"kv": {"priv_key": path, "bytes": len(secret), "recommended_bytes": size}},
        )
    return secret


def _read_file(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as failure:
        raise StartError(
            f"--auth-token: the {option} {path} cannot be read: {failure.strerror}",
            "Name a file that this user may read",
        ) from failure


def _load_key(option: str, path: str, method: str, parse: Callable[[bytes], Any]) -> Any:
    raw = _read_file(option, path)
    try:
        key = parse(raw)
    except (ValueError, TypeError, UnsupportedAlgorithm) as why:
        kind = "private key without a passphrase" if parse is _parse_private else "public key or certificate"
        raise StartError(
            f"--auth-token: the {option} {path} cannot be used: {str(why).partition('.')[0]}",
            f"It must hold a {kind} in PEM form, as openssl writes it",
        ) from why
    problem = _why_unfit(key, method)
    if problem:
        raise StartError(f"--auth-token: the {option} {path} {problem}", _HINTS[method[:2]])
    return key


def _parse_private(raw: bytes) -> Any:
    return load_pem_private_key(raw, None)


def _parse_public(raw: bytes) -> Any:
    if b"BEGIN CERTIFICATE" in raw:
        return x509.load_pem_x509_certificate(raw).public_key()
    return load_pem_public_key(raw)


def _why_unfit(key: Any, method: str) -> str:
    """Completes "the key …"; empty when the method can use it."""
    if method[:2] in ("RS", "PS"):
        if not isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
            return f"is no RSA key, which {method} needs"
        return "" if key.key_size >= MIN_RSA_BITS else f"has {key.key_size} bits, which is too short to be safe"
    if method in _CURVES:
        if not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
            return f"is no elliptic-curve key, which {method} needs"
        on, wanted = key.curve.name, _CURVES[method]
        return "" if on == wanted else f"is on the curve {on}, and {method} needs {wanted}"
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return ""
    return f"is no Ed25519 key, which {method} needs"


_HINTS: Final[Mapping[str, str]] = {
    "RS": "Make one with: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out PRIVATE",
    "PS": "Make one with: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out PRIVATE",
    "ES": "Make one with: openssl ecparam -name prime256v1 -genkey -noout -out PRIVATE (for ES384 secp384r1, for ES512 "
    "secp521r1)",
    "Ed": "Make one with: openssl genpkey -algorithm ed25519 -out PRIVATE",
}

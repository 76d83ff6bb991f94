"""Settings whose text has an inner form: member lists, feature gates, compaction, tokens, rotation, origins.

Each function takes the text as given and returns the typed value, or raises ConfigError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from raftkv.config.errors import ConfigError
from raftkv.config.inputs import Given, nearest
from raftkv.config.kinds import parse_bool, parse_duration, parse_int, parse_list
from raftkv.config.model import AuthToken, AutoCompaction, LogRotation
from raftkv.config.settings import MIB, SECOND_NS
from raftkv.config.tables import FEATURE_GATES
from raftkv.config.urls import Url, with_scheme

_HOUR_S: Final = 3600

_JWT_OPTIONS: Final = ("sign-method", "pub-key", "priv-key", "ttl")
_JWT_METHODS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "EdDSA"),
)


def parse_initial_cluster(text: str) -> dict[str, tuple[Url, ...]]:
    """`name=url,name=url` -> member -> URLs, sorted; a name may repeat."""
    members: dict[str, list[Url]] = {}
    for part in parse_list(text):
        name, equals, url_text = part.partition("=")
        if not equals or not name or not url_text:
            raise ConfigError(
                f"--initial-cluster: {part!r} is not of the form name=url",
                "Write for example n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380.",
            )
        try:
            members.setdefault(name, []).append(Url.parse(url_text))
        except ValueError as why:
            raise ConfigError(f"--initial-cluster, member {name!r}: {why}") from None
    return {name: tuple(sorted(urls, key=str)) for name, urls in members.items()}


def parse_endpoints(flag: str, texts: Iterable[str], scheme: str) -> tuple[Url, ...]:
    """Where to call a server. `scheme`: of those that are only `host:port`."""
    try:
        return tuple(Url.parse(with_scheme(text, scheme)) for text in texts)
    except ValueError as why:
        raise ConfigError(f"{flag}: {why}", "Write for example http://10.0.0.1:2379.") from None


_ALL: Final = {"AllAlpha": "alpha", "AllBeta": "beta"}


def parse_feature_gates(text: str, old_flags: Mapping[str, Given]) -> dict[str, bool]:
    """Every known gate -> on or off. `old_flags`: gates set by flags of etcd 3.5 (rule F-10)."""
    chosen: dict[str, bool] = {}
    for part in parse_list(text):
        name, _, value = part.partition("=")
        if name not in FEATURE_GATES and name not in _ALL:
            raise _unknown_gate(name)
        try:
            chosen[name] = parse_bool(value)
        except ValueError:
            raise ConfigError(f"--feature-gates: {part!r} is not of the form Name=true or Name=false") from None
    for name, given in old_flags.items():
        if name in chosen:
            raise ConfigError(f"{given.origin} and --feature-gates={name} set the same thing", f"Drop {given.origin}.")
        chosen[name] = given.value
    stages = {_ALL[name]: value for name, value in chosen.items() if name in _ALL}
    return {gate.name: chosen.get(gate.name, stages.get(gate.stage, gate.default)) for gate in FEATURE_GATES.values()}


def _unknown_gate(name: str) -> ConfigError:
    known = {gate.lower(): gate for gate in FEATURE_GATES}
    match = nearest(name, known)
    hint = f"Did you mean {known[match]}?" if match else f"There are {', '.join(sorted(FEATURE_GATES))}."
    return ConfigError(f"--feature-gates: unknown feature {name!r}", hint)


def parse_auto_compaction(mode: str, text: str) -> AutoCompaction | None:
    """Rule F-67. None when off. In periodic mode a plain number counts hours."""
    flag = "--auto-compaction-retention"
    try:
        number: int | None = parse_int(text)
    except ValueError:
        number = None
    if mode == "revision":
        if number is None or number < 0:
            raise ConfigError(f"{flag}={text} is not a number of revisions", "Write for example 1000, or 0 for off.")
        return AutoCompaction(revisions=number) if number else None
    try:
        period_s = number * _HOUR_S if number is not None else parse_duration(text) / SECOND_NS
    except ValueError as why:
        raise ConfigError(f"{flag}: {why}", "A plain number counts hours; 0 is off.") from None
    if period_s < 0:
        raise ConfigError(f"{flag}={text} is negative", "Write for example 5m or 1h, or 0 for off.")
    return AutoCompaction(period_s=float(period_s)) if period_s else None


def parse_auth_token(text: str) -> AuthToken:
    kind, *parts = text.split(",")
    if kind == "simple" and not parts:
        return AuthToken("simple", {})
    if kind != "jwt":
        raise ConfigError(
            f"--auth-token={text}: the kind of token must be simple or jwt",
            "Write simple, or jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE.",
        )
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in _JWT_OPTIONS or not equals or name in options:
            raise ConfigError(
                f"--auth-token: {part!r} is not an option of jwt, or is there twice",
                f"The options are {', '.join(_JWT_OPTIONS)}.",
            )
        options[name] = value
    _check_jwt(options)
    return AuthToken("jwt", options)


def _check_jwt(options: Mapping[str, str]) -> None:
    """Rule AU-45."""
    method = options.get("sign-method", "")
    if method not in _JWT_METHODS:
        raise ConfigError(
            f"--auth-token: jwt needs a sign-method, and {method!r} is none", f"One of {', '.join(_JWT_METHODS)}."
        )
    if method.startswith("HS"):
        if not options.get("priv-key") or "pub-key" in options:
            raise ConfigError(
                f"--auth-token: {method} signs and verifies with one secret, so it takes a priv-key and no pub-key",
                "Write priv-key=FILE, where the bytes of the file are the secret.",
            )
    elif not options.get("pub-key") and not options.get("priv-key"):
        raise ConfigError(
            "--auth-token: jwt needs the file of a key",
            "Write priv-key=FILE to sign and verify tokens, or pub-key=FILE to verify those of others.",
        )
    try:
        ttl_ns = parse_duration(options.get("ttl", "5m"))
    except ValueError as why:
        raise ConfigError(f"--auth-token, option ttl: {why}") from None
    if ttl_ns <= 0:
        raise ConfigError("--auth-token, option ttl: tokens would be invalid at once", "Write for example ttl=5m.")


_ROTATION_TYPES: Final[Mapping[str, type[int]]] = {
    "maxsize": int,
    "maxage": int,
    "maxbackups": int,
    "localtime": bool,
    "compress": bool,
}


def parse_log_rotation(text: str) -> LogRotation:
    """`{"maxsize": MiB, "maxage": days, "maxbackups": files, "localtime": bool, "compress": bool}`.

    Each key may be left out.
    """
    flag = "--log-rotation-config-json"
    try:
        given: Any = json.loads(text)
    except (ValueError, RecursionError) as why:
        raise ConfigError(f"{flag} is not JSON: {why}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{flag} is not a JSON object", 'Write for example {"maxsize": 100}.')
    for name, value in given.items():
        if name not in _ROTATION_TYPES:
            raise ConfigError(f"{flag}: unknown key {name!r}", f"The keys are {', '.join(_ROTATION_TYPES)}.")
        # By exact type: to Python true is an int as well.
        if type(value) is not _ROTATION_TYPES[name] or value < 0:
            raise ConfigError(f"{flag}: {name} is {json.dumps(value)}, which it cannot be")
    return LogRotation(
        max_size_bytes=(given.get("maxsize") or 100) * MIB,
        max_age_days=given.get("maxage", 0),
        max_backups=given.get("maxbackups", 0),
        local_time=given.get("localtime", False),
        compress=given.get("compress", False),
    )


def parse_allowed(text: str) -> frozenset[str]:
    """Rules H-09 and H-10: empty allows all, like *."""
    return frozenset(parse_list(text)) or frozenset({"*"})

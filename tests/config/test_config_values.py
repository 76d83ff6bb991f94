"""Single values: durations, numbers, bools, URLs, and the settings with an inner form."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.config import AuthToken, AutoCompaction, ConfigError, LogRotation, load
from raftkv.config.kinds import format_duration, parse_bool, parse_duration, parse_int, parse_list
from raftkv.config.urls import Url, parse_urls


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("-0", 0),
        ("5s", 5_000_000_000),
        ("1m30s", 90_000_000_000),
        ("100ms", 100_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("+2h45m", 9_900_000_000_000),
        ("-1s", -1_000_000_000),
        ("1us", 1000),
        ("1\u00b5s", 1000),
        ("1\u03bcs", 1000),
        ("3ns", 3),
        ("0.1ns", 0),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text", ["", "1", "s", ".s", "1x", "1s ", " 1s", "1 s", "--1s", "1d", "1e3s", "+", "\u0661s\n"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_duration_too_long() -> None:
    with pytest.raises(ValueError, match="290 years"):
        parse_duration("9999999h")


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_survive_formatting(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("0x10", 16),
        ("0b11", 3),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("0", 0),
    ],
)
def test_numbers(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.0", "1e3", "089", "1__0"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_int(text)


def test_bools() -> None:
    assert all(parse_bool(text) for text in ("1", "t", "T", "TRUE", "true", "True"))
    assert not any(parse_bool(text) for text in ("0", "f", "F", "FALSE", "false", "False"))
    for text in ("yes", "on", "", "tRUE"):
        with pytest.raises(ValueError, match="neither true nor false"):
            parse_bool(text)


def test_lists() -> None:
    assert parse_list(" b, a,,b ") == ("b", "a")
    assert parse_list("") == ()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:2379", Url("http", "127.0.0.1", 2379)),
        ("HTTPS://Example.org:1", Url("https", "Example.org", 1)),
        ("http://[::1]:2379", Url("http", "::1", 2379)),
        ("http://:2379", Url("http", "", 2379)),
        ("http://localhost:0", Url("http", "localhost", 0)),
        ("unix:///run/x.sock", Url("unix", "", 0, "/run/x.sock")),
        ("unix:/run/x.sock", Url("unix", "", 0, "/run/x.sock")),
        ("unixs://localhost:2379", Url("unixs", "", 0, "localhost:2379")),
    ],
)
def test_urls(text: str, url: Url) -> None:
    """F-61, H-06."""
    assert Url.parse(text) == url
    assert Url.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost:2379", "must start with"),
        ("ftp://localhost:1", "must start with"),
        ("", "must start with"),
        ("http://localhost", "the port is missing"),
        ("http://localhost:", "the port is missing"),
        ("http://::1:2379", "the port is missing"),
        ("http://localhost:65536", "is not a number from 0 to 65535"),
        ("http://localhost:-1", "is not a number from 0 to 65535"),
        ("http://localhost:\u0661", "is not a number from 0 to 65535"),
        ("http://localhost:1/", "must not contain a path"),
        ("http://localhost:1?a", "must not contain a query"),
        ("http://localhost:1#a", "must not contain a fragment"),
        ("http://me@localhost:1", "must not contain a user name"),
        ("http://[nonsense]:1", "not an IPv6 address"),
        ("http://two words:1", "not a host name"),
        ("unix://", "names no socket file"),
    ],
)
def test_no_urls(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Url.parse(text)


def test_url_lists_are_sorted_and_without_repetitions() -> None:
    assert parse_urls("http://b:2, http://a:1,http://b:2") == (Url("http", "a", 1), Url("http", "b", 2))
    assert parse_urls("") == ()


@pytest.mark.parametrize(
    ("mode", "retention", "result"),
    [
        ("periodic", "0", None),
        ("periodic", "0s", None),
        ("periodic", "1", AutoCompaction(period_s=3600.0)),
        ("periodic", "5m", AutoCompaction(period_s=300.0)),
        ("revision", "0", None),
        ("revision", "1000", AutoCompaction(revisions=1000)),
    ],
)
def test_auto_compaction(mode: str, retention: str, result: AutoCompaction | None) -> None:
    """F-67."""
    argv = [f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={retention}"]
    assert load(argv, {}).auto_compaction == result


@pytest.mark.parametrize(
    ("mode", "retention"),
    [
        ("periodic", "-1"),
        ("periodic", "-1h"),
        ("periodic", "x"),
        ("revision", "5m"),
        ("revision", "-1"),
        ("odd", "1"),
    ],
)
def test_no_auto_compaction(mode: str, retention: str) -> None:
    """F-67."""
    with pytest.raises(ConfigError, match="--auto-compaction-"):
        load([f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={retention}"], {})


def test_feature_gates_have_the_contracts_defaults() -> None:
    """F-50."""
    assert load([], {}).feature_gates == {
        "StopGRPCServiceOnDefrag": False,
        "InitialCorruptCheck": False,
        "CompactHashCheck": False,
        "LeaseCheckpoint": False,
        "LeaseCheckpointPersist": False,
        "SetMemberLocalAddr": False,
        "TxnModeWriteWithSharedBuffer": True,
        "FastLeaseKeepAlive": True,
        "PriorityRequest": False,
    }


def test_all_gates_of_a_stage() -> None:
    """F-50: a gate that is named itself keeps its own value."""
    gates = load(["--feature-gates=AllAlpha=true,CompactHashCheck=false,AllBeta=false"], {}).feature_gates
    assert gates["LeaseCheckpoint"]
    assert not gates["CompactHashCheck"]
    assert not gates["TxnModeWriteWithSharedBuffer"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("LeaseCheckpont=true", "unknown feature 'LeaseCheckpont'. Did you mean LeaseCheckpoint?"),
        ("Zzz=true", "unknown feature 'Zzz'. There are CompactHashCheck, "),
        ("LeaseCheckpoint", "is not of the form Name=true"),
        ("LeaseCheckpointPersist=true", "is on without LeaseCheckpoint"),
    ],
)
def test_wrong_feature_gates(text: str, why: str) -> None:
    """F-50."""
    with pytest.raises(ConfigError) as caught:
        load([f"--feature-gates={text}"], {})
    assert why in str(caught.value)


def test_auth_tokens() -> None:
    assert load([], {}).auth_token == AuthToken("simple", {})
    config = load(["--auth-token=jwt,sign-method=RS256,pub-key=p,priv-key=q,ttl=10m"], {}, unsupported={})
    assert config.auth_token == AuthToken(
        "jwt", {"sign-method": "RS256", "pub-key": "p", "priv-key": "q", "ttl": "10m"}
    )


@pytest.mark.parametrize("keys", ["pub-key=p", "priv-key=q", "pub-key=p,priv-key=q"])
def test_tokens_of_others_can_be_verified_without_signing_any(keys: str) -> None:
    """AU-45: whoever has only the public key verifies."""
    load([f"--auth-token=jwt,sign-method=EdDSA,{keys}"], {})


def test_a_secret_is_no_public_key() -> None:
    """AU-45: HS* takes only the priv-key, which is the secret."""
    config = load(["--auth-token=jwt,sign-method=HS256,priv-key=s"], {})
    assert config.auth_token == AuthToken("jwt", {"sign-method": "HS256", "priv-key": "s"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "other",
        "simple,ttl=1m",
        "jwt",
        "jwt,sign-method=none,pub-key=p",
        "jwt,sign-method=RS256",
        "jwt,sign-method=RS256,pub-key=",
        "jwt,pub-key=p",
        "jwt,sign-method=HS256,pub-key=p",
        "jwt,sign-method=HS256,pub-key=p,priv-key=q",
        "jwt,sign-method=RS256,pub-key=p,ttl=0s",
        "jwt,sign-method=RS256,pub-key=p,ttl=x",
        "jwt,sign-method=RS256,pub-key=p,pub-key=q",
        "jwt,sign-method=RS256,pub-key=p,odd=1",
    ],
)
def test_no_auth_tokens(text: str) -> None:
    with pytest.raises(ConfigError, match="--auth-token"):
        load([f"--auth-token={text}"], {}, unsupported={})


def test_log_rotation() -> None:
    argv = ["--enable-log-rotation", "--log-outputs=/tmp/x.log"]
    assert load(argv, {}).log.rotation == LogRotation(100 * 2**20, 0, 0, False, False)
    text = '{"maxsize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true}'
    config = load([*argv, f"--log-rotation-config-json={text}"], {})
    assert config.log.rotation == LogRotation(2**20, 2, 3, True, True)


@pytest.mark.parametrize("text", ["", "[]", '{"size": 1}', '{"maxsize": true}', '{"maxage": -1}', '{"compress": 1}'])
def test_no_log_rotation(text: str) -> None:
    with pytest.raises(ConfigError, match="--log-rotation-config-json"):
        load([f"--log-rotation-config-json={text}"], {})


def test_importing_the_configuration_is_light() -> None:
    """`raftkv serve --help` must not load a server, an event loop or a gRPC library."""
    code = "import sys, raftkv.cli.main; print(sorted({'asyncio', 'uvloop', 'grpc', 'lmdb'} & set(sys.modules)))"
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"

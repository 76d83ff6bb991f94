"""Every setting of the contract's sections 12.2 to 12.4, read from a flag, a variable and a file.

The table here is written out from the contract, not taken from raftkv.config: it is what users rely on.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raftkv.config.flags import read_flags
from raftkv.config.inputs import Inputs, read_environ
from raftkv.config.settings import env_name
from raftkv.config.tables import SETTINGS
from raftkv.config.urls import Url
from raftkv.config.yamlfile import read_yaml

MS = 1_000_000
S = 1000 * MS
PEER = (Url("http", "localhost", 2380),)
CLIENT = (Url("http", "localhost", 2379),)


class Row(NamedTuple):
    flag: str
    default: Any
    text: str
    """A value on the command line …"""
    value: Any
    """… what it means …"""
    yaml: str
    """… and the line of a file that says the same; the key is the flag's unless written out."""


def duration(flag: str, default_ns: int, text: str, ns: int) -> Row:
    return Row(flag, default_ns, text, ns, str(ns))


def number(flag: str, default: int) -> Row:
    return Row(flag, default, "7", 7, "7")


def switch(flag: str, default: bool = False) -> Row:
    text = str(not default).lower()
    return Row(flag, default, text, not default, text)


def text(flag: str, default: str = "", value: str = "some-text") -> Row:
    return Row(flag, default, value, value, f"{value!r}")


def urls(flag: str, default: tuple[Url, ...]) -> Row:
    given = "http://10.0.0.1:79,http://10.0.0.1:80"
    return Row(flag, default, given, (Url("http", "10.0.0.1", 79), Url("http", "10.0.0.1", 80)), given)


def words(flag: str, default: tuple[str, ...] = ()) -> Row:
    return Row(flag, default, "one,two", ("one", "two"), "[one, two]")


MEMBER = (
    text("name", "default"),
    text("data-dir"),
    text("wal-dir"),
    number("snapshot-count", 10000),
    number("snapshot-catchup-entries", 5000),
    number("heartbeat-interval", 100),
    number("election-timeout", 1000),
    switch("initial-election-tick-advance", True),
    urls("listen-peer-urls", PEER),
    urls("listen-client-urls", CLIENT),
    urls("listen-client-http-urls", ()),
    urls("listen-metrics-urls", ()),
    number("max-snapshots", 5),
    number("max-wals", 5),
    Row("quota-backend-bytes", 0, "-1", -1, "-1"),
    duration("backend-batch-interval", 0, "100ms", 100 * MS),
    number("backend-batch-limit", 0),
    text("backend-bbolt-freelist-type", "map", "array"),
    switch("memory-mlock"),
    number("max-txn-ops", 128),
    number("max-request-bytes", 1572864),
    number("max-list-bytes-in-flight", 268435456),
    number("max-concurrent-streams", 4294967295),
    duration("grpc-keepalive-min-time", 5 * S, "1m30s", 90 * S),
    duration("grpc-keepalive-interval", 7200 * S, "0", 0),
    duration("grpc-keepalive-timeout", 20 * S, "1.5s", 1500 * MS),
    switch("socket-reuse-port"),
    switch("socket-reuse-address"),
    switch("enable-grpc-gateway", True),
    switch("enable-grpc-reflection"),
    duration("raft-read-timeout", 5 * S, "10s", 10 * S),
    duration("raft-write-timeout", 5 * S, "10s", 10 * S),
    text("feature-gates", "", "LeaseCheckpoint=true"),
)

CLUSTERING = (
    urls("initial-advertise-peer-urls", PEER),
    text("initial-cluster", "", "a=http://10.0.0.1:2380"),
    text("initial-cluster-state", "new", "existing"),
    text("initial-cluster-token", "etcd-cluster"),
    urls("advertise-client-urls", CLIENT),
    text("discovery-token"),
    words("discovery-endpoints"),
    duration("discovery-dial-timeout", 2 * S, "3s", 3 * S),
    duration("discovery-request-timeout", 5 * S, "3s", 3 * S),
    duration("discovery-keepalive-time", 2 * S, "3s", 3 * S),
    duration("discovery-keepalive-timeout", 6 * S, "3s", 3 * S),
    switch("discovery-insecure-transport", True),
    switch("discovery-insecure-skip-tls-verify"),
    text("discovery-cert"),
    text("discovery-key"),
    text("discovery-cacert"),
    text("discovery-user"),
    text("discovery-password"),
    text("discovery"),
    text("discovery-proxy"),
    text("discovery-fallback", "exit", "exit"),
    text("discovery-srv"),
    text("discovery-srv-name"),
    switch("strict-reconfig-check", True),
    switch("pre-vote", True),
    text("auto-compaction-mode", "periodic", "revision"),
    text("auto-compaction-retention", "0", "1"),
    number("max-learners", 1),
    text("v2-deprecation", "write-only", "gone"),
)

SECURITY = (
    *(text(flag) for flag in ("cert-file", "key-file", "trusted-ca-file", "client-cert-file")),
    *(text(flag) for flag in ("client-key-file", "client-crl-file")),
    words("client-cert-allowed-hostname"),
    *(switch(flag) for flag in ("client-cert-auth", "auto-tls")),
    *(text(flag) for flag in ("peer-cert-file", "peer-key-file", "peer-trusted-ca-file", "peer-crl-file")),
    *(text(flag) for flag in ("peer-client-cert-file", "peer-client-key-file")),
    *(words(flag) for flag in ("peer-cert-allowed-cn", "peer-cert-allowed-hostname")),
    *(switch(f"peer-{flag}") for flag in ("client-cert-auth", "auto-tls", "skip-client-san-verification")),
    number("self-signed-cert-validity", 1),
    words("cipher-suites"),
    text("tls-min-version", "TLS1.2", "TLS1.3"),
    text("tls-max-version", "", "TLS1.3"),
    text("cors", "*", "http://a.example"),
    text("host-whitelist", "*", "a.example"),
    text("auth-token", "simple", "jwt,sign-method=RS256,pub-key=p"),
    number("auth-token-ttl", 300),
    number("bcrypt-cost", 10),
)

OPERATIONS = (
    switch("enable-pprof"),
    text("metrics", "basic", "extensive"),
    text("logger", "zap", "zap"),
    text("log-level", "info", "warn"),
    text("log-format", "auto", "json"),
    words("log-outputs", ("default",)),
    switch("enable-log-rotation"),
    text(
        "log-rotation-config-json",
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
        '{"maxsize": 1}',
    ),
    duration("warning-unary-request-duration", 300 * MS, "1s", S),
    duration("warning-apply-duration", 100 * MS, "1s", S),
    switch("enable-distributed-tracing"),
    text("distributed-tracing-address", "localhost:4317"),
    text("distributed-tracing-service-name", "etcd"),
    text("distributed-tracing-instance-id"),
    number("distributed-tracing-sampling-rate", 0),
    duration("corrupt-check-time", 0, "1h", 3600 * S),
    duration("compact-hash-check-time", 60 * S, "1h", 3600 * S),
    number("compaction-batch-limit", 1000),
    duration("compaction-sleep-interval", 10 * MS, "1us", 1000),
    duration("watch-progress-notify-interval", 600 * S, "5s", 5 * S),
    number("bootstrap-defrag-threshold-megabytes", 0),
    duration("downgrade-check-time", 5 * S, "1s", S),
    switch("force-new-cluster"),
    switch("unsafe-no-fsync"),
)

ROWS = (*MEMBER, *CLUSTERING, *SECURITY, *OPERATIONS)
OWN = {"config-file", "rpc-server"}
"""Not in the contract's tables: the file itself (F-03) and raftkv's own flag."""


def row_id(row: Row) -> str:
    return row.flag


every_row = pytest.mark.parametrize("row", ROWS, ids=row_id)


def test_the_contract_and_the_table_name_the_same_settings() -> None:
    assert {row.flag for row in ROWS} | OWN == set(SETTINGS)


@every_row
def test_default(row: Row) -> None:
    assert SETTINGS[row.flag].default_value() == row.default


@every_row
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_flag(row: Row, dashes: str) -> None:
    """F-01."""
    line = read_flags([f"{dashes}{row.flag}={row.text}"])
    assert line.inputs.values[row.flag].value == row.value


@every_row
def test_environment_variable(row: Row) -> None:
    """F-01."""
    inputs = Inputs()
    read_environ({"ETCD_" + row.flag.replace("-", "_").upper(): row.text}, inputs)
    assert inputs.values[row.flag].value == row.value


@every_row
def test_yaml(row: Row, tmp_path: Path) -> None:
    """F-04."""
    file = tmp_path / "raftkv.yml"
    file.write_text(f"{row.flag}: {row.yaml}\n")
    inputs = read_yaml(file)
    assert inputs.values[row.flag].value == row.value


EXPERIMENTAL = (
    "corrupt-check-time",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "peer-skip-client-san-verification",
    "watch-progress-notify-interval",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "bootstrap-defrag-threshold-megabytes",
    "downgrade-check-time",
    "memory-mlock",
    "snapshot-catchup-entries",
    "max-learners",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
)


@pytest.mark.parametrize("name", EXPERIMENTAL)
def test_experimental_spelling_of_a_setting(name: str) -> None:
    """F-51: by flag and by variable, with a notice that it is old."""
    row = next(row for row in ROWS if row.flag == name)
    by_flag = read_flags([f"--experimental-{name}={row.text}"]).inputs
    by_environ = Inputs()
    read_environ({env_name(f"experimental-{name}"): row.text}, by_environ)
    for inputs in (by_flag, by_environ):
        assert inputs.values[name].value == row.value
        assert [notice.text for notice in inputs.notices] == ["a deprecated setting is used"]


GATE_FLAGS = {
    "initial-corrupt-check": "InitialCorruptCheck",
    "compact-hash-check-enabled": "CompactHashCheck",
    "enable-lease-checkpoint": "LeaseCheckpoint",
    "enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
    "stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
}


@pytest.mark.parametrize(("name", "gate"), GATE_FLAGS.items())
def test_experimental_spelling_of_a_feature_gate(name: str, gate: str) -> None:
    """F-51."""
    assert read_flags([f"--experimental-{name}"]).inputs.gates[gate].value is True
    assert read_flags([f"--experimental-{name}=false"]).inputs.gates[gate].value is False

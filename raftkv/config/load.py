"""From what was given to a `Config`: pick the sources, fill in defaults, check, build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from raftkv.config.capabilities import UNSUPPORTED, Unsupported
from raftkv.config.checks import Subject, check_all
from raftkv.config.compound import (
    parse_allowed,
    parse_auth_token,
    parse_auto_compaction,
    parse_endpoints,
    parse_feature_gates,
    parse_initial_cluster,
    parse_log_rotation,
)
from raftkv.config.errors import ConfigError
from raftkv.config.flags import FlagLine, read_flags
from raftkv.config.inputs import Given, Inputs, Notice, read_environ
from raftkv.config.model import Config, Discovery, LogConfig, TlsFiles
from raftkv.config.settings import MIB, SECOND_NS, env_name
from raftkv.config.tables import FEATURE_GATES, SETTINGS
from raftkv.config.yamlfile import read_yaml

DEFAULT_QUOTA_BYTES: Final = 2 * 1024 * MIB
_FILE_VARIABLE: Final = env_name("config-file")
_MIN_RAFT_IO_NS: Final = 5 * SECOND_NS
_ZERO_MEANS_DEFAULT: Final = (
    "snapshot-count",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "watch-progress-notify-interval",
    "warning-unary-request-duration",
)


def load(argv: Sequence[str], environ: Mapping[str, str], *, unsupported: Unsupported = UNSUPPORTED) -> Config:
    """argv: the arguments after `raftkv serve`. Raises ConfigError (exit code 1) or UsageError (exit code 2).

    Reads the --config-file if there is one, and nothing else. The notices of the result are not logged yet.
    """
    return load_from(read_flags(argv), environ, unsupported=unsupported)


def load_from(line: FlagLine, environ: Mapping[str, str], *, unsupported: Unsupported = UNSUPPORTED) -> Config:
    """`load` for a command line that was read already."""
    inputs = _pick_source(line.inputs, environ)
    values = {name: setting.default_value() for name, setting in SETTINGS.items()}
    values |= {name: given.value for name, given in inputs.values.items()}
    _fill_in(values, inputs.gates)
    _notice_idle_gates(values["feature-gates"], inputs, unsupported)
    subject = Subject(values, inputs.values, unsupported, inputs.notices)
    check_all(subject)
    return _build(values, inputs)


def _pick_source(flags: Inputs, environ: Mapping[str, str]) -> Inputs:
    """Rule F-03: with a file, flags and environment do not count. What they say is mentioned, not used."""
    path = _config_file(flags, environ)
    if path is None:
        read_environ(environ, flags)
        return flags
    ignored = [given.origin for name, given in flags.values.items() if name != "config-file"]
    ignored += [given.origin for given in flags.gates.values()]
    ignored += [
        f"environment variable {key}"
        for key in sorted(environ)
        if key.startswith("ETCD_") and environ[key] and key != _FILE_VARIABLE
    ]
    inputs = read_yaml(Path(path.value))
    inputs.values["config-file"] = path
    if ignored:
        fields = {"config_file": path.value, "ignored": ignored}
        inputs.notices.append(Notice("settings beside a configuration file are ignored", fields))
    return inputs


def _config_file(flags: Inputs, environ: Mapping[str, str]) -> Given | None:
    named = flags.values.get("config-file")
    variable = environ.get(_FILE_VARIABLE)
    if named is not None and variable:
        raise ConfigError(
            f"{named.origin} and environment variable {_FILE_VARIABLE} set the same thing",
            "Keep one of the two and drop the other.",
        )
    return Given(variable, f"environment variable {_FILE_VARIABLE}") if variable else named


def _fill_in(values: dict[str, Any], gate_flags: Mapping[str, Given]) -> None:
    """Turns texts into typed values, and computes the defaults that depend on other settings."""
    for name in _ZERO_MEANS_DEFAULT:
        values[name] = values[name] or SETTINGS[name].default_value()
    for name in ("raft-read-timeout", "raft-write-timeout"):
        values[name] = max(values[name], _MIN_RAFT_IO_NS)
    members = parse_initial_cluster(values["initial-cluster"])
    if not members and not (values["discovery"] or values["discovery-endpoints"] or values["discovery-srv"]):
        members = {values["name"]: values["initial-advertise-peer-urls"]}
    values["initial-cluster"] = members
    values["feature-gates"] = parse_feature_gates(values["feature-gates"], gate_flags)
    values["auto-compaction"] = parse_auto_compaction(
        values.pop("auto-compaction-mode"), values.pop("auto-compaction-retention")
    )
    values["auth-token"] = parse_auth_token(values["auth-token"])
    values["client-tls"] = _client_tls(values)
    values["peer-tls"] = _peer_tls(values)
    values["discovery-config"] = _discovery(values)
    values["cors"] = parse_allowed(values["cors"])
    values["host-whitelist"] = parse_allowed(values["host-whitelist"])
    values["log-outputs"] = values["log-outputs"] or ("default",)
    values["log-rotation"] = parse_log_rotation(values.pop("log-rotation-config-json"))


def _discovery(values: dict[str, Any]) -> Discovery | None:
    """Rule F-74. Whether both halves are given is `checks`'."""
    scheme = "http" if values.pop("discovery-insecure-transport") else "https"
    user, _, password = values.pop("discovery-user").partition(":")
    found = Discovery(
        token=values.pop("discovery-token"),
        endpoints=parse_endpoints("--discovery-endpoints", values.pop("discovery-endpoints"), scheme),
        dial_timeout_s=values.pop("discovery-dial-timeout") / SECOND_NS,
        request_timeout_s=values.pop("discovery-request-timeout") / SECOND_NS,
        keepalive_time_s=values.pop("discovery-keepalive-time") / SECOND_NS,
        keepalive_timeout_s=values.pop("discovery-keepalive-timeout") / SECOND_NS,
        insecure_skip_tls_verify=values.pop("discovery-insecure-skip-tls-verify"),
        cert_file=values.pop("discovery-cert"),
        key_file=values.pop("discovery-key"),
        cacert_file=values.pop("discovery-cacert"),
        user=user,
        password=values.pop("discovery-password") or password,
    )
    return found if found.token or found.endpoints else None


def _client_tls(values: dict[str, Any]) -> TlsFiles:
    return TlsFiles(
        **_common_tls(values, ""),
        crl_file=values.pop("client-crl-file"),
        allowed_cns=(),
        allowed_hostnames=values.pop("client-cert-allowed-hostname"),
        skip_client_san_verification=False,
    )


def _peer_tls(values: dict[str, Any]) -> TlsFiles:
    return TlsFiles(
        **_common_tls(values, "peer-"),
        crl_file=values.pop("peer-crl-file"),
        allowed_cns=values.pop("peer-cert-allowed-cn"),
        allowed_hostnames=values.pop("peer-cert-allowed-hostname"),
        skip_client_san_verification=values.pop("peer-skip-client-san-verification"),
    )


def _common_tls(values: dict[str, Any], side: str) -> dict[str, Any]:
    return {
        "cert_file": values.pop(f"{side}cert-file"),
        "key_file": values.pop(f"{side}key-file"),
        "trusted_ca_file": values.pop(f"{side}trusted-ca-file"),
        "client_cert_auth": values.pop(f"{side}client-cert-auth"),
        "client_cert_file": values.pop(f"{side}client-cert-file"),
        "client_key_file": values.pop(f"{side}client-key-file"),
        "auto_tls": values.pop(f"{side}auto-tls"),
    }


def _notice_idle_gates(gates: Mapping[str, bool], inputs: Inputs, unsupported: Unsupported) -> None:
    for name, on in gates.items():
        gate = FEATURE_GATES[name]
        reason = gate.why_no_effect(unsupported)
        if on != gate.default and reason:
            fields = {"feature": name, "because": reason}
            inputs.notices.append(Notice("a feature gate is accepted but has no effect", fields))


def _quota(given_bytes: int) -> int | None:
    """Rule AL-20."""
    if given_bytes < 0:
        return None
    return given_bytes or DEFAULT_QUOTA_BYTES


def _build(values: dict[str, Any], inputs: Inputs) -> Config:
    """Moves every value into its field; what is left over is `other`."""
    rest = dict(values)
    take = rest.pop

    def seconds(name: str) -> float:
        return float(take(name) / SECOND_NS)

    name = take("name")
    data_dir = Path(take("data-dir") or f"{name}.etcd")
    wal_dir = take("wal-dir")
    rotation = take("log-rotation")
    return Config(
        name=name,
        data_dir=data_dir,
        wal_dir=Path(wal_dir) if wal_dir else data_dir / "member" / "wal",
        snapshot_count=take("snapshot-count"),
        snapshot_catchup_entries=take("snapshot-catchup-entries"),
        heartbeat_interval_ms=take("heartbeat-interval"),
        election_timeout_ms=take("election-timeout"),
        initial_election_tick_advance=take("initial-election-tick-advance"),
        quota_backend_bytes=_quota(take("quota-backend-bytes")),
        feature_gates=take("feature-gates"),
        rpc_server=take("rpc-server"),
        listen_client_urls=take("listen-client-urls"),
        advertise_client_urls=take("advertise-client-urls"),
        listen_client_http_urls=take("listen-client-http-urls"),
        listen_metrics_urls=take("listen-metrics-urls"),
        listen_peer_urls=take("listen-peer-urls"),
        initial_advertise_peer_urls=take("initial-advertise-peer-urls"),
        socket_reuse_port=take("socket-reuse-port"),
        socket_reuse_address=take("socket-reuse-address"),
        max_txn_ops=take("max-txn-ops"),
        max_request_bytes=take("max-request-bytes"),
        max_list_bytes_in_flight=take("max-list-bytes-in-flight"),
        max_concurrent_streams=take("max-concurrent-streams"),
        grpc_keepalive_min_time_s=seconds("grpc-keepalive-min-time"),
        grpc_keepalive_interval_s=seconds("grpc-keepalive-interval"),
        grpc_keepalive_timeout_s=seconds("grpc-keepalive-timeout"),
        enable_grpc_gateway=take("enable-grpc-gateway"),
        enable_grpc_reflection=take("enable-grpc-reflection"),
        cors=take("cors"),
        host_whitelist=take("host-whitelist"),
        initial_cluster=take("initial-cluster"),
        discovery=take("discovery-config"),
        discovery_srv=take("discovery-srv"),
        discovery_srv_name=take("discovery-srv-name"),
        initial_cluster_state=take("initial-cluster-state"),
        initial_cluster_token=take("initial-cluster-token"),
        strict_reconfig_check=take("strict-reconfig-check"),
        pre_vote=take("pre-vote"),
        max_learners=take("max-learners"),
        raft_read_timeout_s=seconds("raft-read-timeout"),
        raft_write_timeout_s=seconds("raft-write-timeout"),
        auto_compaction=take("auto-compaction"),
        compaction_batch_limit=take("compaction-batch-limit"),
        compaction_sleep_interval_s=seconds("compaction-sleep-interval"),
        watch_progress_notify_interval_s=seconds("watch-progress-notify-interval"),
        corrupt_check_time_s=seconds("corrupt-check-time"),
        compact_hash_check_time_s=seconds("compact-hash-check-time"),
        downgrade_check_time_s=seconds("downgrade-check-time"),
        bootstrap_defrag_threshold_bytes=take("bootstrap-defrag-threshold-megabytes") << 20,
        client_tls=take("client-tls"),
        peer_tls=take("peer-tls"),
        self_signed_cert_validity_years=take("self-signed-cert-validity"),
        cipher_suites=take("cipher-suites"),
        tls_min_version=take("tls-min-version"),
        tls_max_version=take("tls-max-version"),
        auth_token=take("auth-token"),
        auth_token_ttl_s=take("auth-token-ttl"),
        bcrypt_cost=take("bcrypt-cost"),
        log=LogConfig(
            level=take("log-level"),
            format=take("log-format"),
            outputs=tuple("stderr" if out == "default" else out for out in take("log-outputs")),
            rotation=rotation if take("enable-log-rotation") else None,
        ),
        warning_unary_request_duration_s=seconds("warning-unary-request-duration"),
        warning_apply_duration_s=seconds("warning-apply-duration"),
        metrics=take("metrics"),
        force_new_cluster=take("force-new-cluster"),
        unsafe_no_fsync=take("unsafe-no-fsync"),
        other=rest,
        given={key: given.origin for key, given in inputs.values.items()},
        notices=tuple(inputs.notices),
    )

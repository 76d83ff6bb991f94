"""How settings must fit together: F-60 to F-68, the TLS rules, and what is not supported yet."""

import dataclasses
from pathlib import Path

import pytest

from raftkv.config import Capability, Config, ConfigError, StartError, UsageError, load
from raftkv.config.capabilities import UNSUPPORTED
from raftkv.config.settings import Status
from raftkv.config.tables import FEATURE_GATES, SETTINGS

TLS = ["--cert-file=c", "--key-file=k"]
HTTPS = ["--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379"]


def load_all(*argv: str) -> Config:
    """As if everything were supported: the rules behind the refusals."""
    return load(argv, {}, unsupported={})


def problem(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_all(*argv)
    assert not isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 1
    assert caught.value.hint, "an error says what to do"
    return caught.value.text


def notices(config: Config) -> list[str]:
    return [notice.text for notice in config.notices]


def test_defaults_start() -> None:
    config = load([], {})
    assert config.data_dir == Path("default.etcd")
    assert config.wal_dir == Path("default.etcd/member/wal")
    assert config.quota_backend_bytes == 2 * 2**30
    assert config.election_ticks == 10
    assert config.request_timeout_s == 7.0
    assert config.max_recv_bytes == 2 * 2**20
    assert config.cors == config.host_whitelist == {"*"}
    assert [str(url) for url in config.initial_cluster["default"]] == ["http://localhost:2380"]
    assert notices(config) == []


def test_defaults_that_follow_other_settings() -> None:
    config = load(["--name=n1", "--initial-advertise-peer-urls=http://10.0.0.1:2380"], {})
    assert config.data_dir == Path("n1.etcd")
    assert [str(url) for url in config.initial_cluster["n1"]] == ["http://10.0.0.1:2380"]
    assert load(["--wal-dir=/w"], {}).wal_dir == Path("/w")
    assert load(["--data-dir=/d"], {}).wal_dir == Path("/d/member/wal")


def test_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load([], {}).name = "other"  # type: ignore[misc]


def test_quota() -> None:
    """AL-20."""
    assert load(["--quota-backend-bytes=-1"], {}).quota_backend_bytes is None
    assert load(["--quota-backend-bytes=5"], {}).quota_backend_bytes == 5
    large = load(["--name=a", "--quota-backend-bytes=8589934593"], {})
    assert notices(large) == ["the quota is more than 8 GiB"]


@pytest.mark.parametrize(
    ("flag", "default"),
    [("snapshot-count", 10000), ("compaction-batch-limit", 1000), ("watch-progress-notify-interval", 600.0)],
)
def test_zero_means_the_default(flag: str, default: float) -> None:
    config = load([f"--{flag}=0"], {})
    field = flag.replace("-", "_")
    assert getattr(config, field, None) == default or getattr(config, f"{field}_s", None) == default


def test_peer_timeouts_are_at_least_5s() -> None:
    assert load_all("--raft-read-timeout=1s").raft_read_timeout_s == 5.0
    assert load_all("--raft-write-timeout=6s").raft_write_timeout_s == 6.0


@pytest.mark.parametrize(
    ("heartbeat", "election", "ok"),
    [
        (100, 500, True),
        (100, 499, False),
        (0, 1000, False),
        (-1, 1000, False),
        (100, 0, False),
        (100, 50_000, True),
        (100, 50_001, False),
        (10_000, 50_000, True),
    ],
)
def test_timing(heartbeat: int, election: int, ok: bool) -> None:
    """F-60."""
    argv = (f"--heartbeat-interval={heartbeat}", f"--election-timeout={election}")
    if ok:
        assert load_all(*argv).election_timeout_ms == election
    else:
        assert problem(*argv).startswith(("--heartbeat-interval", "--election-timeout"))


@pytest.mark.parametrize(
    "flag", ["listen-client-urls", "listen-client-http-urls", "listen-metrics-urls", "listen-peer-urls"]
)
def test_listen_hosts(flag: str) -> None:
    """F-61."""
    advertise = "--advertise-client-urls=http://10.0.0.1:1"
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::]:1", "unix:///run/x"):
        load_all(f"--{flag}={url}", advertise)
    for url in ("http://example.org:1", "http://:1"):
        assert problem(f"--{flag}={url}", advertise).startswith(f"--{flag}: URL '{url}' names host")


def test_something_must_be_listened_on() -> None:
    assert problem("--listen-peer-urls=") == "--listen-peer-urls is empty"


@pytest.mark.parametrize("flag", ["advertise-client-urls", "initial-advertise-peer-urls"])
def test_advertised_hosts(flag: str) -> None:
    """F-62."""
    assert problem(f"--{flag}=http://:1") == f"--{flag}: URL 'http://:1' has no host"
    assert problem(f"--{flag}=") == f"--{flag} is empty"
    for url in ("http://0.0.0.0:1", "http://[::]:1"):
        config = load_all("--name=a", f"--{flag}={url}")
        assert notices(config) == ["an advertised URL names no reachable host"]


def test_listening_demands_advertising() -> None:
    """F-63."""
    assert "without --advertise-client-urls" in problem("--listen-client-urls=http://127.0.0.1:1")
    load_all("--advertise-client-urls=http://127.0.0.1:1")


@pytest.mark.parametrize(
    "argv",
    [
        ("--initial-cluster=a=http://h:1", "--discovery-srv=example.org"),
        ("--discovery=http://x", "--discovery-srv=example.org"),
        ("--discovery-srv=example.org", "--discovery-endpoints=h:1", "--discovery-token=t"),
    ],
)
def test_one_source_of_members(argv: tuple[str, ...]) -> None:
    """F-64."""
    assert problem(*argv).endswith("both say who the members are")


def test_discovery_replaces_the_default_cluster() -> None:
    config = load(["--discovery-srv=example.org", "--discovery-srv-name=x"], {})
    assert (config.initial_cluster, config.discovery) == ({}, None)
    assert (config.discovery_srv, config.discovery_srv_name) == ("example.org", "x")
    config = load([*REGISTRY, "--discovery-user=u:p:q", "--discovery-dial-timeout=3s"], {})
    assert config.initial_cluster == {}
    assert config.discovery is not None
    assert [str(url) for url in config.discovery.endpoints] == ["http://h:1", "https://g:2"]
    assert (config.discovery.user, config.discovery.password) == ("u", "p:q")
    assert config.discovery.dial_timeout_s == 3
    config = load([*REGISTRY, "--discovery-insecure-transport=false"], {})
    assert [url.scheme for url in config.discovery.endpoints] == ["https", "https"]  # type: ignore[union-attr]


REGISTRY = ("--discovery-token=t", "--discovery-endpoints=h:1,https://g:2")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--discovery-token=t",), "without the other"),
        (("--discovery-endpoints=h:1",), "without the other"),
        (("--discovery-token=t", "--discovery-endpoints=h"), "--discovery-endpoints: URL 'http://h' must have"),
        (("--discovery-srv-name=x",), "--discovery-srv-name is given without --discovery-srv"),
        ((*REGISTRY, "--discovery-cert=c"), "--discovery-cert and --discovery-key"),
        ((*REGISTRY, "--discovery-user=u"), "--discovery-user and --discovery-password"),
        ((*REGISTRY, "--discovery-password=p"), "--discovery-user and --discovery-password"),
        ((*REGISTRY, "--initial-cluster-state=existing"), "--initial-cluster-state is existing"),
    ],
)
def test_discovery_that_lacks_a_part(argv: tuple[str, ...], text: str) -> None:
    """F-74."""
    assert text in problem(*argv)


def test_initial_cluster() -> None:
    config = load_all("--initial-cluster=a=http://h1:1,b=http://h2:1,a=http://h0:1")
    assert {name: [str(url) for url in urls] for name, urls in config.initial_cluster.items()} == {
        "a": ["http://h0:1", "http://h1:1"],
        "b": ["http://h2:1"],
    }
    for text in ("a", "=http://h:1", "a="):
        assert "is not of the form name=url" in problem(f"--initial-cluster={text}")
    with pytest.raises(ConfigError, match="member 'a': URL 'h:1' must start with"):
        load_all("--initial-cluster=a=h:1")


def test_peer_url_of_two_members() -> None:
    """F-66."""
    assert problem("--initial-cluster=a=http://h:1,b=http://h:1").endswith("gives http://h:1 to 'a' and to 'b'")
    problem("--initial-cluster=a=http://h:1,a=http://h:1,b=http://h:1")


def test_client_certificates_without_a_ca() -> None:
    """F-68."""
    config = load_all("--name=a", *HTTPS, *TLS, "--client-cert-auth")
    assert notices(config) == ["client certificates are checked against the system's CAs, no CA file is given"]
    assert config.client_tls.wants_client_cert


def test_ca_alone_demands_client_certificates() -> None:
    """TLS-03."""
    assert load_all(*HTTPS, *TLS, "--trusted-ca-file=ca").client_tls.wants_client_cert


def test_https_needs_a_certificate() -> None:
    """TLS-01."""
    assert problem(*HTTPS).endswith("but there is no certificate")
    load_all(*HTTPS, "--auto-tls")
    config = load_all("--name=a", *TLS)
    assert notices(config) == ["TLS settings are ignored, no listen URL is https"]


def test_settings_that_come_in_pairs() -> None:
    assert "without the other" in problem(*HTTPS, "--cert-file=c")
    assert "without the other" in problem("--peer-client-key-file=k")


def test_names_or_host_names() -> None:
    """TLS-05."""
    text = problem("--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b")
    assert text == "--peer-cert-allowed-cn and --peer-cert-allowed-hostname are both given"


def test_tls_versions() -> None:
    """TLS-07."""
    assert "is newer than" in problem("--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2")
    suite = "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
    assert "nothing to choose" in problem("--tls-min-version=TLS1.3", suite)
    load_all("--tls-min-version=TLS1.3", "--tls-max-version=TLS1.3")


def test_cipher_suites() -> None:
    """TLS-07: Go's names; one that is not there must not mean that another is taken."""
    suites = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256")
    assert load_all(f"--cipher-suites={','.join(suites)}").cipher_suites == suites
    for suite in ("TLS_RSA_WITH_RC4_128_SHA", "ECDHE-RSA-AES128-GCM-SHA256", "x"):
        assert problem(f"--cipher-suites={suites[0]},{suite}").startswith(f"--cipher-suites: {suite!r} is no suite")
    assert "of TLS 1.3 alone" in problem(f"--cipher-suites={suites[1]}")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",), "--cipher-suites for this server alone"),
        (("--tls-min-version=TLS1.3",), "a --tls-min-version other than TLS1.2"),
        (("--tls-max-version=TLS1.2",), "--tls-max-version"),
        (("--client-cert-auth",), "--client-cert-auth without --trusted-ca-file"),
        (("--listen-client-urls=http://127.0.0.1:2379,https://127.0.0.1:2379",), "http and https on one port"),
    ],
)
def test_what_grpcio_cannot_secure_is_refused(flags: tuple[str, ...], what: str) -> None:
    assert problem("--rpc-server=grpcio", *HTTPS, *TLS, *flags) == f"--rpc-server=grpcio does not have {what}"
    load_all("--rpc-server=native", *HTTPS, *TLS, *flags)
    if "http:" not in flags[0]:
        load_all("--rpc-server=grpcio", *flags)


def test_plain_text_beside_client_certificates_is_mentioned() -> None:
    """But for probes it is usual."""
    listen, advertise = HTTPS
    flags = ("--name=a", advertise, *TLS, "--trusted-ca-file=ca")
    assert notices(load_all(*flags, listen, "--listen-metrics-urls=http://127.0.0.1:1")) == []
    (notice,) = load_all(*flags, "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:1").notices
    assert notice.text.startswith("a URL in plain text lets everybody in")
    assert notice.fields == {"url": "http://127.0.0.1:1"}


def test_log_outputs() -> None:
    assert load(["--log-outputs="], {}).log.outputs == ("stderr",)
    assert load(["--log-outputs=stdout,/x.log"], {}).log.outputs == ("stdout", "/x.log")
    assert "beside others" in problem("--log-outputs=default,stdout")
    assert "not supported" in problem("--log-outputs=systemd/journal")
    assert "rotates one file" in problem("--enable-log-rotation")
    assert "rotates one file" in problem("--enable-log-rotation", "--log-outputs=a,b")


def test_large_requests_are_mentioned() -> None:
    """LIM-06."""
    assert notices(load(["--name=a", "--max-request-bytes=10485760"], {})) == []
    config = load(["--name=a", "--max-request-bytes=10485761"], {})
    assert notices(config) == ["requests larger than 10 MiB are allowed"]


def test_unsafe_is_mentioned() -> None:
    assert "will lose acknowledged writes" in notices(load(["--name=a", "--unsafe-no-fsync"], {}))[0]


NEEDS_MORE = {
    "--discovery=http://example.org": Capability.DISCOVERY_V2,
    "--discovery-proxy=http://example.org": Capability.DISCOVERY_V2,
    "--enable-distributed-tracing": Capability.TRACING,
}


@pytest.mark.parametrize(("flag", "capability"), NEEDS_MORE.items())
def test_unsupported_is_refused_not_ignored(flag: str, capability: Capability) -> None:
    with pytest.raises(StartError) as caught:
        load([flag], {}, unsupported={capability: "Do this."})
    assert caught.value.text.endswith(f"needs {capability.value}, which this version of raftkv does not support")
    assert (caught.value.hint, caught.value.exit_code) == ("Do this.", 1)


@pytest.mark.parametrize("state", ["new", "existing"])
def test_a_cluster_of_several_members_is_served(state: str) -> None:
    """What makes it and what keeps it: nothing of that is refused, and nothing is without effect."""
    members = ("--name=a", "--initial-cluster=a=http://localhost:2380,b=http://h:1", f"--initial-cluster-state={state}")
    settings = ("--strict-reconfig-check=false", "--max-learners=2", "--listen-peer-urls=http://127.0.0.1:2380")
    config = load([*members, *settings], {})
    assert list(config.initial_cluster) == ["a", "b"]
    assert (config.initial_cluster_state, config.strict_reconfig_check, config.max_learners) == (state, False, 2)
    assert config.notices == ()


def test_default_values_of_unsupported_settings_are_fine() -> None:
    everything = dict.fromkeys(Capability, "Wait.")
    load(
        ["--cert-file=", "--client-cert-auth=false", "--discovery="],
        {},
        unsupported=everything,
    )


def test_without_effect_is_mentioned() -> None:
    config = load(["--name=a", "--max-wals=3", "--feature-gates=StopGRPCServiceOnDefrag=true"], {})
    assert [(notice.text, notice.fields.get("setting")) for notice in config.notices] == [
        ("a feature gate is accepted but has no effect", None),
        ("a setting is accepted but has no effect", "max-wals"),
    ]
    assert all(notice.fields["because"] for notice in config.notices)


def test_status_follows_the_capabilities() -> None:
    """One row leaves UNSUPPORTED, and everything that waited for it is served."""
    everything = dict.fromkeys(Capability, "Wait.")
    for setting in SETTINGS.values():
        if setting.needs is not None:
            assert setting.status(everything) is Status.REFUSED
            assert setting.status({}) is Status.SERVED
        if setting.idle_without is not None:
            assert setting.status(everything) is Status.NO_EFFECT
            assert setting.status({}) is Status.SERVED
    assert set(UNSUPPORTED) <= set(Capability)


def test_table_is_sound() -> None:
    for setting in SETTINGS.values():
        assert setting.check(setting.default_value()) == setting.default_value()
        assert setting.help.endswith(".")
        assert not (setting.needs and setting.no_effect)
    for gate in FEATURE_GATES.values():
        assert gate.stage in ("alpha", "beta")


KUBEADM = """
--advertise-client-urls=http://10.0.0.1:2379 --data-dir=/var/lib/etcd --feature-gates=InitialCorruptCheck=true
--initial-advertise-peer-urls=http://10.0.0.1:2380 --initial-cluster=cp1=http://10.0.0.1:2380
--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379 --listen-metrics-urls=http://127.0.0.1:2381
--listen-peer-urls=http://10.0.0.1:2380 --name=cp1 --snapshot-count=10000 --watch-progress-notify-interval=5s
"""
KUBEADM_TLS = """
--cert-file=server.crt --client-cert-auth=true --key-file=server.key --peer-cert-file=peer.crt
--peer-client-cert-auth=true --peer-key-file=peer.key --peer-trusted-ca-file=ca.crt --trusted-ca-file=ca.crt
"""


def test_kubeadms_static_pod() -> None:
    """F-80, in plain text today and as it is once TLS is supported."""
    config = load(KUBEADM.split(), {})
    assert config.watch_progress_notify_interval_s == 5.0
    assert config.feature_gates["InitialCorruptCheck"]
    secure = load_all(
        *(KUBEADM.replace("http:", "https:") + KUBEADM_TLS).split(),
        "--listen-metrics-urls=http://127.0.0.1:2381",
    )
    assert not secure.client_tls.is_empty
    assert secure.peer_tls.trusted_ca_file == "ca.crt"


def test_the_default_name_is_mentioned_where_another_member_may_have_it() -> None:
    cluster = "--initial-cluster=default=http://localhost:2380,b=http://localhost:2382"
    (notice,) = notices(load([cluster], {}, unsupported={}))
    assert "default name" in notice

"""How settings must fit together (rules F-60 to F-68, TLS-01, TLS-05): one small function per rule.

Every check reads the values by flag name and raises ConfigError, or adds a notice where etcd only warns.
Reads no file and asks no name server: what depends on the data directory is `bootstrap`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from raftkv.config.capabilities import Capability, Unsupported
from raftkv.config.errors import ConfigError
from raftkv.config.inputs import Given, Notice
from raftkv.config.settings import MIB, Status
from raftkv.config.tables import SETTINGS
from raftkv.config.urls import Url, is_wildcard, join_urls, listen_problem
from raftkv.rpc.tls_names import OPENSSL_NAMES, openssl_list, unknown_suites

MAX_ELECTION_MS: Final = 50_000
LARGE_REQUEST_BYTES: Final = 10 * MIB
LARGE_QUOTA_BYTES: Final = 8 * 1024 * MIB

LISTEN_FLAGS: Final = (
    "listen-client-urls",
    "listen-client-http-urls",
    "listen-metrics-urls",
    "listen-peer-urls",
)
ADVERTISE_FLAGS: Final = ("advertise-client-urls", "initial-advertise-peer-urls")


class Subject:
    """What the checks look at: the effective values, which of them were given, and where notices go."""

    __slots__ = ("given", "notices", "unsupported", "values")

    def __init__(
        self,
        values: Mapping[str, Any],
        given: Mapping[str, Given],
        unsupported: Unsupported,
        notices: list[Notice],
    ) -> None:
        self.values = values
        self.given = given
        self.unsupported = unsupported
        self.notices = notices

    def notice(self, text: str, **fields: object) -> None:
        self.notices.append(Notice(text, fields))


def check_all(subject: Subject) -> None:
    """Raises ConfigError for the first rule broken. What cannot be supported yet is said before the rest."""
    for check in CHECKS:
        check(subject)


def _statuses(subject: Subject) -> None:
    """Nothing that was asked for is left out silently: it is refused, or a notice says it has no effect."""
    for name, given in subject.given.items():
        setting = SETTINGS[name]
        if given.value == setting.default_value():
            continue
        status = setting.status(subject.unsupported)
        if status is Status.REFUSED:
            assert setting.needs is not None
            raise _unsupported(given.origin, setting.needs, subject.unsupported)
        if status is Status.NO_EFFECT:
            reason = setting.why_no_effect(subject.unsupported)
            subject.notice("a setting is accepted but has no effect", setting=name, because=reason)


def _unsupported(what: str, capability: Capability, unsupported: Unsupported) -> ConfigError:
    return ConfigError(
        f"{what} needs {capability.value}, which this version of raftkv does not support",
        unsupported[capability],
    )


def _timing(subject: Subject) -> None:
    """Rule F-60."""
    heartbeat_ms = subject.values["heartbeat-interval"]
    election_ms = subject.values["election-timeout"]
    if heartbeat_ms <= 0:
        raise ConfigError(f"--heartbeat-interval is {heartbeat_ms} ms", "It must be more than 0; the default is 100.")
    if election_ms < 5 * heartbeat_ms:
        raise ConfigError(
            f"--election-timeout ({election_ms} ms) is less than 5 times --heartbeat-interval "
            f"({heartbeat_ms} ms): a single lost heartbeat could start an election",
            f"Set it to {5 * heartbeat_ms} or more; 10 heartbeats are usual.",
        )
    if election_ms > MAX_ELECTION_MS:
        raise ConfigError(
            f"--election-timeout ({election_ms} ms) is more than {MAX_ELECTION_MS} ms: a cluster without a "
            "leader would be down for too long",
            f"Set it to {MAX_ELECTION_MS} or less.",
        )


def _listen_hosts(subject: Subject) -> None:
    """Rule F-61."""
    for flag in LISTEN_FLAGS:
        for url in subject.values[flag]:
            problem = listen_problem(url)
            if problem is not None:
                raise ConfigError(
                    f"--{flag}: {problem}",
                    "Listen on the address of an interface (0.0.0.0 for all) and put the name into the "
                    "--advertise-* or --initial-advertise-* URLs.",
                )
    for flag in ("listen-client-urls", "listen-peer-urls"):
        if not subject.values[flag]:
            raise ConfigError(f"--{flag} is empty", "Name at least one URL to listen on.")


def _advertise_hosts(subject: Subject) -> None:
    """Rules F-62 and F-63."""
    if "listen-client-urls" in subject.given and "advertise-client-urls" not in subject.given:
        urls = join_urls(subject.values["listen-client-urls"])
        raise ConfigError(
            "--listen-client-urls is given without --advertise-client-urls, so clients would be told the "
            "default address",
            f"Add --advertise-client-urls with the URLs that clients can reach, for example {urls}.",
        )
    for flag in ADVERTISE_FLAGS:
        urls = subject.values[flag]
        if not urls:
            raise ConfigError(f"--{flag} is empty", "Name the URLs at which others reach this member.")
        for url in urls:
            if not url.is_unix and not url.host:
                raise ConfigError(f"--{flag}: URL {str(url)!r} has no host", "Write http://host:port.")
            if is_wildcard(url):
                subject.notice("an advertised URL names no reachable host", flag=f"--{flag}", url=str(url))


_BOOTSTRAP_FLAGS: Final = ("initial-cluster", "discovery", "discovery-endpoints", "discovery-srv")


def _one_bootstrap(subject: Subject) -> None:
    """Rule F-64, and the two halves of v3 discovery."""
    chosen = [flag for flag in _BOOTSTRAP_FLAGS if flag in subject.given and subject.given[flag].value]
    if len(chosen) > 1:
        names = " and ".join(subject.given[flag].origin for flag in chosen)
        raise ConfigError(f"{names} both say who the members are", "Give only one of them.")
    values = subject.values
    if values["discovery-srv-name"] and not values["discovery-srv"]:
        raise ConfigError("--discovery-srv-name is given without --discovery-srv", "Give the domain, too.")
    service = values["discovery-config"]
    if service is not None:
        if bool(service.token) != bool(service.endpoints):
            raise ConfigError(
                "one of --discovery-token and --discovery-endpoints is given without the other", "Give both."
            )
        if values["initial-cluster-state"] == "existing":
            raise ConfigError(
                "--discovery-endpoints makes a new cluster, and --initial-cluster-state is existing",
                "Name the members with --initial-cluster, as `etcdctl member add` printed them.",
            )
        if bool(service.cert_file) != bool(service.key_file):
            raise ConfigError("one of --discovery-cert and --discovery-key is given without the other", "Give both.")
        if bool(service.user) != bool(service.password):
            raise ConfigError("--discovery-user and --discovery-password: one of the two is missing", "Give both.")


def _duplicate_urls(subject: Subject) -> None:
    """Rule F-66."""
    owners: dict[Url, str] = {}
    for name, urls in subject.values["initial-cluster"].items():
        for url in urls:
            if url in owners:
                raise ConfigError(
                    f"--initial-cluster gives {url} to {owners[url]!r} and to {name!r}",
                    "Every peer URL belongs to one member.",
                )
            owners[url] = name


def _tls_pairs(subject: Subject) -> None:
    """Rules TLS-01, TLS-05 and F-68."""
    values = subject.values
    for side, listen_flags, tls in (
        ("", LISTEN_FLAGS[:3], values["client-tls"]),
        ("peer-", LISTEN_FLAGS[3:], values["peer-tls"]),
    ):
        if bool(tls.cert_file) != bool(tls.key_file):
            raise ConfigError(f"one of --{side}cert-file and --{side}key-file is given without the other", "Give both.")
        if bool(tls.client_cert_file) != bool(tls.client_key_file):
            raise ConfigError(
                f"one of --{side}client-cert-file and --{side}client-key-file is given without the other",
                "Give both.",
            )
        if tls.allowed_cns and tls.allowed_hostnames:
            raise ConfigError(
                f"--{side}cert-allowed-cn and --{side}cert-allowed-hostname are both given", "Give only one."
            )
        urls = [url for flag in listen_flags for url in values[flag]]
        secure = [url for url in urls if url.is_tls]
        if secure and tls.is_empty:
            raise ConfigError(
                f"{secure[0]} is to be served over TLS, but there is no certificate",
                f"Give --{side}cert-file and --{side}key-file, or --{side}auto-tls.",
            )
        # The metrics URLs serve probes, which seldom have a certificate.
        plain = [url for flag in listen_flags if "metrics" not in flag for url in values[flag] if not url.is_tls]
        if secure and plain and tls.wants_client_cert:
            subject.notice(
                "a URL in plain text lets everybody in, although client certificates are asked for elsewhere",
                url=str(plain[0]),
            )
        if not secure and not (tls.is_empty and not tls.wants_client_cert):
            subject.notice("TLS settings are ignored, no listen URL is https", side=side.rstrip("-") or "client")
        if tls.client_cert_auth and not tls.trusted_ca_file:
            subject.notice(
                "client certificates are checked against the system's CAs, no CA file is given",
                side=side.rstrip("-") or "client",
            )


def _tls_versions(subject: Subject) -> None:
    oldest, newest = subject.values["tls-min-version"], subject.values["tls-max-version"]
    if newest and oldest > newest:
        raise ConfigError(f"--tls-min-version {oldest} is newer than --tls-max-version {newest}", "Swap them.")
    suites = subject.values["cipher-suites"]
    unknown = unknown_suites(suites)
    if unknown:
        raise ConfigError(
            f"--cipher-suites: {unknown[0]!r} is no suite that OpenSSL offers here, by the name that Go gives it",
            f"There are {', '.join(OPENSSL_NAMES)}.",
        )
    if oldest == "TLS1.3" and suites:
        raise ConfigError(
            "--cipher-suites is given, but --tls-min-version TLS1.3 leaves nothing to choose",
            "Drop one of the two; cipher suites can be chosen for TLS 1.2 only.",
        )
    if suites and not openssl_list(suites):
        raise ConfigError(
            "--cipher-suites names suites of TLS 1.3 alone, which are not to be chosen, and leaves none for TLS 1.2",
            "For TLS 1.3 and nothing older write --tls-min-version=TLS1.3 instead.",
        )


def _grpcio_tls(subject: Subject) -> None:
    """What grpcio's server cannot do is refused, for security must not depend on which server was chosen."""
    values = subject.values
    urls = values["listen-client-urls"]
    if values["rpc-server"] != "grpcio" or not any(url.is_tls for url in urls):
        return
    tls = values["client-tls"]
    addresses = [url.address for url in urls]
    for unfit, what in (
        (values["cipher-suites"], "--cipher-suites for this server alone"),
        (values["tls-min-version"] != "TLS1.2", "a --tls-min-version other than TLS1.2"),
        (values["tls-max-version"], "--tls-max-version"),
        (tls.client_cert_auth and not tls.trusted_ca_file, "--client-cert-auth without --trusted-ca-file"),
        (len(addresses) != len(set(addresses)), "http and https on one port"),
    ):
        if unfit:
            raise ConfigError(f"--rpc-server=grpcio does not have {what}", "Use --rpc-server=native, or leave it out.")


def _log_outputs(subject: Subject) -> None:
    outputs = subject.values["log-outputs"]
    if "default" in outputs and len(outputs) > 1:
        raise ConfigError("--log-outputs has 'default' beside others", "Write stderr instead of default.")
    if "systemd/journal" in outputs:
        raise ConfigError(
            "--log-outputs=systemd/journal is not supported",
            "Use stderr, which systemd puts into the journal.",
        )
    if subject.values["enable-log-rotation"] and (len(outputs) != 1 or outputs[0] in ("default", "stderr", "stdout")):
        raise ConfigError(
            f"--enable-log-rotation rotates one file, but --log-outputs is {','.join(outputs)!r}",
            "Name exactly one file in --log-outputs.",
        )


def _gates(subject: Subject) -> None:
    gates = subject.values["feature-gates"]
    if gates["LeaseCheckpointPersist"] and not gates["LeaseCheckpoint"]:
        raise ConfigError(
            "feature gate LeaseCheckpointPersist is on without LeaseCheckpoint",
            "Write --feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true.",
        )


def _things_to_mention(subject: Subject) -> None:
    """Allowed, but worth a line in the log (LIM-06, AL-20)."""
    values = subject.values
    if values["max-request-bytes"] > LARGE_REQUEST_BYTES:
        subject.notice("requests larger than 10 MiB are allowed", max_request_bytes=values["max-request-bytes"])
    if values["quota-backend-bytes"] > LARGE_QUOTA_BYTES:
        subject.notice("the quota is more than 8 GiB", quota_backend_bytes=values["quota-backend-bytes"])
    if values["name"] == "default" and len(values["initial-cluster"]) > 1:
        subject.notice("the member has the default name; name every member of a cluster differently", name="default")
    if values["rpc-server"] == "grpcio" and not values["listen-client-http-urls"]:
        subject.notice(
            "the grpcio server answers gRPC only; pages like /health need URLs of their own",
            flag="listen-client-http-urls",
        )
    if values["unsafe-no-fsync"]:
        subject.notice(
            "nothing waits for the disk; a power failure will lose acknowledged writes",
            flag="unsafe-no-fsync",
        )


CHECKS: Final[tuple[Callable[[Subject], None], ...]] = (
    _statuses,
    _timing,
    _listen_hosts,
    _advertise_hosts,
    _one_bootstrap,
    _duplicate_urls,
    _tls_pairs,
    _tls_versions,
    _grpcio_tls,
    _log_outputs,
    _gates,
    _things_to_mention,
)
"""In order: what is unsupported first, so that nobody repairs a setting only to learn that it is refused."""

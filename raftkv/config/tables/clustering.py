"""Settings of the cluster: who its members are at the first start, and how they may be discovered."""

from typing import Final

from raftkv.config.capabilities import Capability
from raftkv.config.kinds import BOOL, DURATION, INT, LIST, STRING
from raftkv.config.settings import Group, Setting

CLUSTERING: Final = (
    Setting(
        "initial-cluster",
        STRING,
        "",
        Group.CLUSTER,
        "The members of a new cluster: name=peer-url,name=peer-url; a member with several URLs is named "
        "several times. Used on the first start only.",
        default_note="<name>=<initial-advertise-peer-urls>",
    ),
    Setting(
        "initial-cluster-state",
        STRING,
        "new",
        Group.CLUSTER,
        "new makes a cluster, existing joins one. Used on the first start only.",
        choices=("new", "existing"),
    ),
    Setting(
        "initial-cluster-token",
        STRING,
        "etcd-cluster",
        Group.CLUSTER,
        "Text that goes into the cluster id, so that two clusters made alike never mix.",
    ),
    Setting(
        "strict-reconfig-check",
        BOOL,
        "true",
        Group.CLUSTER,
        "Refuse membership changes that would cost the quorum.",
    ),
    Setting(
        "pre-vote",
        BOOL,
        "true",
        Group.CLUSTER,
        "Ask before an election whether it can be won, so that a returning member disturbs nobody.",
    ),
    Setting(
        "max-learners",
        INT,
        "1",
        Group.CLUSTER,
        "Members that may be non-voting learners at a time.",
        minimum=0,
        experimental=True,
    ),
    Setting(
        "v2-deprecation",
        STRING,
        "write-only",
        Group.CLUSTER,
        "Stage of the removal of etcd's v2 store.",
        choices=("not-yet", "write-only", "write-only-drop-data", "gone"),
        no_effect="there never was a v2 store here",
    ),
)


def _discovery_places(*names: str) -> tuple[str, ...]:
    """etcd nests the client's part of `discovery-config` once more than it documents: both count."""
    flat = tuple(f"discovery-config.{name}" for name in names)
    return flat + tuple(f"discovery-config.client.{name}" for name in names)


DISCOVERY: Final = (
    Setting(
        "discovery-token",
        STRING,
        "",
        Group.DISCOVERY,
        "Name of the cluster to be made, in the discovery service.",
        yaml=("discovery-config.token",),
    ),
    Setting(
        "discovery-endpoints",
        LIST,
        "",
        Group.DISCOVERY,
        "Client URLs of the etcd cluster that serves as the discovery service.",
        yaml=_discovery_places("endpoints"),
    ),
    Setting(
        "discovery-dial-timeout",
        DURATION,
        "2s",
        Group.DISCOVERY,
        "How long a try to connect to the discovery service may take.",
        minimum=0,
        yaml=_discovery_places("dial-timeout"),
    ),
    Setting(
        "discovery-request-timeout",
        DURATION,
        "5s",
        Group.DISCOVERY,
        "How long a discovery request may take.",
        minimum=0,
        yaml=_discovery_places("request-timeout"),
    ),
    Setting(
        "discovery-keepalive-time",
        DURATION,
        "2s",
        Group.DISCOVERY,
        "Time between pings to the discovery service.",
        minimum=0,
        yaml=_discovery_places("keepalive-time"),
    ),
    Setting(
        "discovery-keepalive-timeout",
        DURATION,
        "6s",
        Group.DISCOVERY,
        "How long the discovery service may take to answer a ping.",
        minimum=0,
        yaml=_discovery_places("keepalive-timeout"),
    ),
    Setting(
        "discovery-insecure-transport",
        BOOL,
        "true",
        Group.DISCOVERY,
        "Talk to the discovery service without TLS, where an endpoint has no http:// or https:// that says it.",
        yaml=_discovery_places("secure.insecure-transport"),
    ),
    Setting(
        "discovery-insecure-skip-tls-verify",
        BOOL,
        "false",
        Group.DISCOVERY,
        "Do not check the certificate of the discovery service. For tests.",
        yaml=_discovery_places("secure.insecure-skip-verify", "secure.insecure-skip-tls-verify"),
    ),
    Setting(
        "discovery-cert",
        STRING,
        "",
        Group.DISCOVERY,
        "Certificate file to show to the discovery service.",
        yaml=_discovery_places("secure.cert"),
    ),
    Setting(
        "discovery-key",
        STRING,
        "",
        Group.DISCOVERY,
        "Key file of that certificate.",
        yaml=_discovery_places("secure.key"),
    ),
    Setting(
        "discovery-cacert",
        STRING,
        "",
        Group.DISCOVERY,
        "CA bundle to check the discovery service with.",
        yaml=_discovery_places("secure.cacert"),
    ),
    Setting(
        "discovery-user",
        STRING,
        "",
        Group.DISCOVERY,
        "User at the discovery service: name or name:password.",
        yaml=_discovery_places("auth.username"),
    ),
    Setting(
        "discovery-password",
        STRING,
        "",
        Group.DISCOVERY,
        "Password of that user.",
        yaml=_discovery_places("auth.password"),
    ),
    Setting(
        "discovery-srv",
        STRING,
        "",
        Group.DISCOVERY,
        "DNS domain whose SRV records (_etcd-server-ssl._tcp, _etcd-server._tcp) name the members.",
    ),
    Setting(
        "discovery-srv-name",
        STRING,
        "",
        Group.DISCOVERY,
        "Suffix of the SRV service names: x for _etcd-server-x._tcp.",
    ),
    Setting(
        "discovery",
        STRING,
        "",
        Group.DISCOVERY,
        "URL of a v2 discovery service.",
        needs=Capability.DISCOVERY_V2,
        deprecated="use --discovery-endpoints and --discovery-token",
    ),
    Setting(
        "discovery-proxy",
        STRING,
        "",
        Group.DISCOVERY,
        "HTTP proxy on the way to a v2 discovery service.",
        needs=Capability.DISCOVERY_V2,
        deprecated="use --discovery-endpoints",
    ),
    Setting(
        "discovery-fallback",
        STRING,
        "exit",
        Group.DISCOVERY,
        "What to do when discovery fails. etcd's other value, proxy, went with its v2 proxy.",
        choices=("exit",),
        deprecated="leave it out",
    ),
)

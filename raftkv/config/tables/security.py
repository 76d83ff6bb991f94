"""Settings of TLS, of the HTTP side's guards, and of authentication. Rules TLS-01 to TLS-09."""

from typing import Final

from raftkv.config.kinds import BOOL, INT, LIST, STRING, Kind
from raftkv.config.settings import Group, Setting

TLS_VERSIONS: Final = ("TLS1.2", "TLS1.3")


_NO_CALLS_TO_ITSELF: Final = "a member of raftkv calls its own services without a connection"


def _client(name: str, kind: Kind, default: str, text: str, key: str = "", no_effect: str = "") -> Setting:
    yaml = (f"client-transport-security.{key}",) if key else ()
    return Setting(name, kind, default, Group.SECURITY, text, yaml=yaml, no_effect=no_effect)


def _peer(name: str, kind: Kind, default: str, text: str, *keys: str, experimental: bool = False) -> Setting:
    yaml = tuple(f"peer-transport-security.{key}" for key in keys)
    return Setting(
        name,
        kind,
        default,
        Group.SECURITY,
        text,
        yaml=yaml,
        experimental=experimental,
    )


SECURITY: Final = (
    _client("cert-file", STRING, "", "Certificate shown to clients. Read again at every handshake.", "cert-file"),
    _client("key-file", STRING, "", "Key of that certificate.", "key-file"),
    _client(
        "trusted-ca-file",
        STRING,
        "",
        "CA that client certificates must come from. Given this, every client needs one.",
        "trusted-ca-file",
    ),
    _client("client-cert-auth", BOOL, "false", "Every client needs a certificate.", "client-cert-auth"),
    _client("client-crl-file", STRING, "", "Revocation list: client certificates to refuse."),
    _client(
        "client-cert-allowed-hostname",
        LIST,
        "",
        "Host names of which a client certificate must carry one.",
        "allowed-hostname",
    ),
    _client(
        "client-cert-file",
        STRING,
        "",
        "Certificate for the member's own calls to itself, if it is not the server's.",
        "client-cert-file",
        _NO_CALLS_TO_ITSELF,
    ),
    _client("client-key-file", STRING, "", "Key of that certificate.", "client-key-file", _NO_CALLS_TO_ITSELF),
    _client(
        "auto-tls",
        BOOL,
        "false",
        "Make a self-signed certificate for clients at the first start.",
        "auto-tls",
    ),
    _peer("peer-cert-file", STRING, "", "Certificate shown to other members.", "cert-file"),
    _peer("peer-key-file", STRING, "", "Key of that certificate.", "key-file"),
    _peer(
        "peer-trusted-ca-file",
        STRING,
        "",
        "CA that the other members' certificates must come from.",
        "trusted-ca-file",
    ),
    _peer("peer-client-cert-auth", BOOL, "false", "Every other member needs a certificate.", "client-cert-auth"),
    _peer("peer-crl-file", STRING, "", "Revocation list: member certificates to refuse."),
    _peer(
        "peer-cert-allowed-cn",
        LIST,
        "",
        "Common names of which a member's certificate must carry one. Not together with allowed host names.",
        "allowed-cn",
        "allowed-cns",
    ),
    _peer(
        "peer-cert-allowed-hostname",
        LIST,
        "",
        "Host names of which a member's certificate must carry one.",
        "allowed-hostname",
        "allowed-hostnames",
    ),
    _peer(
        "peer-client-cert-file",
        STRING,
        "",
        "Certificate for calling other members, if it is not the one shown to them.",
        "client-cert-file",
    ),
    _peer("peer-client-key-file", STRING, "", "Key of that certificate.", "client-key-file"),
    _peer(
        "peer-auto-tls",
        BOOL,
        "false",
        "Make a self-signed certificate for peers at the first start.",
        "auto-tls",
    ),
    _peer(
        "peer-skip-client-san-verification",
        BOOL,
        "false",
        "Do not compare a member's address with the names in its certificate.",
        "skip-client-san-verification",
        experimental=True,
    ),
    Setting(
        "self-signed-cert-validity",
        INT,
        "1",
        Group.SECURITY,
        "Years that certificates made by --auto-tls and --peer-auto-tls are valid.",
        minimum=1,
    ),
    Setting(
        "cipher-suites",
        LIST,
        "",
        Group.SECURITY,
        "TLS 1.2 cipher suites, by Go's names. Empty leaves the choice to OpenSSL.",
    ),
    Setting(
        "tls-min-version",
        STRING,
        "TLS1.2",
        Group.SECURITY,
        "Oldest TLS version to accept.",
        choices=TLS_VERSIONS,
    ),
    Setting(
        "tls-max-version",
        STRING,
        "",
        Group.SECURITY,
        "Newest TLS version to accept. Empty means the newest there is.",
        choices=("", *TLS_VERSIONS),
    ),
)

AUTH: Final = (
    Setting(
        "auth-token",
        STRING,
        "simple",
        Group.AUTH,
        "Kind of token that Authenticate hands out: simple, or jwt,sign-method=RS256,pub-key=FILE,"
        "priv-key=FILE,ttl=10m. Only the members with a priv-key can hand out tokens of the second kind.",
    ),
    Setting(
        "auth-token-ttl",
        INT,
        "300",
        Group.AUTH,
        "Seconds until an unused simple token ends.",
        minimum=1,
    ),
    Setting(
        "bcrypt-cost",
        INT,
        "10",
        Group.AUTH,
        "Work factor of password hashes; each step doubles the time.",
        minimum=4,
        maximum=31,
    ),
)

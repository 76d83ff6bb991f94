"""Listen and advertise URLs: `http://127.0.0.1:2379`, `https://[::1]:2379`, `unix:///run/raftkv.sock`.

Owns their syntax (rules F-61, F-62, H-06). Resolves no names and opens no sockets.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SCHEMES: Final = ("http", "https", "unix", "unixs")
_FORM: Final = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?://)?(?P<rest>.*)$", re.DOTALL)
_HOST_PORT: Final = re.compile(r"^(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:]*)$")
_HOST_NAME: Final = re.compile(r"^[A-Za-z0-9_.~%-]*$")


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """Where to listen or where to call. Compares by its fields; `str()` gives the canonical text."""

    scheme: str
    """http, https, unix or unixs."""
    host: str
    """Address or name without brackets. Empty for a unix socket given as a path."""
    port: int
    """0 to 65535 (0 lets the kernel choose); 0 for unix sockets."""
    path: str = ""
    """File name of the unix socket; empty for http and https."""

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError with a sentence that names the text and what is wrong with it."""
        text = text.strip()
        match = _FORM.match(text)
        if match is None or match["scheme"].lower() not in _SCHEMES:
            raise ValueError(f"URL {text!r} must start with http://, https://, unix:// or unixs://")
        scheme, rest = match["scheme"].lower(), match["rest"]
        if scheme in ("unix", "unixs"):
            if not rest:
                raise ValueError(f"URL {text!r} names no socket file")
            return cls(scheme, "", 0, rest)
        return cls(scheme, *_host_and_port(text, rest))

    @property
    def is_unix(self) -> bool:
        return self.scheme in ("unix", "unixs")

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("https", "unixs")

    @property
    def address(self) -> str:
        """`host:port`, IPv6 in brackets; the socket file name for unix sockets."""
        if self.is_unix:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def with_scheme(text: str, scheme: str) -> str:
    """What was given for a server to call: `host:port` alone is as good as a URL."""
    return text if "://" in text else f"{scheme}://{text}"


def _host_and_port(text: str, rest: str) -> tuple[str, int]:
    for mark, what in (("/", "a path"), ("?", "a query"), ("#", "a fragment"), ("@", "a user name")):
        if mark in rest:
            raise ValueError(f"URL {text!r} must not contain {what}")
    match = _HOST_PORT.match(rest)
    if match is None or not match["port"]:
        raise ValueError(f"URL {text!r} must have the form scheme://host:port; the port is missing")
    port = match["port"]
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"URL {text!r} has port {port!r}, which is not a number from 0 to 65535")
    if match["v6"] is not None and not _is_ip(match["v6"]):
        raise ValueError(f"URL {text!r} has {match['v6']!r} in brackets, which is not an IPv6 address")
    host = match["v6"] if match["v6"] is not None else match["host"]
    if match["v6"] is None and not _HOST_NAME.match(host):
        raise ValueError(f"URL {text!r} has host {host!r}, which is not a host name or address")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_urls(text: str) -> tuple[Url, ...]:
    """A comma-separated list, sorted and without repetitions; empty text is the empty list.

    Raises ValueError like Url.parse.
    """
    if not text.strip():
        return ()
    return tuple(sorted({Url.parse(part) for part in text.split(",")}, key=str))


def join_urls(urls: Iterable[Url]) -> str:
    return ",".join(str(url) for url in urls)


def listen_problem(url: Url) -> str | None:
    """Why this URL cannot be listened on (rule F-61), or None."""
    if url.is_unix or url.host == "localhost" or _is_ip(url.host):
        return None
    return f"URL {str(url)!r} names host {url.host!r}; to listen, an IP address or localhost is needed"


def is_wildcard(url: Url) -> bool:
    """Whether the host means every interface, which nobody can call."""
    return not url.is_unix and _is_ip(url.host) and ipaddress.ip_address(url.host).is_unspecified

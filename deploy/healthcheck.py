"""Ask this container's member one of its probe pages: `healthcheck.py /livez`. Exit code 0 means yes.

Asks the first of ETCD_LISTEN_METRICS_URLS, from inside. Runs every few seconds, so it imports as little as it can; one
line says why the answer is no. A member that reads a configuration file must listen at the same place by that file.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

DEFAULT = "http://127.0.0.1:2381"
TIMEOUT_S = 9.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(page: str, listen_urls: str) -> str:
    """Why the answer is no, or the empty text. `listen_urls`: comma-separated; only http:// can be asked."""
    url = urlsplit((listen_urls or DEFAULT).split(",")[0].strip())
    if url.scheme != "http" or not url.hostname:
        return f"{url.geturl()} cannot be asked: the first of ETCD_LISTEN_METRICS_URLS must be an http:// URL"
    connection = HTTPConnection(_ANYWHERE.get(url.hostname, url.hostname), url.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        body = response.read(4096).decode(errors="replace")
    except (OSError, HTTPException) as failure:
        return f"{url.geturl()}{page}: {failure}"
    finally:
        connection.close()
    return "" if response.status == 200 else f"{url.geturl()}{page}: {response.status} {' '.join(body.split())}"


if __name__ == "__main__":
    problem = ask(sys.argv[1], os.environ.get("ETCD_LISTEN_METRICS_URLS", ""))
    if problem:
        sys.exit(problem)

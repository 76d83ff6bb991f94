"""Measures the way to other members: connecting, and one small question after the other on the same connection.

Asks GET /version, which every member answers on client and peer URLs, raftkv and etcd alike. Owns the thresholds;
prints nothing.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Final, NamedTuple

from raftkv.cli.doctor_latency import FEW_SAMPLES, Finding, Latencies, milliseconds
from raftkv.config.urls import Url

SLOW_P99_S: Final = 0.010
"""What the default timeouts, 100 ms and 1 s, are at ease with."""
HEARTBEAT_MS: Final = 100
"""--heartbeat-interval, as long as nobody changes it."""
TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 0.02
"""Between questions: a link at rest is measured, not the member's speed."""
_PAGE: Final = "/version"

Progress = Callable[[int, int], None]
"""Told (what is done, all), in milliseconds."""


class RoundTrips(NamedTuple):
    url: Url
    connect_s: float
    """From the first packet to a connection, TLS included."""
    round_trip: Latencies


class NoAnswer(NamedTuple):
    url: Url
    why: str


def measure(
    url: Url, duration_s: float, context: ssl.SSLContext | None, progress: Progress | None = None
) -> RoundTrips | NoAnswer:
    """`context` for https. Blocks for `duration_s`, and TIMEOUT_S more if the other side falls silent."""
    connection = _connection(url, context)
    try:
        began = perf_counter()
        connection.connect()
        connect_s = perf_counter() - began
        # Small packets must leave at once, or the kernel's waiting for more is what is measured.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return RoundTrips(url, connect_s, Latencies.of(list(_asked(connection, duration_s, progress))))
    except (OSError, http.client.HTTPException) as failure:
        return NoAnswer(url, _reason(failure))
    finally:
        connection.close()


def _connection(url: Url, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(url.host, url.port, timeout=TIMEOUT_S)
    return http.client.HTTPSConnection(url.host, url.port, timeout=TIMEOUT_S, context=context)


def _asked(connection: http.client.HTTPConnection, duration_s: float, progress: Progress | None) -> Iterator[float]:
    """Seconds of each round trip; at least one."""
    started = perf_counter()
    while True:
        asked = perf_counter()
        connection.request("GET", _PAGE)
        response = connection.getresponse()
        response.read()
        answered = perf_counter()
        if response.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"GET {_PAGE} is answered with {response.status} {response.reason}")
        yield answered - asked
        if progress is not None:
            progress(round(1000 * (answered - started)), round(1000 * duration_s))
        if answered + _PAUSE_S - started >= duration_s:
            return
        time.sleep(_PAUSE_S)


def _reason(failure: Exception) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified: {failure.verify_message}"
    if isinstance(failure, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(failure, socket.gaierror):
        return f"the name does not resolve: {failure.strerror}"
    if isinstance(failure, http.client.RemoteDisconnected | http.client.BadStatusLine):
        return "it closed the connection or speaks another protocol; is it http or https?"
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


def findings(measured: list[RoundTrips | NoAnswer]) -> list[Finding]:
    """Problems first. Without a problem the default timeouts are right."""
    found = [finding for each in measured for finding in _of_one(each)]
    return sorted(found, key=lambda finding: not finding.problem)


def _of_one(measured: RoundTrips | NoAnswer) -> Iterator[Finding]:
    if isinstance(measured, NoAnswer):
        yield Finding(
            True,
            f"{measured.url}: {measured.why}",
            "Does the member run, does it listen there, and is the port open in between?",
        )
        return
    trips = measured.round_trip
    if trips.p99_s >= SLOW_P99_S:
        yield Finding(
            True,
            f"{measured.url}: p99 of a round trip is {milliseconds(trips.p99_s)}, the advice is less than "
            f"{milliseconds(SLOW_P99_S)}: every write waits for the nearest majority",
            f"Put the members nearer to each other, or see who keeps both sides busy. {_timeouts(trips.p99_s)}",
        )
    if trips.samples < FEW_SAMPLES:
        yield Finding(
            False, f"{measured.url}: {trips.samples} round trips are too few for a p99", "Ask longer: --duration=30s"
        )


def _timeouts(round_trip_s: float) -> str:
    """etcd's rule: a heartbeat interval of about one round trip, an election timeout of ten."""
    heartbeat_ms = math.ceil(round_trip_s * 1000 / 50) * 50
    if heartbeat_ms <= HEARTBEAT_MS:
        return "The default timeouts still hold"
    return (
        f"If it must be so, give all members --heartbeat-interval={heartbeat_ms} --election-timeout={10 * heartbeat_ms}"
    )

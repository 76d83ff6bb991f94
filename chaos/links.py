"""The links between members: one Toxiproxy proxy per ordered pair, and what is done to the data on them.

Proxy i-j carries the connections that i dials to j. Data from i to j travels in both kinds of connection: upstream on
those that i dialled, downstream on those that j dialled. etcd makes use of both (a member receives Raft messages on
streams that it dialled itself), so an effect on "data from i to j" is always put on both proxies.
Owns the server process and the toxics. Knows nothing of members but their numbers and ports.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple

from toxiproxy import Proxy, Toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from chaos.errors import CannotRunError
from chaos.names import DIES_WITH_US, LOOPBACK, link_address, own_address
from chaos.programs import clean_environment

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
# OSError: the client library speaks through requests, whose errors are OSErrors.
_FAILURES: Final = (OSError, InvalidToxic, NotFound, ProxyExists, ValueError, KeyError)

Direction = tuple[int, int]
"""(from, to): data from the first member to the second."""


class Toxic(NamedTuple):
    """An effect on data. `attributes` are Toxiproxy's; `toxicity` is the part of connections that it meets."""

    type: str
    attributes: Mapping[str, int]
    toxicity: float = 1.0


CUT: Final = Toxic("timeout", {"timeout": 0})
"""Data vanishes, connections stay open; when the toxic goes they are closed, because TCP cannot miss bytes."""


class Placed(NamedTuple):
    """Where a toxic sits: on which proxy, and on which of its two streams."""

    proxy: str
    stream: str
    name: str


def proxy_name(dialler: int, listener: int) -> str:
    return f"m{dialler}-m{listener}"


def places(direction: Direction, label: str) -> tuple[Placed, Placed]:
    """The two streams that carry data in this direction."""
    sender, receiver = direction
    return (
        Placed(proxy_name(sender, receiver), "upstream", f"{label}-up"),
        Placed(proxy_name(receiver, sender), "downstream", f"{label}-down"),
    )


class Links:
    """`start`, then `put` and `lift` toxics by label, then `stop`. Every method may block for some milliseconds."""

    def __init__(self, program: Path, log_path: Path, api_port: int, seed: int) -> None:
        self._program = program
        self._log_path = log_path
        self._api_port = api_port
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._server = Toxiproxy()
        self._proxies: dict[str, Proxy] = {}
        self._placed: dict[str, list[Placed]] = {}
        """By label. Only what the server has confirmed."""

    def start(self, peer_ports: Mapping[int, int]) -> None:
        """Start the server and make a proxy for every ordered pair of members. Raises CannotRunError."""
        _spare_loopback_the_proxies()
        self._log = self._log_path.open("ab")
        self._process = subprocess.Popen(
            [*DIES_WITH_US, self._program, "-host", LOOPBACK, "-port", str(self._api_port), "-seed", str(self._seed)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=clean_environment() | {"LOG_LEVEL": "warn"},
            start_new_session=True,
        )
        self._server.update_api_consumer(LOOPBACK, self._api_port)
        self._wait_running(self._process)
        for dialler in peer_ports:
            for listener, port in peer_ports.items():
                if dialler != listener:
                    self._make_proxy(dialler, listener, port)

    def _wait_running(self, process: subprocess.Popen[bytes]) -> None:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while not self._server.running():
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise CannotRunError(
                    f"the Toxiproxy server {self._program} does not answer on port {self._api_port}:\n"
                    + self._log_path.read_text(errors="replace")[-1000:]
                )
            time.sleep(_POLL_S)

    def _make_proxy(self, dialler: int, listener: int, port: int) -> None:
        name = proxy_name(dialler, listener)
        listen = f"{link_address(dialler, listener)}:{port}"
        try:
            upstream = f"{own_address(listener)}:{port}"
            self._proxies[name] = self._server.create(upstream=upstream, name=name, listen=listen)
        except _FAILURES as error:
            raise CannotRunError(f"Toxiproxy cannot listen on {listen} for the link {name}: {error}") from error

    def put(self, label: str, toxic: Toxic, directions: Iterable[Direction]) -> None:
        """Place a toxic on the data in these directions, under a label of its own. Raises CannotRunError.

        Not atomic: the first link is affected some milliseconds before the last.
        """
        assert label not in self._placed, f"label {label} is in use"
        placed = self._placed.setdefault(label, [])
        for direction in directions:
            for place in places(direction, label):
                self._add(place, toxic)
                placed.append(place)

    def _add(self, place: Placed, toxic: Toxic) -> None:
        proxy = self._proxies[place.proxy]
        try:
            proxy.add_toxic(
                type=toxic.type,
                stream=place.stream,
                name=place.name,
                toxicity=toxic.toxicity,
                attributes=dict(toxic.attributes),
            )
            # The client library raises for few of the errors that there are; a fault that is not there must not count.
            there = proxy.get_toxic(place.name) is not None
        except _FAILURES as error:
            raise CannotRunError(f"Toxiproxy refused {toxic} on {place}: {error}") from error
        if not there:
            raise CannotRunError(f"Toxiproxy did not take {toxic} on {place}")

    def lift(self, label: str) -> None:
        """Remove the toxics placed under `label`; nothing if there are none. Raises CannotRunError."""
        for place in self._placed.pop(label, []):
            try:
                self._proxies[place.proxy].destroy_toxic(place.name)
            except _FAILURES as error:
                raise CannotRunError(f"Toxiproxy did not lift {place}: {error}") from error

    def heal(self) -> None:
        """Remove every toxic, and make sure that none is left. Raises CannotRunError."""
        for label in list(self._placed):
            self.lift(label)
        try:
            left = [toxic for proxy in self._proxies.values() for toxic in proxy.toxics()]
        except _FAILURES as error:
            raise CannotRunError(f"Toxiproxy does not say what is on its proxies: {error}") from error
        if left:
            raise CannotRunError(f"Toxiproxy still has toxics after healing: {', '.join(left)}")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()


def _spare_loopback_the_proxies() -> None:
    """The client library goes through requests, which would send even loopback calls to a proxy of the environment."""
    for name in ("no_proxy", "NO_PROXY"):
        spared = os.environ.get(name, "")
        if LOOPBACK not in spared.split(","):
            os.environ[name] = f"{spared},{LOOPBACK}" if spared else LOOPBACK

"""h2spec, the conformance tests of HTTP/2 (RFC 7540, 7541), against a serving member: every case must pass."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from helpers import go_build
from helpers.certificates import Authority
from helpers.endpoints import secure
from helpers.processes import RAFTKV, Server
from helpers.secure import credentials

_SOURCES: Final = Path(__file__).parent / "h2spec"
_PACKAGE: Final = "github.com/summerwind/h2spec/cmd/h2spec"
_CASE_LIMIT_S: Final = 20
"""For one case on a busy machine. One that passes takes a millisecond."""
_RUN_LIMIT_S: Final = 200
_STREAMS: Final = 100
"""One case opens as many streams as the server announces, and one more; by default that is 2^32."""

_CASES: Final = {
    "generic/1": 1,
    "generic/2": 5,
    "generic/3.1": 3,
    "generic/3.2": 3,
    "generic/3.3": 5,
    "generic/3.4": 1,
    "generic/3.5": 1,
    "generic/3.7": 1,
    "generic/3.8": 1,
    "generic/3.9": 2,
    "generic/3.10": 2,
    "generic/4": 4,
    "generic/5": 15,
    "http2/3.5": 2,
    "http2/4.1": 3,
    "http2/4.2": 3,
    "http2/4.3": 3,
    "http2/5.1": 13,
    "http2/5.1.1": 2,
    "http2/5.1.2": 1,
    "http2/5.3.1": 2,
    "http2/5.4.1": 2,
    "http2/5.5": 2,
    "http2/6.1": 3,
    "http2/6.2": 4,
    "http2/6.3": 2,
    "http2/6.4": 3,
    "http2/6.5": 3,
    "http2/6.5.2": 5,
    "http2/6.5.3": 2,
    "http2/6.7": 4,
    "http2/6.8": 1,
    "http2/6.9": 3,
    "http2/6.9.1": 3,
    "http2/6.9.2": 3,
    "http2/6.10": 6,
    "http2/7": 2,
    "http2/8.1": 1,
    "http2/8.1.2": 1,
    "http2/8.1.2.1": 4,
    "http2/8.1.2.2": 2,
    "http2/8.1.2.3": 7,
    "http2/8.1.2.6": 2,
    "http2/8.2": 1,
    "hpack/2.3.3": 1,
    "hpack/4.2": 1,
    "hpack/5.2": 3,
    "hpack/6.1": 1,
    "hpack/6.3": 1,
}
"""Cases of each section: one that h2spec leaves out is one that nobody checked."""

Report = dict[str, list[ElementTree.Element]]
"""Section -> its cases, as h2spec's JUnit report has them."""


@pytest.fixture(scope="session")
def h2spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("h2spec") / "h2spec"
    return go_build.build("h2spec", _SOURCES, _PACKAGE, program, tmp_path_factory.getbasetemp().parent / "h2spec.lock")


@pytest.fixture(scope="session")
def report_of(h2spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Report]]:
    """What h2spec found, with "plain" text or over "tls". It runs once for each."""

    @cache
    def report(transport: str) -> Report:
        directory = tmp_path_factory.mktemp(f"h2spec-{transport}")
        server = _server(directory, transport)
        try:
            server.start()
            return _run(h2spec, server, directory / "report.xml", transport)
        finally:
            server.stop()

    yield report
    report.cache_clear()


def _server(directory: Path, transport: str) -> Server:
    flags = [f"--max-concurrent-streams={_STREAMS}"]
    if transport == "plain":
        return Server(RAFTKV, directory, flags)
    authority = Authority(directory / "pki")
    # Without an authority for clients: h2spec has no certificate to show.
    pair = authority.server()
    server = Server(RAFTKV, directory, [*flags, f"--cert-file={pair.cert}", f"--key-file={pair.key}"])
    server.client_url = f"https://{server.endpoint}"
    secure(server.endpoint, credentials(authority))
    return server


def _run(h2spec: Path, server: Server, report: Path, transport: str) -> Report:
    command = [str(h2spec), "--strict", "--host=127.0.0.1", f"--port={server.client_port}"]
    command += [f"--timeout={_CASE_LIMIT_S}", f"--junit-report={report}"]
    if transport == "tls":
        command += ["--tls", "--insecure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_LIMIT_S, check=False)
    # It gives up at the first connection that it does not get, without a report.
    assert report.exists(), f"h2spec ended early\n{done.stdout[-2000:]}{done.stderr}\n{server.log_tail()}"
    suites = ElementTree.parse(report).getroot()
    return {suite.get("package", ""): list(suite) for suite in suites}


@pytest.mark.parametrize("transport", ["plain", "tls"])
@pytest.mark.parametrize("section", _CASES)
def test_h2spec(report_of: Callable[[str], Report], section: str, transport: str) -> None:
    cases = report_of(transport)[section]
    wrong = {case.get("classname"): "".join(case.itertext()).strip() for case in cases if len(case)}
    assert wrong == {}
    assert len(cases) == _CASES[section]


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_h2spec_has_no_other_section(report_of: Callable[[str], Report], transport: str) -> None:
    assert set(report_of(transport)) == set(_CASES)

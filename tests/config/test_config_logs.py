"""How log lines look and where they go."""

import gzip
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from raftkv.config import LogConfig, LogRotation, StartError
from raftkv.config.logfile import RotatingFile
from raftkv.config.logs import ConsoleFormatter, JsonFormatter, setup, teardown, wants_colour


def record(msg: str = "a sentence", level: int = logging.INFO, **kv: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "raftkv.x", "levelno": level, "msg": msg, "created": 1.5})
    if kv:
        made.kv = kv
    return made


def failed() -> logging.LogRecord:
    made = record(level=logging.ERROR)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_json_line() -> None:
    line = JsonFormatter().format(record(member=7, key=b"k\xff", peers=frozenset({"b", "a"})))
    assert json.loads(line) == {
        "level": "info",
        "ts": "1970-01-01T00:00:01.500Z",
        "logger": "raftkv.x",
        "msg": "a sentence",
        "member": 7,
        "key": "k\\xff",
        "peers": ["a", "b"],
    }
    assert list(json.loads(line))[:4] == ["level", "ts", "logger", "msg"]


def test_json_of_an_error_stays_one_line() -> None:
    line = JsonFormatter().format(failed())
    assert "\n" not in line
    parsed = json.loads(line)
    assert (parsed["level"], parsed["error"]) == ("error", "two\nlines")
    assert "ValueError" in parsed["stacktrace"]


def test_json_field_cannot_replace_the_frame() -> None:
    forged = record()
    forged.kv = {"level": "x", "msg": "y"}
    parsed = json.loads(JsonFormatter().format(forged))
    assert (parsed["level"], parsed["msg"]) == ("info", "a sentence")
    assert (parsed["level_"], parsed["msg_"]) == ("x", "y")


def test_console_line() -> None:
    line = ConsoleFormatter(colour=False).format(record(term=3, name="n1", why="two words", empty="", on=True))
    assert line == (
        '1970-01-01T00:00:01.500Z  INFO   raftkv.x  a sentence  term=3 name=n1 why="two words" empty="" on=true'
    )


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "a=b", 'a"b', "\x9b2J", "\u2028"])
def test_console_value_cannot_forge_a_line(value: str) -> None:
    line = ConsoleFormatter(colour=False).format(record(key=value))
    assert line.isprintable()
    assert json.loads(line.partition("key=")[2]) == value


def test_console_error_has_its_stack_below() -> None:
    lines = ConsoleFormatter(colour=False).format(failed()).splitlines()
    assert lines[0].endswith("a sentence")
    assert lines[1].startswith("Traceback")


def test_console_colours() -> None:
    line = ConsoleFormatter(colour=True).format(record(level=logging.WARNING, a=1))
    assert "\x1b[33mWARN \x1b[0m" in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_who_gets_colours() -> None:
    assert wants_colour(Terminal(), {})
    assert wants_colour(Terminal(), {"NO_COLOR": ""})
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {})


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    assert logger.handlers == handlers


def run_setup(log: LogConfig, environ: Mapping[str, str], level: int = logging.INFO) -> None:
    handlers = setup(log, environ)
    try:
        logging.getLogger("raftkv.x").log(level, "a sentence", extra={"kv": {"a": 1}})
    finally:
        teardown(handlers)


@pytest.mark.usefixtures("root")
def test_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "raftkv.log"
    run_setup(LogConfig("info", "json", ("stdout", "stderr", str(file)), None), {})
    captured = capsys.readouterr()
    assert json.loads(captured.out)["a"] == 1
    assert captured.out == captured.err == file.read_text()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("form", ["auto", "console"])
def test_terminal_gets_colours_and_a_pipe_none(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        run_setup(LogConfig("info", form, ("stderr",), None), {})
        assert ("\x1b[" in stream.getvalue()) is coloured
        assert "a sentence" in stream.getvalue()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("level", "lowest"),
    [("debug", 10), ("info", 20), ("warn", 30), ("error", 40), ("panic", 50), ("fatal", 50)],
)
def test_levels(level: str, lowest: int, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted, expected in ((lowest - 1, ""), (lowest, "a sentence")):
        run_setup(LogConfig(level, "console", ("stdout",), None), {}, wanted)
        written = capsys.readouterr().out
        assert expected in written
        assert bool(written) == bool(expected)


@pytest.mark.usefixtures("root")
def test_warnings_of_libraries_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = setup(LogConfig("info", "json", ("stdout",), None), {})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("from a library", UserWarning, stacklevel=1)
    teardown(handlers)
    assert "from a library" in capsys.readouterr().out


def test_file_that_cannot_be_opened(root: logging.Logger, tmp_path: Path) -> None:
    before = list(root.handlers)
    log = LogConfig("info", "json", (str(tmp_path / "a.log"), str(tmp_path / "no" / "b.log")), None)
    with pytest.raises(StartError, match=r"b\.log cannot be opened: No such file"):
        setup(log, {})
    assert root.handlers == before


def test_file_moved_away_by_logrotate(tmp_path: Path, root: logging.Logger) -> None:
    file = tmp_path / "raftkv.log"
    handlers = setup(LogConfig("info", "json", (str(file),), None), {})
    root.warning("first")
    file.rename(tmp_path / "raftkv.log.1")
    root.warning("second")
    teardown(handlers)
    assert "second" in file.read_text()
    assert "second" not in (tmp_path / "raftkv.log.1").read_text()


def rotation(**changes: object) -> LogRotation:
    settings = {
        "max_size_bytes": 30,
        "max_age_days": 0,
        "max_backups": 0,
        "local_time": False,
        "compress": False,
    }
    return LogRotation(**(settings | changes))  # type: ignore[arg-type]


def fill(file: Path, how: LogRotation, lines: int) -> RotatingFile:
    """Every line is 20 bytes, so that one file holds one of them."""
    handler = RotatingFile(str(file), how)
    for number in range(lines):
        handler.emit(record(f"line {number:014}"))
    return handler


def test_full_file_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "raftkv.log"
    handler = fill(file, rotation(), 3)
    handler.close()
    assert [path.read_text() for path in handler.backups()] == [
        "line 00000000000000\n",
        "line 00000000000001\n",
    ]
    assert file.read_text() == "line 00000000000002\n"
    assert all(path.name.startswith("raftkv-") and path.suffix == ".log" for path in handler.backups())


def test_size_is_remembered_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "raftkv.log"
    fill(file, rotation(), 1).close()
    handler = fill(file, rotation(), 1)
    handler.close()
    assert len(handler.backups()) == 1


def test_surplus_backups_go(tmp_path: Path) -> None:
    file = tmp_path / "raftkv.log"
    bystander = tmp_path / "raftkv-notes.log"
    bystander.touch()
    handler = fill(file, rotation(), 6)
    handler.close()
    handler = fill(file, rotation(max_backups=2), 1)
    handler.close()
    assert [path.read_text() for path in handler.backups()] == [
        "line 00000000000004\n",
        "line 00000000000005\n",
    ]
    assert bystander.exists()


def test_old_backups_go(tmp_path: Path) -> None:
    file = tmp_path / "raftkv.log"
    handler = fill(file, rotation(), 3)
    handler.close()
    old = handler.backups()[0]
    os.utime(old, (time.time() - 2 * 86_400 - 60,) * 2)
    handler = fill(file, rotation(max_age_days=2, local_time=True), 1)
    handler.close()
    assert len(handler.backups()) == 2
    assert not old.exists()


def test_backups_are_compressed(tmp_path: Path) -> None:
    handler = fill(tmp_path / "raftkv.log", rotation(compress=True), 2)
    handler.close()
    (backup,) = handler.backups()
    assert backup.name.endswith(".log.gz")
    assert gzip.decompress(backup.read_bytes()) == b"line 00000000000000\n"


def test_rename_that_fails_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that became read-only: the old file goes on."""

    def refuse(source: object, target: object) -> None:
        raise PermissionError

    monkeypatch.setattr(logging, "raiseExceptions", False)
    file = tmp_path / "raftkv.log"
    handler = RotatingFile(str(file), rotation())
    handler.emit(record(f"line {0:014}"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        handler.emit(record(f"line {1:014}"))
    handler.emit(record(f"line {2:014}"))
    handler.close()
    text = file.read_text() + "".join(path.read_text() for path in handler.backups())
    assert "line 00000000000001" in text
    assert "line 00000000000002" in text

"""A log file that is set aside when it is full (--enable-log-rotation).

Backups stand beside it as `name-2026-05-01T12-00-00.000.log`, with `.gz` behind when compressed: the
names that users of etcd know. Owns only files of that form; whatever else lies in the directory is never
touched.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from raftkv.config.model import LogRotation

_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_STAMP_FORM: Final = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}"
_CLOSE_WAIT_S: Final = 5.0


class RotatingFile(logging.FileHandler):
    """Appends lines; before the line that would exceed max_size_bytes it starts a new file."""

    def __init__(self, filename: str, rotation: LogRotation) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace")
        self._path = Path(self.baseFilename)
        self._rotation = rotation
        self._size_bytes = self._path.stat().st_size
        self._tidier: threading.Thread | None = None
        """Compresses and deletes backups, one at a time; what it misses, the next rotation's finds."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + self.terminator
            size_bytes = len(line.encode("utf-8", "backslashreplace"))
            if self._size_bytes and self._size_bytes + size_bytes > self._rotation.max_size_bytes:
                self._rotate()
            if self.stream is None:
                self.stream = self._open()
            self.stream.write(line)
            self.flush()
            self._size_bytes += size_bytes
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if self._tidier is not None:
            self._tidier.join(_CLOSE_WAIT_S)
        super().close()

    def _rotate(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        # Counted from 0 even if the rename fails (a directory that became read-only): the old file then goes
        # on for another max_size_bytes, instead of a failing rename at every line.
        self._size_bytes = 0
        try:
            os.rename(self._path, self._backup_name(time.time()))
        except OSError:
            pass
        self.stream = self._open()
        if self._tidier is None or not self._tidier.is_alive():
            self._tidier = threading.Thread(target=self._tidy, name="log-rotation", daemon=True)
            self._tidier.start()

    def _backup_name(self, now_s: float) -> Path:
        moment = datetime.fromtimestamp(now_s, UTC)
        if self._rotation.local_time:
            moment = moment.astimezone()
        while True:
            stamp = f"{moment.strftime(_STAMP)}.{moment.microsecond // 1000:03}"
            path = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
            if not path.exists() and not _compressed(path).exists():
                return path
            moment += timedelta(milliseconds=1)

    def backups(self) -> list[Path]:
        """Oldest first; the stamp in the name says which."""
        form = re.compile(rf"{re.escape(self._path.stem)}-{_STAMP_FORM}{re.escape(self._path.suffix)}(\.gz)?")
        return sorted(path for path in self._path.parent.iterdir() if form.fullmatch(path.name))

    def _tidy(self) -> None:
        try:
            keep = self.backups()
            if self._rotation.max_backups:
                first_kept = max(0, len(keep) - self._rotation.max_backups)
                for path in keep[:first_kept]:
                    path.unlink(missing_ok=True)
                keep = keep[first_kept:]
            if self._rotation.max_age_days:
                oldest_s = time.time() - self._rotation.max_age_days * 86_400
                for path in [path for path in keep if path.stat().st_mtime < oldest_s]:
                    path.unlink(missing_ok=True)
                    keep.remove(path)
            if self._rotation.compress:
                for path in keep:
                    if path.suffix != ".gz":
                        _compress(path)
        except OSError:
            # A full disk or a directory that became read-only. Nothing is lost: the next rotation tries
            # again.
            logging.getLogger(__name__).warning("old log files could not be tidied up", exc_info=True)


def _compressed(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _compress(path: Path) -> None:
    """A crash leaves either the plain file (and a part that is overwritten next time) or the finished one."""
    part = path.with_name(path.name + ".gz.part")
    with path.open("rb") as source, gzip.open(part, "wb") as target:
        shutil.copyfileobj(source, target)
    part.replace(_compressed(path))
    path.unlink()

"""A bar for what takes as long as a disk or a network needs. Shown on a terminal only, beside what a pipe reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(text: str, *, of_bytes: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """What is to be told (what is done, all; in bytes, unless the caller counts in something else), or None if nobody
    looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    sizes = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else ()
    with Progress(TextColumn(text), BarColumn(), *sizes, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

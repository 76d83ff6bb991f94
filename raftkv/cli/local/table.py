"""A view of a cluster as text: in colours for a terminal, aligned and plain for a pipe, JSON for programs.

Only how it looks; nothing is asked and nothing computed but units.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from raftkv.cli.local.directory import LocalCluster
from raftkv.cli.local.view import Row, View

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING: Final = "-"

Cell = Callable[[Row], str]

_COLUMNS: Final[dict[str, tuple[bool, Cell]]] = {
    "MEMBER": (False, lambda row: row.name),
    "STATE": (False, lambda row: row.state),
    "ROLE": (False, lambda row: row.role or _NOTHING),
    "TERM": (True, lambda row: _number(row.term)),
    "INDEX": (True, lambda row: _number(row.index)),
    "APPLIED": (True, lambda row: _number(row.applied)),
    "LAG": (True, lambda row: _number(row.lag)),
    "DB SIZE": (True, lambda row: size_text(row.db_size_bytes)),
    "RTT": (True, lambda row: _milliseconds(row.rtt_s)),
    "PID": (True, lambda row: _number(row.pid)),
    "ID": (True, lambda row: row.id or _NOTHING),
}
"""Title -> (to the right?, text)."""

_ROOM_FOR_IDS: Final = 100
"""Columns of a terminal. Narrower ones are better off without the longest and least read column."""

_STYLES: Final = {"dead": "red", "paused": "yellow", "starting": "yellow", "no answer": "yellow"}


def _number(value: int | None) -> str:
    return _NOTHING if value is None else str(value)


def size_text(size_bytes: int | None) -> str:
    """In steps of 1000, as etcdctl prints sizes."""
    if size_bytes is None:
        return _NOTHING
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _milliseconds(seconds: float | None) -> str:
    return _NOTHING if seconds is None else f"{seconds * 1000:.1f} ms"


def headline(view: View) -> str:
    running = sum(row.page is not None for row in view.rows)
    serving = f"{running} of {len(view.rows)} members serve"
    if view.leader is None:
        return f"no leader, {serving}"
    return f"{view.leader} leads in term {view.term}, {serving}"


def as_text(view: View) -> str:
    """A line per member, columns aligned; then the alarms, and who leads."""
    lines = [list(_COLUMNS), *([cell(row) for _, cell in _COLUMNS.values()] for row in view.rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    rights = [right for right, _ in _COLUMNS.values()]
    aligned = ["  ".join(_aligned(*each) for each in zip(line, widths, rights, strict=True)) for line in lines]
    notes = [f"alarm: {alarm}" for alarm in view.alarms]
    return "".join(f"{line.rstrip()}\n" for line in [*aligned, *notes, headline(view)])


def _aligned(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def as_json(view: View, cluster: LocalCluster) -> str:
    """One line. Times in seconds, sizes in bytes, ids in hex; `page` is the member's own /raftkv/member."""
    members = [_json_row(row, cluster) for row in view.rows]
    whole = {"leader": view.leader, "term": view.term, "alarms": list(view.alarms), "members": members}
    return json.dumps(whole) + "\n"


def _json_row(row: Row, cluster: LocalCluster) -> dict[str, Any]:
    member = cluster.member(row.name)
    assert member is not None, "a view of this cluster"
    addresses = {"client_url": member.client_url, "peer_url": member.peer_url, "log": str(member.log)}
    return {key: value for key, value in vars(row).items() if key != "page"} | addresses | {"page": row.page}


def as_rich(view: View, width: int, story: Sequence[str] = ()) -> RenderableType:
    """For a terminal so many columns wide, with what happened lately below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    columns = {title: column for title, column in _COLUMNS.items() if title != "ID" or width >= _ROOM_FOR_IDS}
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for title, (right, _) in columns.items():
        table.add_column(title, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in view.rows:
        style = _STYLES.get(row.state, "bold green" if row.name == view.leader else "")
        table.add_row(*(cell(row) for _, cell in columns.values()), style=style)
    parts: list[RenderableType] = [table, Text(headline(view), style="" if view.leader else "bold red")]
    parts += [Text(f"alarm: {alarm}", style="bold red") for alarm in view.alarms]
    parts += [Text(line, style="dim") for line in story]
    return Group(*parts)

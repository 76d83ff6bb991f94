"""What has changed from one look at a cluster to the next, as lines for whoever watches it."""

from __future__ import annotations

from collections import deque
from typing import Final

from raftkv.cli.local.view import View

MAX_LINES: Final = 8
"""The newest; older ones are forgotten."""


class Story:
    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        self._last: View | None = None
        self._leaderless_since_s: float | None = None

    def tell(self, view: View, clock: str, now_s: float) -> list[str]:
        """The lines that this look adds, also kept in `lines`. `clock`: the time of day, to be shown."""
        news = self._changes(view, now_s) if self._last is not None else []
        self._last = view
        if view.leader is not None:
            self._leaderless_since_s = None
        elif self._leaderless_since_s is None:
            self._leaderless_since_s = now_s
        added = [f"{clock}  {each}" for each in news]
        self.lines += added
        return added

    def _changes(self, view: View, now_s: float) -> list[str]:
        assert self._last is not None
        before = {row.name: row.state for row in self._last.rows}
        news = [f"{row.name} is {row.state}" for row in view.rows if row.state != before.get(row.name)]
        if view.leader == self._last.leader and view.term == self._last.term:
            return news
        if view.leader is None:
            return [*news, "no leader"] if self._last.leader is not None else news
        after = ""
        if self._leaderless_since_s is not None:
            after = f"; none was seen to lead for {now_s - self._leaderless_since_s:.1f} s"
        return [*news, f"{view.leader} leads in term {view.term}{after}"]

"""Simple tokens: which of them stand for which user (AU-43).

Two halves. Applying assigns and drops tokens, the same ones on every member and blind to time. The server, which has a
clock, resolves what clients present and lets tokens run out, each member by its own uses. Kept in memory only: a
restart forgets all, and nothing of it is part of the applied state.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

DEFAULT_TOKEN_TTL_S: Final = 300.0


class SimpleTokens:
    """A token's life begins when somebody with a clock next looks: at `resolve` or `expire`."""

    __slots__ = ("_fresh", "_living", "ttl_s")

    def __init__(self, ttl_s: float = DEFAULT_TOKEN_TTL_S) -> None:
        self.ttl_s = ttl_s
        """How long a token lives after it was assigned or last used; to be set before there are any."""
        self._fresh: dict[str, str] = {}
        """token -> user; whose life has not begun."""
        self._living: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """token -> (user, when it runs out, in seconds of the server's clock), the next to run out first."""

    def __len__(self) -> int:
        return len(self._fresh) + len(self._living)

    # --- applied on every member --------------------------------------------------------------------------------------

    def assign(self, token: str, user: str) -> None:
        self._fresh[token] = user

    def drop_user(self, user: str) -> None:
        """All tokens of a user (AU-21, AU-22)."""
        self._fresh = {token: owner for token, owner in self._fresh.items() if owner != user}
        for token in [token for token, (owner, _) in self._living.items() if owner == user]:
            del self._living[token]

    def clear(self) -> None:
        self._fresh.clear()
        self._living.clear()

    # --- the server's clock -------------------------------------------------------------------------------------------

    def resolve(self, token: str, now_s: float) -> str | None:
        """The user it stands for, and its life begins anew; None for one that is unknown or has run out (AU-47)."""
        self.expire(now_s)
        entry = self._living.get(token)
        if entry is None:
            return None
        user = entry[0]
        self._living[token] = (user, now_s + self.ttl_s)
        self._living.move_to_end(token)
        return user

    def expire(self, now_s: float) -> None:
        """Begin the life of new tokens, and forget those that have run out."""
        living = self._living
        for token, user in self._fresh.items():
            living[token] = (user, now_s + self.ttl_s)
        self._fresh.clear()
        while living and next(iter(living.values()))[1] <= now_s:
            living.popitem(last=False)

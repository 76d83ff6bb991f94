"""What a Range asks for, taken apart once: the interval, the order, the filters, and how much must be
fetched.

Owns the reading of RangeRequest (rules KV 2.2, RNG-04..15). Knows no tables. Validation that refuses a
request (RNG-01, KV-20) is the api's; here an unknown sort target is the key, as a client of 3.5 would find
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from raftkv.pb import rpc_pb2

_ALL_ABOVE: Final = b"\x00"
"""A range_end of one zero byte: no upper bound."""

NONE, ASCEND, DESCEND = 0, 1, 2
KEY, VERSION, CREATE, MOD, VALUE = range(5)


class Fields(NamedTuple):
    """What filters and orders look at; `value` only when the order needs it."""

    key: bytes
    create: int
    mod: int
    version: int
    value: bytes


class Filters(NamedTuple):
    """Inclusive bounds, 0 = inactive (RNG-10)."""

    min_mod: int
    max_mod: int
    min_create: int
    max_create: int

    def admit(self, fields: Fields) -> bool:
        mod, create = fields.mod, fields.create
        return not (
            mod < self.min_mod
            or (self.max_mod and mod > self.max_mod)
            or create < self.min_create
            or (self.max_create and create > self.max_create)
        )


SortKey = Callable[[Fields], bytes | int]

_SORT_KEYS: Final[dict[int, SortKey]] = {
    VERSION: lambda fields: fields.version,
    CREATE: lambda fields: fields.create,
    MOD: lambda fields: fields.mod,
    VALUE: lambda fields: fields.value,
}


def interval(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """[start, end) of a request's key and range_end (KV 2.2); end None is no upper bound.

    A single key is the interval up to its direct successor, which is itself and a zero byte.
    """
    if not range_end:
        return key, key + b"\x00"
    return key, None if range_end == _ALL_ABOVE else range_end


class RangeQuery:
    """A compiled RangeRequest. Immutable by habit; one may be run any number of times."""

    __slots__ = (
        "count_only",
        "descend",
        "end",
        "fetch",
        "filters",
        "key",
        "keys_only",
        "limit",
        "point",
        "revision",
        "sort_key",
        "wants_value",
    )

    def __init__(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        sort_order: int = NONE,
        sort_target: int = KEY,
        keys_only: bool = False,
        count_only: bool = False,
        filters: Filters | None = None,
    ) -> None:
        self.key = key
        self.end: bytes | None
        """The interval is [key, end); None is no upper bound."""
        self.key, self.end = interval(key, range_end)
        self.revision = max(revision, 0)
        """0: the current one (RNG-04)."""
        self.limit = max(limit, 0)
        """0: none (RNG-06)."""
        self.keys_only = keys_only
        self.count_only = count_only
        self.filters = filters
        self.sort_key: SortKey | None = _SORT_KEYS.get(sort_target)
        """None: by key, the order of the walk."""
        self.descend = sort_order == DESCEND
        self.wants_value = sort_target == VALUE
        # RNG-15: an implicit order cuts before it sorts, unless filters are active. Key order may cut at
        # once.
        implicit = sort_order == NONE and filters is None
        self.fetch = self.limit + 1 if self.limit and (self.by_key or implicit) else 0
        """Matches after which fetching may stop (one more than the limit says whether there are more); 0:
        never."""
        self.point = not range_end and not (self.revision or keys_only or count_only or filters)
        """One key as it is now, without anything that would change the answer."""

    @property
    def by_key(self) -> bool:
        """In ascending key order, asked for or by default (RNG-13)."""
        return self.sort_key is None and not self.descend

    @property
    def plain(self) -> bool:
        """Nothing but the stored frames in key order."""
        return not (self.keys_only or self.descend or self.filters or self.sort_key)

    @staticmethod
    def from_request(request: rpc_pb2.RangeRequest) -> RangeQuery:
        bounds = (
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
        return RangeQuery(
            request.key,
            request.range_end,
            limit=request.limit,
            revision=request.revision,
            sort_order=request.sort_order,
            sort_target=request.sort_target,
            keys_only=request.keys_only,
            count_only=request.count_only,
            filters=Filters(*bounds) if any(bounds) else None,
        )

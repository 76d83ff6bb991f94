"""raftkv with a planted fault, to see that the differential tester finds it: `faulty_raftkv.py FAULT serve ...`."""

import sys
from collections.abc import Callable
from typing import Any

from raftkv.api import errors  # before all that takes names from it


def _value() -> None:
    """Empty values are not kept as they are."""
    from raftkv.mvcc.writer import Writer

    put: Callable[..., Any] = Writer.put

    def faulty(self: Writer, key: bytes, value: bytes, lease: int = 0) -> Any:
        return put(self, key, value or b"?", lease)

    Writer.put = faulty  # type: ignore[method-assign]


def _text() -> None:
    """One refusal has another text."""
    refuse: Callable[..., Any] = errors.refuse

    def faulty(call: Any, status: errors.Status) -> Any:
        return refuse(call, errors.Status(status.code, status.text.replace("is not provided", "is missing")))

    errors.refuse = faulty


def _event() -> None:
    """Events are told twice."""
    from raftkv.api.watch import WatchStream

    deliver: Callable[..., Any] = WatchStream.deliver

    def faulty(self: WatchStream, watcher: Any, batch: Any) -> Any:
        return deliver(self, watcher, batch) and deliver(self, watcher, batch)

    WatchStream.deliver = faulty  # type: ignore[method-assign]


if __name__ == "__main__":
    {"value": _value, "text": _text, "event": _event}[sys.argv[1]]()
    from raftkv.cli.main import run

    raise SystemExit(run(sys.argv[2:]))

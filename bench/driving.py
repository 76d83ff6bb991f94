"""From the name of a workload to what drives it."""

from __future__ import annotations

from typing import Final

from bench.gateway import PUT_JSON, drive_gateway
from bench.load import LoadOptions, LoadResult, drive_unary
from bench.watching import drive_watch
from bench.workloads import UNARY

__all__ = ["ABOUT", "PUT_JSON", "WATCH", "drive"]

WATCH: Final = "watch"
ABOUT: Final = {
    **{name: workload.about for name, workload in UNARY.items()},
    WATCH: "one writer; --clients watchers of the prefix on --streams streams",
    PUT_JSON: "put one key through the JSON gateway; a connection for each client",
}
"""Every workload, with a line for the help text."""


async def drive(options: LoadOptions) -> LoadResult:
    """Run one measurement. Raises LoadError when it cannot be made, OSError when `server_pid` is gone."""
    if options.workload == WATCH:
        return await drive_watch(options)
    if options.workload == PUT_JSON:
        return await drive_gateway(options)
    return await drive_unary(options, UNARY[options.workload])

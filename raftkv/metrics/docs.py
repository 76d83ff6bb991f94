"""docs/metrics.md, written from the tables: `make docs` does it, and a test compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from raftkv.metrics import etcd_families
from raftkv.metrics.exposition import go_number
from raftkv.metrics.family import Family, Kind
from raftkv.metrics.own_families import OWN_FAMILIES, PROCESS_FAMILIES

HEAD = """\
# Metrics

`GET /metrics` answers in Prometheus' text format: on the client URLs, or on `--listen-client-http-urls` if given, and
on `--listen-metrics-urls`, there from the moment the process has opened its data. It needs no token, and with
`--client-cert-auth` a client certificate on https URLs.

Metrics of etcd have etcd's names, types, labels and buckets (contract section 11), so that its dashboards and alerts
work as they are. This page says what each one means here, and where a figure is not quite etcd's. What raftkv has no
true figure for is left out, and listed below with the reason; nothing is made up.

- Metrics without labels are there from the start. Those with labels appear with their first use, except the
  `grpc_server_*` counters, which are 0 for every method and code from the start.
- Members' ids in labels are lower-case hex.
- A member counts in plain integers while it works, and reads them when it is scraped, in slices of a millisecond. On
  the project's machine a scrape costs 1.4 ms of CPU, 0.9 ms of it on the event loop: once a second, 0.14 % of a core.
- What a request pays most for is that requests and bytes below `/registry/` are counted by resource: 0.07 µs of CPU
  for the look at the key, and 0.3 µs more where it lies there. A put takes 21 to 39 µs
  ([benchmarks.md](benchmarks.md)), so that is 0.2 to 0.3 % of the throughput of puts, and 1 to 1.8 % of those below
  `/registry/`. With the scrapes it stays below 2 %. [How it was measured](#what-counting-costs).
- `--metrics=extensive` adds `grpc_server_handling_seconds`, which times every call: 0.6 µs of CPU each, two to three
  per cent of a small call. So it is off by default, as in etcd.

This page is written by `make docs`.
"""

SECTIONS = (
    ("Server", etcd_families.SERVER),
    ("Disk and snapshots", etcd_families.DISK),
    ("Network", etcd_families.NETWORK),
    ("Store and leases", etcd_families.MVCC),
    ("gRPC", (*etcd_families.GRPC, *etcd_families.GRPC_EXTENSIVE)),
    ("raftkv's own", OWN_FAMILIES),
    ("Process", PROCESS_FAMILIES),
)

PROCESS = """
Beside these: `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_virtual_memory_bytes`,
`process_resident_memory_bytes` and `process_start_time_seconds`, as every Prometheus client has them, and Python's
`python_info` and `python_gc_*` in the place of Go's `go_*`. Resident memory includes the pages of the store that are
mapped, which the kernel takes back when it needs them.
"""

COST = """
## What counting costs

Processor time of the look at a key, and of counting one that lies below `/registry/`:

```console
$ setup='from raftkv.api.registry_counts import MethodCounts, ROOT; count = MethodCounts(); message = bytes(300)'
$ python -m timeit -p -r 15 -s "$setup; key = b'bench/000123'" 'if key.startswith(ROOT): count.note(key, len(message))'
5000000 loops, best of 15: 65.2 nsec per loop
$ python -m timeit -p -r 15 -s "$setup; key = b'/registry/pods/default/web'" \\
    'if key.startswith(ROOT): count.note(key, len(message))'
500000 loops, best of 15: 376 nsec per loop
```

In seven alternating rounds of `python -m bench load --workload put --connections 64 --clients 64 --seconds 4
--server-pid PID` against one member, with much other work on the machine, a put took 51 µs of the member's processor
time (median) with keys elsewhere, 48 µs with `--prefix /registry/pods/`, and 52 µs while it was scraped once a second.
That is within what rounds of one kind differ by, 12 to 18 %: neither shows. Prometheus scrapes once a minute unless it
is told otherwise.
"""

ABSENT_HEAD = """
## What etcd has and raftkv does not

The metrics of etcd's proxy (`etcd_grpc_proxy_*`), of its old v2 store (`etcd_debugging_store_*`) and of Go (`go_*`,
`promhttp_*`), and:

| etcd's metric | why not |
|---|---|
"""


def render() -> str:
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield HEAD
    for title, families in SECTIONS:
        yield f"\n## {title}\n\n"
        yield from _table(families)
    yield PROCESS
    yield ABSENT_HEAD
    for name, why in etcd_families.ABSENT:
        yield f"| `{name}` | {why} |\n"
    yield COST


def _table(families: Iterable[Family]) -> Iterator[str]:
    yield "| name | type | labels | what it says |\n|---|---|---|---|\n"
    for family in families:
        labels = ", ".join(f"`{name}`" for name in family.labels)
        text = family.help.replace("|", r"\|")
        if family.kind is Kind.HISTOGRAM:
            first, second, last = (go_number(family.bounds[at]) for at in (0, 1, -1))
            text += f" Buckets {first}, {second} … {last}."
        if family.differs:
            text += f" *Here:* {family.differs}"
        yield f"| `{family.name}` | {family.kind.value} | {labels} | {text} |\n"


if __name__ == "__main__":
    sys.stdout.write(render())

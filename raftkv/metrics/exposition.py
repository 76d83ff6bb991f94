"""From plain counters to Prometheus' text format (H-61, PY-22).

Written here and not by prometheus_client, which takes 11 to 24 ms for the thousand series of the gRPC families alone
and would stop the event loop for as long. The part of a line that does not change, its name and labels, is made once.
Owns the format. The figures come from readers; nothing is kept between two scrapes but those parts of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf, isinf
from typing import Final, TypeAlias, cast

from raftkv.histogram import Histogram
from raftkv.metrics.family import Family, Kind

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_PREFIXES: Final = 8192
"""Beginnings of lines kept per family. When full all are forgotten."""

Labels: TypeAlias = tuple[str, ...]
"""Values, in the order of the family's label names."""
Figure: TypeAlias = "float | Histogram"
Reader: TypeAlias = "Callable[[], Figure | Iterable[tuple[Labels, Figure]]]"
"""Called at every scrape: the figure of a family without labels, else the figure of each series."""


class Exposition:
    def __init__(self, families: Iterable[Family], readers: Mapping[str, Reader]) -> None:
        """Each family has a reader, and no reader is left over."""
        self._writers = [_Writer(family, readers[family.name]) for family in families]
        unknown = set(readers).difference(writer.family.name for writer in self._writers)
        assert not unknown, f"readers of families that do not exist: {unknown}"

    def pieces(self) -> Iterator[str]:
        """The text of one family after the other. Each is read whole at one moment; between two, time may pass."""
        for writer in self._writers:
            yield writer.text()


class _Writer:
    __slots__ = ("_head", "_prefixes", "_read", "family")

    def __init__(self, family: Family, read: Reader) -> None:
        self.family = family
        self._read = read
        self._head = f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind.value}\n"
        self._prefixes: dict[Labels, str | tuple[str, ...]] = {}

    def text(self) -> str:
        """Nothing at all for a family with labels that has no series yet (M-03)."""
        read = self._read()
        series = cast("Iterable[tuple[Labels, Figure]]", read if self.family.labels else (((), read),))
        if len(self._prefixes) > MAX_PREFIXES:
            self._prefixes.clear()
        parts: list[str] = []
        if self.family.kind is Kind.HISTOGRAM:
            for labels, figure in series:
                parts += self._histogram_lines(labels, cast("Histogram", figure))
        else:
            prefixes = self._prefixes
            for labels, figure in series:
                prefix = prefixes.get(labels) or self._new_prefix(labels)
                parts.append(f"{prefix}{number(cast('float', figure))}\n")
        return self._head + "".join(parts) if parts else ""

    def _new_prefix(self, labels: Labels) -> str:
        prefix = self._prefixes[labels] = f"{self.family.name}{_braces(self.family.labels, labels)} "
        return prefix

    def _histogram_lines(self, labels: Labels, histogram: Histogram) -> Iterator[str]:
        prefixes = self._prefixes.get(labels) or self._new_prefixes(labels)
        below = 0
        for prefix, count in zip(prefixes, histogram.counts, strict=False):  # two prefixes more: sum and count
            below += count
            yield f"{prefix}{below}\n"
        yield f"{prefixes[-2]}{number(histogram.total)}\n"
        yield f"{prefixes[-1]}{below}\n"

    def _new_prefixes(self, labels: Labels) -> tuple[str, ...]:
        """Of a histogram's lines: its buckets, the sum and the count."""
        name, names = self.family.name, self.family.labels
        ends = [go_number(bound) for bound in (*self.family.bounds, inf)]
        prefixes = [f"{name}_bucket{_braces((*names, 'le'), (*labels, end))} " for end in ends]
        prefixes += [f"{name}_{suffix}{_braces(names, labels)} " for suffix in ("sum", "count")]
        made = self._prefixes[labels] = tuple(prefixes)
        return made


def _braces(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    return repr(value) if not isinf(value) else ("+Inf" if value > 0 else "-Inf")


def go_number(value: float) -> str:
    """As Go writes it, whose words the labels `le` are (PY-22): `1`, `8.192`, `1.048576e+06`."""
    if isinf(value):
        return number(value)
    text = repr(float(value)).removesuffix(".0")
    whole, _, rest = text.partition(".")
    if len(whole) <= 6 or "e" in text:
        return text
    digits = (whole[1:] + rest).rstrip("0")
    return f"{whole[0]}{'.' if digits else ''}{digits}e+{len(whole) - 1:02d}"

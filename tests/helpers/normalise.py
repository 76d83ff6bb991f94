"""Takes out of an etcdctl output what may differ between two servers with the same history, and nothing more.

Taken out: member, cluster and lease ids, ports and scratch paths, Raft terms and indexes, file sizes, version
numbers, clock times and durations, and the padding of tables that follows from them.
Kept: every key, value, revision, version, count, hash, error text, exit code and the order of all lines.
"""

import re
from collections.abc import Callable
from typing import Final

_Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_DURATION: Final = r"(?:\d+h)?(?:\d+m)?[\d.]+(?:ns|µs|ms|s)"
_SIZE: Final = r"[\d.]+ [kMG]?B"

# A lease that an earlier command of the scenario was given: `lease grant` as simple, json and fields,
# then `lock` and `elect`, whose keys end in the lease id.
_LEASE_GRANTS: Final[tuple[tuple[re.Pattern[str], int], ...]] = (
    (re.compile(r"lease ([0-9a-f]{16}) granted"), 16),
    (re.compile(r'"ID":(-?\d+),"TTL"'), 10),
    (re.compile(r'^"ID" : (-?\d+)$', re.MULTILINE), 10),
    (re.compile(r"^\S*/([0-9a-f]{9,16})$", re.MULTILINE), 16),
)


def _remaining(match: re.Match[str]) -> str:
    granted, remaining = int(match[1]), int(match[2])
    age = "fresh" if 0 <= granted - remaining <= 3 else str(remaining)
    return f"granted with TTL({granted}s), remaining({age})"


def _remaining_json(match: re.Match[str]) -> str:
    remaining, granted = int(match[1]), int(match[2])
    age = '"fresh"' if 0 <= granted - remaining <= 3 else str(remaining)
    return f'"ttl":{age},"granted-ttl":{granted}'


def _remaining_fields(match: re.Match[str]) -> str:
    remaining, granted = int(match[1]), int(match[2])
    age = "fresh" if 0 <= granted - remaining <= 3 else str(remaining)
    return f'"TTL" : {age}\n"GrantedTTL" : {granted}'


def _sorted_keys(match: re.Match[str]) -> str:
    return f"attached keys([{' '.join(sorted(match[1].split(' ')))}])"


def _sorted_json_keys(match: re.Match[str]) -> str:
    return f'"keys":[{",".join(sorted(match[1].split(",")))}]'


def _sorted_lines(match: re.Match[str]) -> str:
    return "".join(sorted(match[0].splitlines(keepends=True)))


def _table_rule(match: re.Match[str]) -> str:
    return re.sub("-+", "-", match[0])


def _table_row(match: re.Match[str]) -> str:
    return re.sub(" +", " ", match[0])


_REWRITES: Final[tuple[_Rewrite, ...]] = (
    # The tool's own log lines.
    (re.compile(r'"ts":(?:"[^"]*"|[\d.]+)'), '"ts":<time>'),
    (re.compile(r'"target":"[^"]*"'), '"target":<target>'),
    (re.compile(r'"took":(?:"[^"]*"|[\d.]+)'), '"took":<time>'),
    (re.compile(rf'"size":"{_SIZE}"'), '"size":<size>'),
    # snapshot status: a hash and a size of the file.
    (re.compile(r'"hash":\d+,"revision"'), '"hash":<hash>,"revision"'),
    (re.compile(r'"totalSize":\d+'), '"totalSize":<size>'),
    # Tables, before any rule that looks at one row.
    (re.compile(r"^\+[-+]+\+$", re.MULTILINE), _table_rule),
    (re.compile(r"^\|.*\|$", re.MULTILINE), _table_row),
    # Raft positions.
    (re.compile(r'"(raft_term|raftTerm|raftIndex|raftAppliedIndex)":\d+'), r'"\1":<n>'),
    (re.compile(r'"(RaftTerm|RaftIndex|RaftAppliedIndex)" : \d+'), r'"\1" : <n>'),
    # endpoint status: version, sizes.
    (re.compile(r'"version":"[^"]*"'), '"version":<version>'),
    (re.compile(r'"(dbSize|dbSizeInUse)":\d+'), r'"\1":<size>'),
    (re.compile(r'"Version" : "[^"]*"'), '"Version" : <version>'),
    (re.compile(r'"DBSize" : \d+'), '"DBSize" : <size>'),
    (
        re.compile(
            rf"^((?:http://)?<endpoint>, <member>), \d+\.\d+\.\d+, {_SIZE}, (\w+, \w+), \d+, \d+, \d+,",
            re.MULTILINE,
        ),
        r"\1, <version>, <size>, \2, <n>, <n>, <n>,",
    ),
    (
        re.compile(
            r"^\| ((?:http://)?<endpoint> \| <member>) "
            rf"\| \d+\.\d+\.\d+ \| {_SIZE} \| (\w+ \| \w+) \| \d+ \| \d+ \| \d+ \|",
            re.MULTILINE,
        ),
        r"| \1 | <version> | <size> | \2 | <n> | <n> | <n> |",
    ),
    # endpoint health.
    (re.compile(rf"took = {_DURATION}"), "took = <time>"),
    (re.compile(rf"\| {_DURATION} \|"), "| <time> |"),
    # lease timetolive: the seconds left, and the keys, which the real server lists in no fixed order.
    (re.compile(r"granted with TTL\((\d+)s\), remaining\((\d+)s\)"), _remaining),
    (re.compile(r'"ttl":(\d+),"granted-ttl":(\d+)'), _remaining_json),
    (re.compile(r'"TTL" : (\d+)\n"GrantedTTL" : (\d+)'), _remaining_fields),
    (re.compile(r"attached keys\(\[([^\]]+)\]\)"), _sorted_keys),
    (re.compile(r'"keys":\[([^\]]+)\]'), _sorted_json_keys),
    (re.compile(r'^(?:"Key" : .*\n){2,}', re.MULTILINE), _sorted_lines),
    # check perf.
    (re.compile(r"Throughput is \d+ writes/s"), "Throughput is <n> writes/s"),
    (re.compile(r"(request took|Stddev is) [\d.]+s"), r"\1 <time>"),
)


class Normaliser:
    """What is known of one server's ids. Text of two servers is comparable after `text` of each one's own."""

    def __init__(self, known: dict[str, str]) -> None:
        """known: literal text of this server (ids, address, scratch path) -> the word that stands for it."""
        self._words = dict(known)
        self._lease_count = 0

    def learn_leases(self, output: str) -> None:
        """Note lease ids in the order of their grants; call with every raw output, oldest first."""
        found = sorted(
            (match.start(), int(match[1], base))
            for pattern, base in _LEASE_GRANTS
            for match in pattern.finditer(output)
        )
        for _position, lease in found:
            if str(lease) in self._words:
                continue
            self._lease_count += 1
            word = f"<lease{self._lease_count}>"
            self._words[str(lease)] = word
            self._words[f"{lease & 0xFFFFFFFFFFFFFFFF:x}"] = word
            self._words[f"{lease & 0xFFFFFFFFFFFFFFFF:016x}"] = word

    def text(self, output: str) -> str:
        # Longest first: an endpoint is part of the client URL, a short id may be part of a longer one.
        for literal in sorted(self._words, key=len, reverse=True):
            output = re.sub(rf"(?<![0-9A-Za-z]){re.escape(literal)}(?![0-9A-Za-z])", self._words[literal], output)
        for pattern, replacement in _REWRITES:
            output = pattern.sub(replacement, output)
        return output

"""What the log's tests share: short ways to write entries, and a list that behaves as the log should."""

import shutil
from pathlib import Path

from raftkv.raft import Entry, EntryType, HardState
from raftkv.wal import LogPosition, Wal, WalContents

SEGMENT_BYTES = 4096
METADATA = b"node 1 of cluster 2"


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(term=term, index=index, type=EntryType.NORMAL, data=data or b"entry %d of term %d" % (index, term))


def entries(first: int, last: int, term: int = 1, size: int = 0) -> list[Entry]:
    return [entry(index, term, (b"%d/%d " % (index, term)).ljust(size, b"x")) for index in range(first, last + 1)]


def create(directory: Path, **options: object) -> Wal:
    return Wal.create(directory, METADATA, **{"segment_bytes": SEGMENT_BYTES, **options})  # type: ignore[arg-type]


def reopen(directory: Path) -> tuple[Wal, WalContents]:
    return Wal.open(directory, metadata=METADATA, segment_bytes=SEGMENT_BYTES)


def read(directory: Path) -> WalContents:
    """Open and close at once; the directory is as after a restart."""
    wal, contents = reopen(directory)
    wal.close()
    return contents


def save(wal: Wal, *staged: Entry, state: HardState | None = None) -> None:
    wal.stage(state, staged)
    wal.flush()


def abandon(wal: Wal) -> None:
    """Let go of the files as a killed process does: no seal, no last flush."""
    wal._broken = True
    wal.close()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def flip(path: Path, offset: int, mask: int = 0x01) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


class LogModel:
    """The log as a plain list, and the hard state."""

    def __init__(self) -> None:
        self.base = LogPosition(0, 0)
        self.entries: list[Entry] = []
        self.hard_state = HardState(0, 0, 0)

    @property
    def last(self) -> LogPosition:
        return LogPosition(self.entries[-1].index, self.entries[-1].term) if self.entries else self.base

    def append(self, new: list[Entry]) -> None:
        del self.entries[new[0].index - self.base.index - 1 :]
        self.entries.extend(new)

    def restart_behind(self, position: LogPosition) -> None:
        self.base = position
        self.entries.clear()

    def check(self, contents: WalContents) -> None:
        """`contents` may begin later, where segments were released, and must agree from there on."""
        skipped = contents.base.index - self.base.index
        assert 0 <= skipped <= len(self.entries)
        base = self.entries[skipped - 1] if skipped else self.base
        assert (base.index, base.term) == (contents.base.index, contents.base.term)
        assert self.entries[skipped:] == contents.entries
        assert self.hard_state == contents.hard_state

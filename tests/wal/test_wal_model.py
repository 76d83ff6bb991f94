"""The log beside a list."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from wal_support import LogModel, abandon, create, entries, reopen

from raftkv.raft import HardState
from raftkv.wal import LogPosition


class LogBesideList(RuleBasedStateMachine):
    """After every reopening, by a clean close or a kill, the log says what the list says."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="wal-model-"))
        self.model = LogModel()
        self.wal = create(self.directory)
        self.released = 0

    def teardown(self) -> None:
        self.wal.close()
        shutil.rmtree(self.directory)

    @initialize(index=st.integers(0, 3))
    def begin(self, index: int) -> None:
        if index:
            position = LogPosition(index, 1)
            self.wal.stage(None, [], position)
            self.model.restart_behind(position)

    @rule(back=st.integers(0, 6), count=st.integers(1, 8), size=st.sampled_from([0, 10, 300, 2000, 5000]))
    def append(self, back: int, count: int, size: int) -> None:
        lowest = max(self.model.base.index, self.model.hard_state.commit) + 1
        first = max(lowest, self.model.last.index + 1 - back)
        term = self.model.last.term + (first <= self.model.last.index)
        new = entries(first, first + count - 1, term=term, size=size)
        self.wal.stage(None, new)
        self.model.append(new)

    @rule(term=st.integers(0, 3), vote=st.integers(0, 2**64 - 1))
    def vote(self, term: int, vote: int) -> None:
        self._save_state(self.model.hard_state._replace(term=self.model.hard_state.term + term, vote=vote))

    @rule(share=st.floats(0, 1))
    def commit(self, share: float) -> None:
        commit = self.model.hard_state.commit
        self._save_state(
            self.model.hard_state._replace(commit=commit + int(share * max(0, self.model.last.index - commit)))
        )

    def _save_state(self, state: HardState) -> None:
        self.wal.stage(state, [])
        self.model.hard_state = state

    @rule(jump=st.integers(0, 5))
    def install_snapshot(self, jump: int) -> None:
        position = LogPosition(self.model.last.index + jump, self.model.last.term + 1)
        state = self.model.hard_state._replace(commit=position.index)
        self.wal.stage(state, [], position)
        self.model.restart_behind(position)
        self.model.hard_state = state

    @rule()
    def flush(self) -> None:
        self.wal.flush()

    @rule(share=st.floats(0, 1), steps=st.integers(0, 3))
    def release(self, share: float, steps: int) -> None:
        self.wal.flush()
        self.released = max(self.released, int(self.model.hard_state.commit * share))
        self.wal.release_before(self.released)
        for _ in range(steps):
            self.wal.maintain()

    @rule()
    def close_and_reopen(self) -> None:
        self.wal.close()
        self._reopen()

    @rule()
    def kill_and_reopen(self) -> None:
        self.wal.flush()
        abandon(self.wal)
        self._reopen()

    def _reopen(self) -> None:
        self.wal, contents = reopen(self.directory)
        assert contents.torn is None
        self.model.check(contents)
        assert contents.base.index <= max(self.released - 1, self.model.base.index), "released too much"

    @precondition(lambda self: not self.wal.staged_bytes)
    @invariant()
    def nothing_waits_after_a_flush(self) -> None:
        assert self.wal._pending == []


TestLogBesideList = LogBesideList.TestCase
TestLogBesideList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

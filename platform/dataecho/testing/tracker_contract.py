"""The contract suite of trackers. Subclass :class:`TrackerContract` in a test file; pytest does the rest.

class TestMyTracker(TrackerContract):
    @pytest.fixture
    def new_tracker(self, tmp_path):
        return lambda: MyTracker(tmp_path / "store")

    def history(self, folder):
        return read_back(folder)
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from dataecho.training.contracts import RunInfo, Tracker
from dataecho.training.spool import Spool

NewTracker = Callable[[], Tracker]
History = Mapping[str, Sequence[tuple[int, float]]]


class TrackerContract(abc.ABC):
    """A tracker sends what is covered, once and in order, survives what is missing, and leaves nothing behind."""

    @pytest.fixture
    @abc.abstractmethod
    def new_tracker(self) -> NewTracker:
        """A function that makes a tracker; every call one that records to the same place."""

    @abc.abstractmethod
    def history(self, folder: Path) -> History | None:
        """The record of the run in ``folder``: (step, value) pairs by metric, in the order of steps, one pair
        for every point; None if this tracker keeps nothing."""

    @pytest.fixture
    def run_info(self, tmp_path: Path) -> RunInfo:
        """A run in a folder of its own."""
        folder = tmp_path / "run"
        folder.mkdir()
        dataset = {"name": "digits", "digest": "0123456789abcdef", "num_examples": 1797}
        params = {"factor": 2.0, "echo.after": "decode"}
        return RunInfo(folder=folder, name="contract", params=params, tags={"task": "digits"}, dataset=dataset)

    def test_every_covered_point_is_recorded_once_and_in_order(
        self, new_tracker: NewTracker, run_info: RunInfo
    ) -> None:
        tracker, spool = new_tracker(), Spool(run_info.folder)
        tracker.start(run_info)
        for mark in range(4):
            _append(spool, mark)
            tracker.covered(spool.position)
        tracker.finish(status="finished", artifacts=[], tags={})
        self._assert_recorded(run_info, marks=range(4))

    def test_what_no_checkpoint_covers_is_not_recorded(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        tracker, spool = new_tracker(), Spool(run_info.folder)
        tracker.start(run_info)
        _append(spool, 0)
        tracker.covered(spool.position)
        _append(spool, 1)
        tracker.finish(status="interrupted", artifacts=[], tags={})
        self._assert_recorded(run_info, marks=range(1))

    def test_a_new_tracker_continues_the_run(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        for first in (0, 2, 4):
            tracker, spool = new_tracker(), Spool(run_info.folder, position=_size(run_info.folder))
            tracker.start(run_info)
            tracker.covered(spool.position)
            for mark in (first, first + 1):
                _append(spool, mark)
            tracker.covered(spool.position)
            spool.close()
            tracker.finish(status="interrupted", artifacts=[], tags={})
        self._assert_recorded(run_info, marks=range(6))

    def test_a_run_without_metrics_can_end(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        tracker = new_tracker()
        tracker.start(run_info)
        tracker.finish(status="failed", artifacts=[], tags={"error": "before the first mark"})
        self._assert_recorded(run_info, marks=range(0))

    def test_an_artifact_that_is_missing_does_not_raise(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        tracker = new_tracker()
        tracker.start(run_info)
        tracker.finish(status="finished", artifacts=[run_info.folder / "never_written.json"], tags={})

    def test_covered_does_not_wait(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        tracker, spool = new_tracker(), Spool(run_info.folder)
        tracker.start(run_info)
        seconds = []
        for mark in range(20):
            _append(spool, mark)
            begin = time.perf_counter()
            tracker.covered(spool.position)
            seconds.append(time.perf_counter() - begin)
        tracker.finish(status="finished", artifacts=[], tags={})
        assert sorted(seconds)[10] < 0.002  # the median: a busy machine may stop any one call

    def test_nothing_runs_after_the_end(self, new_tracker: NewTracker, run_info: RunInfo) -> None:
        before = set(threading.enumerate())
        tracker = new_tracker()
        tracker.start(run_info)
        tracker.finish(status="finished", artifacts=[], tags={})
        assert set(threading.enumerate()) <= before

    def _assert_recorded(self, run_info: RunInfo, *, marks: range) -> None:
        history = self.history(run_info.folder)
        if history is None:
            return
        expected = {
            "train_loss": [(100 * mark, 1.0 / (mark + 1)) for mark in marks],
            "steps": [(100 * mark, float(mark)) for mark in marks],
        }
        assert {key: list(points) for key, points in history.items()} == {k: v for k, v in expected.items() if v}


def _append(spool: Spool, mark: int) -> None:
    spool.append(100 * mark, {"train_loss": 1.0 / (mark + 1), "steps": float(mark)}, time_ms=1_700_000_000_000 + mark)
    spool.flush()


def _size(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0

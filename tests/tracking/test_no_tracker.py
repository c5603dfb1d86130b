"""Without a tracker nothing is recorded, and nothing is written."""

import pytest

from dataecho.testing.tracker_contract import TrackerContract
from dataecho.training.contracts import NoTracker, RunInfo


class TestNoTracker(TrackerContract):
    @pytest.fixture
    def new_tracker(self):
        return NoTracker

    def history(self, folder):
        return None


def test_no_tracker_writes_nothing(tmp_path):
    tracker = NoTracker()
    tracker.start(RunInfo(folder=tmp_path, name="run", params={}, tags={}, dataset={}))
    tracker.covered(10)
    tracker.finish(status="finished", artifacts=[], tags={})
    assert list(tmp_path.iterdir()) == []

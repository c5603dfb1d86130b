"""``factor=auto`` on digits from a source that is slow: what it decides, its replay, and its resume."""

import importlib
import json
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.source import ArraySource
from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from dataecho.training.contracts import NoDisplay
from dataecho.training.spool import read_spool
from dataecho_tasks.digits.data import Digits
from tests.support import PROJECT, TIMES, config

COMMON = (
    "tracking=none",
    "display=none",
    "accelerator=cpu",
    "backend.compute_threads=1",
    "optimizer.learning_rate=0.05",
    "task._target_=tests.end_to_end.test_auto_factor.SlowDigits",
    "task.shuffle_buffer=256",
    "task.eval_interval=320",
    "budget=fresh",
    "budget.fresh=1600",
    "stop_at_target=false",
)
ECHOES = {
    "before": ("echo=before_augmentation",),
    "batch": ("echo=batch",),
    "batch shuffled": ("echo=batch", "echo.shuffle_buffer=3"),
    "device": ("echo=stage", "echo.after=device"),
}
every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())


class SlowSource(ArraySource):
    """Every example takes 2.5 milliseconds: two threads need eighty for a batch of 64. So on a busy machine too the
    source is slower than a step."""

    def read(self, shards, ks):
        time.sleep(0.0025 * len(ks))
        return super().read(shards, ks)


@dataclass(frozen=True, kw_only=True)
class SlowDigits(Digits):
    """Digits behind a slow wire."""

    def train_source(self):
        return SlowSource({name: values[self.num_held_out :] for name, values in self._data.items()})


def run(folder, *overrides):
    run_mode(config(*COMMON, f"run_dir={folder}", *overrides), folder=None, project=PROJECT)
    return json.loads((folder / "summary.json").read_text())


def weights(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])["backend"]["arrays"]


def marks(folder):
    return [
        (entry.step, {name: value for name, value in entry.metrics.items() if name not in {*TIMES, "factor"}})
        for entry in read_spool(folder)
    ]


def assert_same(folder, other):
    assert marks(folder) == marks(other)
    mine, theirs = weights(folder), weights(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)


@pytest.mark.slow
@every_echo
def test_a_slow_source_is_echoed_and_the_run_can_be_replayed(tmp_path, echo):
    summary = run(tmp_path / "auto", *echo, "factor=auto", "max_factor=6")
    history = json.loads((tmp_path / "auto" / "factor_history.json").read_text())
    assert history["entries"] == ("examples" if echo == ECHOES["before"] else "batches")
    assert history["changes"][0] == [0, 0, 1.0] and len(history["changes"]) > 1
    assert summary["factor"] == history["changes"][-1][2] > 1.5
    assert summary["config"]["factor"] == "auto"
    assert summary["steps"] > 1600 // 64 * 1.3
    factors = [entry.metrics["factor"] for entry in read_spool(tmp_path / "auto")]
    assert factors[-1] == summary["factor"] and all(1 <= factor <= 6 for factor in factors)
    replayed = run(tmp_path / "replayed", *echo, f"factor={tmp_path}/auto/factor_history.json")
    assert_same(tmp_path / "auto", tmp_path / "replayed")
    assert replayed["factor"] == summary["factor"]
    assert not (tmp_path / "replayed" / "factor_history.json").exists()


class Stopping(NoDisplay):
    def __init__(self, step):
        self._step = step

    def update(self, progress):
        if progress.steps == self._step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_run_that_was_stopped_twice_can_be_replayed_as_one(tmp_path, monkeypatch):
    echo = ("echo=before_augmentation", "factor=auto")
    for number, step in enumerate((8, 20)):  # of at least 25, whatever the factor
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(
                importlib.import_module("dataecho.modes.train"),
                "new_display",
                lambda kind, num_examples, step=step: Stopping(step),
            )
            run(tmp_path / "auto", *echo, *(["resume=auto"] if number else []))
    run(tmp_path / "auto", *echo, "resume=auto")
    assert len(json.loads((tmp_path / "auto" / "factor_history.json").read_text())["changes"]) > 1
    run(tmp_path / "replayed", echo[0], f"factor={tmp_path}/auto/factor_history.json")
    assert_same(tmp_path / "auto", tmp_path / "replayed")


def test_a_checkpoint_of_an_auto_run_is_continued_with_auto_only(tmp_path):
    echo = ("echo=before_augmentation", "budget.fresh=64")
    run(tmp_path / "auto", *echo, "factor=auto")
    history = tmp_path / "auto" / "factor_history.json"
    for factor, shown in (("1", "1"), ("2.5", "2.5"), (str(history), "a recorded history")):
        with pytest.raises(SettingError, match=f"^factor={shown} cannot be used. Allowed: auto, the value the chec"):
            run(tmp_path / "auto", *echo, f"factor={factor}", "resume=auto")
    with pytest.raises(SettingError, match="^max_factor=4 cannot be used. Allowed: None, the value the checkpoint"):
        run(tmp_path / "auto", *echo, "factor=auto", "max_factor=4", "resume=auto")


def test_a_history_of_another_echo_is_refused_before_a_run_folder_exists(tmp_path):
    run(tmp_path / "auto", "echo=before_augmentation", "factor=auto", "budget.fresh=64")
    history = tmp_path / "auto" / "factor_history.json"
    with pytest.raises(SettingError, match=f"^factor={history} .*it counts examples, and this echo repeats batches"):
        run(tmp_path / "other", "echo=batch", f"factor={history}")
    assert not (tmp_path / "other").exists()

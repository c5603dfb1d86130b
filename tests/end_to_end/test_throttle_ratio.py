"""`pipeline.throttle.ratio`: a limit relative to the step, the same for all of a run, which changes no result."""

import json

import pytest

from dataecho.compose import compose_training
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from tests.support import PROJECT, TIMES, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "pictures.num_examples=0")
SHORT = ("task.eval_interval=64", "task.budget=256", "task.shuffle_buffer=0", "stop_at_target=false")
RATIO = "pipeline.throttle.ratio=0.5"


def train(folder, *overrides):
    run_mode(config(*QUIET, *SHORT, *overrides), folder=folder, project=PROJECT)
    return json.loads((folder / "summary.json").read_text())


def results(summary):
    return {name: value for name, value in summary.items() if name not in {*TIMES, "emulated_source", "config"}}


def test_the_measurement_changes_no_result_and_the_limit_is_told(tmp_path):
    slow = train(tmp_path / "slow", RATIO)
    assert results(slow) == results(train(tmp_path / "fast"))
    step_time = json.loads((tmp_path / "slow" / "throttle.json").read_text())["step_time"]
    assert slow["emulated_source"] == {"ratio": 0.5, "examples_per_second": pytest.approx(64 / (0.5 * step_time))}
    assert not (tmp_path / "fast" / "throttle.json").exists()


def test_a_resumed_run_has_the_limit_of_its_beginning(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "throttle.json").write_text('{"step_time": 0.001}')
    arguments = config(*QUIET, *SHORT, RATIO, "resume=auto")
    run = compose_training(arguments, folder=folder, project=PROJECT)
    assert run.workload.emulated == {"ratio": 0.5, "examples_per_second": pytest.approx(64 / (0.5 * 0.001))}


def test_a_new_run_measures_anew(tmp_path):
    (tmp_path / "throttle.json").write_text('{"step_time": 1000.0}')
    run = compose_training(config(*QUIET, *SHORT, RATIO), folder=tmp_path, project=PROJECT)
    assert run.workload.emulated["examples_per_second"] > 1


def test_a_ratio_and_a_rate_exclude_each_other(tmp_path):
    both = config(*QUIET, RATIO, "pipeline.throttle.examples_per_second=10")
    with pytest.raises(SettingError, match=r"^pipeline.throttle.ratio=0.5 cannot be used. Allowed: nothing together"):
        compose_training(both, folder=tmp_path / "run", project=PROJECT)

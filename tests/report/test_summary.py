"""What a person reads when a run has ended."""

import pytest

from dataecho.modes import run_mode
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "pictures.num_examples=0", "task.eval_interval=64", "budget=steps")


@pytest.fixture
def ended(tmp_path, capsys):
    """The lines that a run prints."""

    def run(*overrides):
        settings = config(*QUIET, f"run_dir={tmp_path / 'run'}", *overrides)
        run_mode(settings, folder=None, project=PROJECT, repeat="python train.py echo=none")
        return capsys.readouterr().out.splitlines()

    return run


def test_the_end_has_times_speed_and_the_command_that_repeats_the_run(ended, tmp_path):
    lines = ended("budget.steps=6", "task.target=0.01")
    names = [line[:24].rstrip() for line in lines]
    for name in ("best accuracy", "total time", "evaluation", "examples per second"):
        assert name in names
    assert lines[-1] == "Repeat:   python train.py echo=none"
    assert (tmp_path / "run" / "command.txt").read_text() == "python train.py echo=none\n"
    assert not any("improving" in line for line in lines)


def test_a_miss_while_improving_advises_a_longer_budget(ended, tmp_path, monkeypatch):
    monkeypatch.setenv("DATAECHO_COMMAND", "python train.py")
    advice = ended("budget.steps=20")[-2]
    command = f"python train.py resume={tmp_path / 'run'} budget.steps=40"
    assert advice == f"It was still improving. Spend more: {command}"


def test_a_miss_without_progress_advises_another_rate(ended):
    advice = ended("budget.steps=4", "optimizer.learning_rate=1.0e-30")[-2]
    assert advice == (
        "It had stopped improving. Try another optimizer.learning_rate than 1e-30, or a larger budget.steps with "
        "schedule=linear."
    )

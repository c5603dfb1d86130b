"""Sweeps of ``train.py`` itself: digits, with PyTorch."""

import json

import pytest

from tests.support import PROJECT, TIMES

TRAIN = PROJECT / "train.py"
DIGITS = ("tracking=none", "accelerator=cpu", "optimizer.learning_rate=interval(0.05,0.15)", "display=plain")


def summary(app, trial):
    found = json.loads((app.sweep_dir / trial.folder / "summary.json").read_text())
    return {name: value for name, value in found.items() if name not in TIMES and name != "config"}


@pytest.mark.slow
def test_a_trial_that_is_killed_goes_on_from_its_checkpoint_to_the_same_end(app, tmp_path_factory):
    arguments = (
        *DIGITS,
        "echo=batch",
        "factor=2",
        "stop_at_target=false",
        "task.budget=2560",
        "hydra.sweeper.num_trials=1",
    )
    other = type(app)(tmp_path_factory.mktemp("unbroken"))
    assert other.run(*arguments, program=TRAIN).returncode == 0
    process = app.start(*arguments, program=TRAIN)
    app.until(lambda: any(app.sweep_dir.glob("*/*/*/checkpoints/step-*")))
    process.kill()
    process.communicate()
    done = app.run(*arguments, program=TRAIN)
    assert done.returncode == 0, done.err
    (wanted,), (found,) = other.results()[0].trials, app.results()[0].trials
    assert summary(app, found) == summary(other, wanted)
    assert (found.params, found.seed, found.values) == (wanted.params, wanted.seed, wanted.values)
    output = (app.sweep_dir / found.folder / "output.log").read_text()
    _, _, continued = output.split("Training to")
    assert "       256 fresh examples" not in continued and "     2,560 fresh examples" in continued


@pytest.mark.slow
def test_a_pruned_trial_says_so_and_counts_and_leaves_no_checkpoint(app):
    # Reported is minus the accuracy, as the study minimises: everything above -1 is pruned, at the first mark.
    pruner = ("hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=-1")
    done = app.run(*DIGITS, *pruner, "hydra.sweeper.num_trials=2", program=TRAIN)
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert [trial.state for trial in result.trials] == ["pruned", "pruned"] and result.finished
    for trial in result.trials:
        assert summary(app, trial)["pruned"] is True and trial.metrics["fresh_examples"] == 256
        assert not (app.sweep_dir / trial.folder / "checkpoints").exists()
    reported = [trial.intermediate_values for trial in result.study.trials]
    assert reported == [{256: -trial.metrics["accuracy"]} for trial in result.trials]


@pytest.mark.slow
def test_losers_lose_their_checkpoints_and_the_winner_keeps_them(app):
    budget = ("task.target=0.3", "task.budget=2560")
    done = app.run(*DIGITS, *budget, "hydra.sweeper.num_trials=3", program=TRAIN)
    assert done.returncode == 0, done.err
    (result,) = app.results()
    kept = {trial.number for trial in result.trials if (app.sweep_dir / trial.folder / "checkpoints").exists()}
    assert kept == {result.winner.number}

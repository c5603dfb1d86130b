"""Whole sweeps of a small program, by the command line: totals, failures, and what a kill leaves."""

import json
import os
import signal
import subprocess
import time

import pytest

from dataecho_search.report.cells import summarize
from tests.search.conftest import alive, points
from tests.support import PROJECT

LR = "x=interval(0,1)"


def states(result):
    return [trial.state for trial in result.trials]


def test_every_cell_and_repeat_is_searched_by_itself_and_the_table_compares_them(app):
    done = app.run(LR, "echo=none,batch", "factor=2", "hydra.sweeper.num_trials=4", "hydra.sweeper.num_repeats=2")
    assert done.returncode == 0, done.err
    results = app.results()
    assert [result.name for result in results] == ["echo=none/0", "echo=none/1", "echo=batch/0", "echo=batch/1"]
    assert [result.cell for result in results[1:3]] == [{"echo": "none"}, {"echo": "batch", "factor": "2"}]
    assert all(states(result) == ["completed"] * 4 for result in results)
    seeds = [trial.seed for result in results for trial in result.trials]
    xs = [trial.params["x"] for result in results for trial in result.trials]
    assert len(set(seeds)) == len(set(xs)) == 16
    for result in results:
        for trial in result.trials:
            summary = json.loads((app.sweep_dir / trial.folder / "summary.json").read_text())
            assert trial.values == (summary["fresh_examples_to_target"],) and summary["seed"] == trial.seed
            assert trial.values[0] == round(1000 * (1 + (trial.params["x"] - 0.3) ** 2))
            assert trial.metrics["eval_loss"] == summary["eval_loss"]
        assert result.winner.values[0] == min(trial.values[0] for trial in result.trials)
    cells = summarize(results)
    assert [(cell.name, len(cell.costs)) for cell in cells] == [("echo=none", 2), ("echo=batch", 2)]
    assert cells[1].ratio == pytest.approx(cells[1].mean / cells[0].mean) and cells[0].ratio == 1
    assert "Winners: fresh_examples_to_target" in done.out and "Sweep folder" in done.out
    assert done.out.count("trial 3: fresh_examples_to_target 1,") == 4
    before = points(results)
    again = app.run(LR, "echo=none,batch", "factor=2", "hydra.sweeper.num_trials=5", "hydra.sweeper.num_repeats=2")
    assert again.returncode == 0 and "echo=none/0: continues after 4 of 5 trials" in again.out
    after = points(app.results())
    assert len(after) == 20 and all(after[key] == value for key, value in before.items())
    assert set(app.attempts().values()) == {1}


def test_a_sweep_that_is_killed_at_any_moment_ends_as_an_unbroken_one(app, tmp_path_factory):
    arguments = (LR, "echo=a,b", "diverges_above=0.8", "hydra.sweeper.num_trials=8", "seconds=0.1",
                 "hydra.sweeper.num_parallel_trials=2")  # fmt: skip
    other = type(app)(tmp_path_factory.mktemp("unbroken"))
    unbroken = other.run(*arguments)
    assert unbroken.returncode == 0, unbroken.err
    wanted = points(other.results())
    assert [result.num_counted for result in other.results()] == [8, 8]
    assert any(state == "diverged" for _, state, _ in wanted.values())
    for num_begun in (1, 6, 13):
        process = app.start(*arguments)
        app.until(lambda limit=num_begun: len(app.pids()) >= limit)
        children = app.pids()
        process.kill()
        process.communicate()
        app.until(lambda children=children: not any(map(alive, children)), seconds=2)
    last = app.run(*arguments)
    assert last.returncode == 0, last.err
    assert points(app.results()) == wanted
    assert sum(app.attempts().values()) <= len(wanted) + 3 * 2, "only what ran when it was killed ran again"
    assert [result.winner.params for result in app.results()] == [result.winner.params for result in other.results()]


def test_a_worker_that_is_killed_loses_no_trial(app):
    done = app.run(LR, "dies_once_above=0.5", "hydra.sweeper.num_trials=6", "hydra.sweeper.num_parallel_trials=2")
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert states(result) == ["completed"] * 6
    assert {trial.folder: 1 + (trial.params["x"] > 0.5) for trial in result.trials} == app.attempts()
    assert "lost its worker (killed by SIGKILL)" in done.out


def test_a_result_that_was_not_told_is_told_from_its_folder(app):
    arguments = (LR, "hydra.sweeper.num_trials=3")
    assert app.run(*arguments).returncode == 0
    wanted = points(app.results())
    (app.sweep_dir / "journal.log").unlink()
    done = app.run(*arguments)
    assert done.returncode == 0, done.err
    assert points(app.results()) == wanted and set(app.attempts().values()) == {1}


def test_two_shells_share_a_sweep_and_one_goes_on_when_the_other_dies(app):
    def owners():
        return {trial.user_attrs.get("owner") for trial in app.results()[0].study.trials} - {None}

    arguments = (LR, "hydra.sweeper.num_trials=14", "seconds=0.5")
    first = app.start(*arguments)
    app.until(lambda: len(app.pids()) >= 1)
    second = app.start(*arguments)
    app.until(lambda: len(owners()) == 2)
    first.kill()
    second.out, second.err = second.communicate(timeout=60)
    assert second.returncode == 0, second.err
    (result,) = app.results()
    assert states(result) == ["completed"] * 14 and len({trial.params["x"] for trial in result.trials}) == 14
    assert sum(app.attempts().values()) <= 14 + 2, "only what ran when it was killed ran again"
    assert list((app.sweep_dir / "members").glob("*.json")) == []


def test_no_trial_waits_for_another(app):
    done = app.run("y=1,2", "seconds=0.1,3,0.2,0.3", "hydra.sweeper.num_parallel_trials=2")
    assert done.returncode == 0, done.err
    runs = [json.loads((app.sweep_dir / str(number) / "summary.json").read_text()) for number in range(8)]
    assert max(run["begun"] for run in runs[:4]) < runs[1]["ended"], "two ran while the long one did"
    assert done.out.count("trial 0") == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_ends_a_sweep_and_the_same_command_continues_it(app, number):
    process = app.start(LR, "hydra.sweeper.num_trials=3", "seconds=1")
    app.until(lambda: len(app.pids()) >= 1)
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(number)
    begun = time.monotonic()
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number and time.monotonic() - begun < 20
    assert "The same command continues the sweep" in error and not any(map(alive, app.pids()))
    (result,) = app.results()
    assert set(states(result)) == {"waiting"}
    assert app.run(LR, "hydra.sweeper.num_trials=3", "seconds=1").returncode == 0
    assert states(app.results()[0]) == ["completed"] * 3


def test_diverged_trials_end_a_study_when_there_are_too_many(app):
    done = app.run(LR, "diverges_above=0.0", "hydra.sweeper.num_trials=4", "hydra.sweeper.max_diverged_trials=3")
    assert done.returncode == 1
    assert "4 of 4 trials diverged (hydra.sweeper.max_diverged_trials=3): lower the upper end of x" in done.err


def test_failed_trials_are_told_and_tried_again_by_the_next_same_command(app):
    (app.folder / "full").write_text("")
    arguments = (LR, "fails_while=full", "hydra.sweeper.num_trials=4", "hydra.sweeper.max_failed_trials=1")
    done = app.run(*arguments)
    assert done.returncode == 1 and "OSError: no space left on the disk (its output: " in done.err
    assert "2 trials failed (hydra.sweeper.max_failed_trials=1), the last one with: OSError: no space" in done.err
    first = [trial.params for trial in app.results()[0].trials]
    assert len(first) == 2
    (app.folder / "full").unlink()
    done = app.run(*arguments)
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert states(result) == ["retried"] * 2 + ["completed"] * 4
    assert [trial.params for trial in result.trials[2:4]] == first
    assert sorted(app.attempts().values()) == [1, 1, 2, 2]


def test_a_trial_that_meets_a_full_disk_goes_on_when_there_is_room(app):
    (app.folder / "full").write_text("")
    process = app.start(LR, "full_while=full", "seconds=0.5", "hydra.sweeper.num_trials=2")
    app.until(lambda: len(app.pids()) >= 1)
    app.until(lambda: len(app.pids()) >= 2)
    (app.folder / "full").unlink()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    (result,) = app.results()
    assert states(result) == ["completed"] * 2
    assert sorted(app.attempts().values())[0] == 1 and 2 <= max(app.attempts().values()) <= 3


def test_a_disk_that_is_full_each_time_fails_the_trial_with_its_reason(app):
    (app.folder / "full").write_text("")
    done = app.run(LR, "full_while=full", "hydra.sweeper.num_trials=1", "hydra.sweeper.max_failed_trials=0")
    assert done.returncode == 1 and "No space left on device" in done.err
    assert list(app.attempts().values()) == [3]


def test_a_plain_multirun_runs_every_combination_and_then_tells_what_failed(app):
    done = app.run("x=0.1,0.9", "seed=1,2", "fails_above=0.5")
    assert done.returncode == 1 and done.err.count("ValueError: x=0.9 is too much") == 2
    summaries = {path.parent.name: json.loads(path.read_text()) for path in app.sweep_dir.glob("*/summary.json")}
    assert {name: summary["seed"] for name, summary in summaries.items()} == {"0": 1, "1": 2}
    assert f"OMP_NUM_THREADS {os.environ['OMP_NUM_THREADS']}" in (app.sweep_dir / "0" / "output.log").read_text()
    again = app.run("x=0.1,0.9", "seed=1,2")
    assert again.returncode == 2 and "was begun" in again.err  # another program without fails_above


def test_a_grid_ends_with_its_last_combination(app):
    done = app.run("x=choice(0.1,0.2,0.3)", "y=range(1,3)", "hydra/sweeper/sampler=grid", "hydra.sweeper.num_trials=50")
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert [tuple(trial.params.values()) for trial in result.trials] == [
        (x, y) for x in (0.1, 0.2, 0.3) for y in (1, 2)
    ]


def test_several_objectives_have_a_front_and_no_pruner(app):
    objectives = "hydra.sweeper.objective=[fresh_examples_to_target,eval_loss]"
    done = app.run(LR, objectives, "hydra.sweeper.num_trials=8", "hydra/sweeper/sampler=nsgaii")
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert all(0.2 < trial.params["x"] < 0.8 for trial in result.front) or len(result.front) < 8
    assert result.winner is None and "that no other beats in everything" in done.out
    refused = app.run(LR, objectives, "hydra/sweeper/pruner=median")
    assert refused.returncode == 2 and "hydra/sweeper/pruner=MedianPruner" in refused.err


def test_a_missed_target_costs_infinitely_much(app):
    done = app.run(LR, "misses=true", "hydra.sweeper.num_trials=2")
    assert done.returncode == 0, done.err
    (result,) = app.results()
    assert [trial.values for trial in result.trials] == [(float("inf"),)] * 2 and result.winner is None
    assert "no trial of search/0 reached its target" in done.out


def test_hydras_own_sweeper_can_still_be_chosen(app):
    done = app.run("seed=1,2", "hydra/sweeper=basic")
    assert done.returncode == 0, done.err
    assert json.loads((app.sweep_dir / "1" / "summary.json").read_text())["seed"] == 2


def test_the_parent_imports_no_framework(app):
    program = app.folder / "traced.py"
    program.write_text(
        "import atexit, json, runpy, sys\n"
        "atexit.register(lambda: print('modules', json.dumps(sorted({n.partition('.')[0] for n in sys.modules}))))\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        f"sys.argv[0] = {str(PROJECT / 'train.py')!r}\n"
        f"runpy.run_path({str(PROJECT / 'train.py')!r}, run_name='__main__')\n"
    )
    done = app.run(
        "tracking=none", "budget=steps", "budget.steps=2", "optimizer.learning_rate=interval(0.01,0.1)",
        "hydra.sweeper.num_trials=1", program=program,
    )  # fmt: skip
    assert done.returncode == 0, done.err
    imported = set(json.loads(done.out.rpartition("modules ")[2]))
    assert "optuna" in imported and not imported & {"torch", "tensorflow", "keras", "jax", "mlflow"}
    (result,) = app.results()
    assert states(result) == ["completed"] and result.trials[0].metrics["steps"] == 2


def test_listing_the_options_imports_no_optuna():
    code = "import sys, hydra_plugins.dataecho_sweeper.sweeper; print('optuna' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"

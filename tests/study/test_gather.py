"""A study's results are read from run folders alone."""

import dataclasses
import json
import math

import pytest

from dataecho.errors import DataError
from dataecho_study.gather import gather
from dataecho_study.protocol import Plan

SPACE = {"rate": {"name": "FloatDistribution", "attributes": {"low": 0.01, "high": 1.0, "log": True, "step": None}}}
PLAN = Plan(
    name="figure_3",
    task="digits",
    backend="torch",
    scale="full",
    metric="accuracy",
    goal="max",
    target=0.9,
    objective="fresh",
    is_tuned_once=False,
    num_repeats=2,
    num_trials=2,
    cells=[{"key": "echo=none", "axes": {"echo": "none", "factor": 1.0}, "space": SPACE}],
    claims=[],
    picture={},
    protocol={"seed": 0},
    command="dataecho -m study=figure_3 task=digits",
    machine="2 cores",
)


def run(folder, name, fresh=None, *, rate=0.1, values=(0.5,), **facts):
    """An ended run of the cell."""
    path = folder / "echo=none" / name
    path.mkdir(parents=True)
    summary = {
        "fresh_examples_to_target": fresh,
        "train_time_to_target": None if fresh is None else fresh / 1000,
        "entered_examples_to_target": fresh,
        "upstream_downstream_ratio": 2.0,
        "wall_time": 3.0,
        "seed": 7,
        "diverged": False,
        "versions": {"python": "3.11"},
        "dataset": {"num_examples": 1297},
        "config": {"rate": rate},
        **facts,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    lines = [json.dumps({"step": n, "time_ms": 0, "metrics": {"accuracy": value}}) for n, value in enumerate(values)]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def made(folder, **changes):
    plan = dataclasses.replace(PLAN, **changes)
    plan.save(folder)
    return plan


def test_the_winner_of_a_search_has_the_fewest_fresh_examples(tmp_path):
    made(tmp_path)
    run(tmp_path, "0/0000-a", 3000)
    run(tmp_path, "0/0001-b", 2000, rate=0.95, values=(0.5, 0.95, 0.9))
    run(tmp_path, "1/0000-c", 4000)
    run(tmp_path, "1/0001-d", None, diverged=True)
    run(tmp_path, "1/0002-e", None)
    study = gather(tmp_path)
    assert study.is_complete and study.seconds_total == 15.0 and study.versions == {"python": "3.11"}
    assert study.protocol == {"seed": 0, "examples_per_epoch": 1297}
    first, second = study.cells[0].repeats
    assert (first.fresh, first.seconds, first.best, first.run) == (2000.0, 2.0, 0.95, "echo=none/0/0001-b")
    assert first.settings == {"rate": 0.95} and first.border == ["rate=0.95 lies at the upper end of 0.01 to 1"]
    assert (first.trials, first.missed, first.diverged) == (2, 0, 0)
    assert (second.fresh, second.trials, second.missed, second.diverged) == (4000.0, 2, 1, 1)


def test_a_search_that_misses_has_an_infinite_cost_and_the_settings_of_its_best_value(tmp_path):
    made(tmp_path, num_repeats=1)
    run(tmp_path, "0/0000-a", None, values=(0.7, 0.6))
    run(tmp_path, "0/0001-b", None, rate=0.2, values=(0.6, 0.8))
    (repeat,) = gather(tmp_path).cells[0].repeats
    assert (repeat.fresh, repeat.seconds, repeat.best) == (math.inf, math.inf, 0.8)
    assert repeat.settings == {"rate": 0.2} and repeat.missed == 2


def test_an_unfinished_search_counts_in_nothing_and_the_study_is_unfinished(tmp_path):
    made(tmp_path)
    run(tmp_path, "0/0000-a", 3000)
    run(tmp_path, "0/0001-b", 3500)
    run(tmp_path, "1/0000-c", 2000)
    study = gather(tmp_path)
    assert not study.is_complete
    assert [repeat.number for repeat in study.cells[0].repeats] == [0]


def test_the_objective_may_be_the_best_value(tmp_path):
    made(tmp_path, num_repeats=1, objective="best")
    run(tmp_path, "0/0000-a", 1000, values=(0.95, 0.91))
    run(tmp_path, "0/0001-b", 5000, values=(0.96, 0.2))
    (tmp_path / "echo=none/0/0001-b/training_value.json").write_text('{"accuracy": 0.99}')
    (repeat,) = gather(tmp_path).cells[0].repeats
    assert (repeat.best, repeat.train, repeat.fresh) == (0.96, 0.99, 5000.0)


def test_a_fresh_seed_that_diverges_has_missed(tmp_path):
    made(tmp_path, is_tuned_once=True, num_trials=1)
    run(tmp_path, "0/0000-a", 3000)
    run(tmp_path, "1/0000-b", None, diverged=True, values=(math.nan,))
    study = gather(tmp_path)
    assert study.is_complete
    assert [(repeat.fresh, repeat.trials, repeat.diverged) for repeat in study.cells[0].repeats] == [
        (3000.0, 1, 0),
        (math.inf, 0, 1),
    ]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is no folder of a study: it has no usable plan.json"):
        gather(tmp_path)

"""Winners, borders, and the paper's table."""

import math

import pytest

from dataecho.errors import SettingError
from dataecho_search.report.cells import summarize
from dataecho_search.study.objectives import Objective, read_objectives
from dataecho_search.study.results import StudyResult, TrialResult, border

LOG = {"attributes": {"low": 0.01, "high": 1.0, "log": True, "step": None}}
FLAT = {"attributes": {"low": 0.0, "high": 1.0, "log": False, "step": None}}
STEPS = {"attributes": {"low": 1, "high": 9, "log": False, "step": 1}}


@pytest.mark.parametrize(
    ("description", "value", "side"),
    [
        (LOG, 0.012, "lower"),
        (LOG, 0.013, ""),  # 0.05 of two decades is 0.0126
        (LOG, 0.9, "upper"),
        (FLAT, 0.05, "lower"),
        (FLAT, 0.5, ""),
        (FLAT, 0.96, "upper"),
        (STEPS, 9, "upper"),
        (STEPS, 2, ""),
        ({"attributes": {"low": 0, "high": 1, "log": False, "step": 1}}, 1, ""),
        ({"attributes": {"choices": ["a", "b"]}}, "a", ""),
    ],
)
def test_where_a_winner_is_at_the_border_of_its_space(description, value, side):
    assert border(description, value) == side


def study(name, values, *, cell, objectives=("fresh_examples_to_target",), directions=("minimize",), lr=0.5):
    trials = tuple(
        TrialResult(
            number=n, state="completed", params={"lr": lr}, values=tuple(value), folder=f"{name}/{n}", seed=n,
            metrics={}, mlflow_run_id=None, seconds=1.0,
        )
        for n, value in enumerate(values)
    )  # fmt: skip
    return StudyResult(
        name=name, cell=cell, repeat=int(name[-1]), objectives=objectives, directions=directions, space={"lr": FLAT},
        num_trials=len(values), trials=trials,
    )  # fmt: skip


def test_a_table_row_has_mean_smallest_largest_and_the_ratio_to_no_echo():
    results = [
        study("echo=none/0", [(300,), (200,)], cell={"echo": "none", "task": "digits"}),
        study("echo=none/1", [(400,)], cell={"echo": "none", "task": "digits"}),
        study("echo=batch/0", [(150,), (150,)], cell={"echo": "batch", "factor": "2", "task": "digits"}),
        study("echo=batch/1", [(math.inf,), (75,)], cell={"echo": "batch", "factor": "2", "task": "digits"}),
        study("other/0", [(math.inf,)], cell={"echo": "batch", "factor": "2", "task": "other"}),
    ]
    rows = {row.name: (row.mean, min(row.costs), max(row.costs), row.ratio) for row in summarize(results)}
    assert rows == {
        "echo=none": (300, 200, 400, 1.0),
        "echo=batch": (112.5, 75, 150, 0.375),
        "other": (math.inf, math.inf, math.inf, None),
    }
    assert results[2].winner.number == 0, "the first of equals"
    assert results[4].winner is None


def test_a_winner_at_the_border_is_told_with_its_side():
    (warning,) = study("a/0", [(5,)], cell={}, lr=0.99).border_warnings
    assert warning == "a/0: the winner's lr=0.99 lies at the upper end of 0 to 1: widen it there."


def test_a_front_leaves_out_what_is_beaten_in_everything():
    both = {"objectives": ("cost", "accuracy"), "directions": ("minimize", "maximize")}
    result = study("a/0", [(5, 0.9), (6, 0.95), (7, 0.94), (math.inf, 0.99), (5, 0.9)], cell={}, **both)
    assert [trial.number for trial in result.front] == [0, 1, 4]


def test_objectives_know_their_directions():
    read = read_objectives(["fresh_examples_to_target", "metric", "eval_loss"], None, higher_is_better=True)
    assert [objective.direction for objective in read] == ["minimize", "maximize", "minimize"]
    assert read_objectives("metric", None, higher_is_better=False) == (Objective("metric", "minimize"),)
    assert read_objectives("speed", "maximize", higher_is_better=True) == (Objective("speed", "maximize"),)
    with pytest.raises(SettingError, match="hydra.sweeper.direction=.*as many as objectives, 1"):
        read_objectives("metric", ["minimize", "maximize"], higher_is_better=True)
    with pytest.raises(SettingError, match="hydra.sweeper.objective=.*different names"):
        read_objectives([], None, higher_is_better=True)


def test_an_objective_is_read_from_a_summary():
    summary = {"metric": "accuracy", "accuracy": 0.9, "fresh_examples_to_target": None}
    assert Objective("metric", "maximize").value(summary) == 0.9
    assert Objective("fresh_examples_to_target", "minimize").value(summary) == math.inf
    assert Objective("fresh_examples_to_target", "maximize").value(summary) == -math.inf
    with pytest.raises(
        SettingError, match="hydra.sweeper.objective=speed.*metric, or a number of summary.json: accuracy"
    ):
        Objective("speed", "maximize").value(summary)

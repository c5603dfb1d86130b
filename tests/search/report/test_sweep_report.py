"""The report says what the studies say, by the paper's protocol, and lives with whatever they lack."""

import csv
import math
from pathlib import Path

import pytest
from PIL import Image

from dataecho_search.report.cells import summarize
from dataecho_search.report.sweep_report import write_report
from tests.search.studies import RATE, new_study

NONE, BATCH = {"echo": "none", "factor": "1"}, {"echo": "batch", "factor": "2"}
UNTRACKED = {"_target_": "dataecho.tracking.no_tracker.NoTracker"}
PLOTS = {"history.png", "importances.png", "parallel_coordinate.png", "slice.png"}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sweep():
    """Two cells, three repeats each; the winners cost 4000, 5000, 6000 and 3000, 3000, 1500."""
    return [
        new_study(cell, repeat, [math.inf, "diverged", cost * 2.0, float(cost), "pruned"], num_trials=4)
        for cell, costs in ((NONE, (4000, 5000, 6000)), (BATCH, (3000, 3000, 1500)))
        for repeat, cost in enumerate(costs, start=1)
    ]


def test_a_cell_is_its_winners_over_the_repeats(sweep):
    none, batch = summarize(sweep)
    assert none.costs == (4000.0, 5000.0, 6000.0)
    assert (batch.mean, batch.reached, batch.ratio, batch.ideal) == (2500.0, (3000.0, 3000.0, 1500.0), 0.5, 0.5)
    assert (none.ratio, none.ideal) == (1.0, 1.0)
    assert (none.arm, batch.arm) == ("none", "batch 2")


def test_a_repeat_that_missed_makes_the_mean_infinite_never_the_budget():
    results = [new_study(NONE, 1, [4000.0]), new_study(BATCH, 1, [3000.0]), new_study(BATCH, 2, [math.inf])]
    batch = summarize(results)[1]
    assert batch.costs == (3000.0, math.inf)
    assert (batch.mean, batch.ratio) == (math.inf, None)


def test_each_workload_has_its_own_baseline_and_an_unfinished_study_counts_nowhere():
    results = [
        new_study({"task": task, **cell}, 1, [cost])
        for task, cell, cost in (("a", NONE, 100.0), ("a", BATCH, 60.0), ("b", NONE, 1000.0), ("b", BATCH, 900.0))
    ]
    results.append(new_study({"task": "a", **BATCH}, 2, [1.0], num_trials=2))
    cells = summarize(results)
    assert [cell.ratio for cell in cells] == [1.0, 0.6, 1.0, 0.9]
    assert [cell.num_unfinished for cell in cells] == [0, 1, 0, 0]


def test_echo_settings_are_part_of_the_arm_not_of_the_workload():
    shuffled = {**BATCH, "echo.shuffle_buffer": "10"}
    cells = summarize([new_study(NONE, 1, [100.0]), new_study(shuffled, 1, [60.0])])
    assert (cells[1].ratio, cells[1].arm) == (0.6, "batch 10 2")


def test_a_report_has_tables_pictures_and_every_trial(sweep, tmp_path):
    path = write_report(sweep, tmp_path, UNTRACKED, ended=True)
    root = path.parent
    text = path.read_text()
    assert "| echo=batch,factor=2 | 3 |" in text
    assert "What could not be drawn" not in text
    assert "widen it" not in text
    cells = rows(root / "cells.csv")
    assert [(row["mean"], row["min"], row["max"], row["ratio"]) for row in cells] == [
        ("5000.0", "4000.0", "6000.0", "1.0"),
        ("2500.0", "1500.0", "3000.0", "0.5"),
    ]
    studies = rows(root / "studies.csv")
    assert len(studies) == 6
    assert [studies[0][name] for name in ("completed", "pruned", "diverged", "failed", "counted", "of", "winner")] == [
        *("3", "1", "1", "0", "4", "4", "3")
    ]
    trials = rows(root / "trials.csv")
    assert len(trials) == 6 * 5
    assert [row["state"] for row in trials[:5]] == ["completed", "diverged", "completed", "completed", "pruned"]
    assert trials[3]["objective fresh_examples_to_target"] == "4000.0"
    assert trials[0]["objective fresh_examples_to_target"] == "inf"
    assert trials[3]["upstream_downstream_ratio"] == "0.5"
    for picture in (root / "costs.png", *(root / "echo=batch,factor=2" / "3" / name for name in PLOTS)):
        with Image.open(picture) as image:
            assert len(set(image.convert("L").resize((50, 50)).tobytes())) > 3  # not one colour


def test_what_has_not_changed_is_not_drawn_again(sweep, tmp_path):
    write_report(sweep[:1], tmp_path, UNTRACKED)
    picture = tmp_path / "report" / "echo=none,factor=1" / "1" / "history.png"
    picture.write_bytes(b"mine")
    write_report(sweep, tmp_path, UNTRACKED)
    assert picture.read_bytes() == b"mine"
    more = new_study(NONE, 1, [3000.0, 2000.0, "pruned", 5000.0])
    write_report([more, *sweep[1:]], tmp_path, UNTRACKED)
    assert picture.read_bytes() != b"mine"


def study_files(tmp_path, result):
    text = write_report([result], tmp_path, UNTRACKED, ended=True).read_text()
    folder = next(path.parent for path in (tmp_path / "report").rglob("study.md"))
    return text, folder, {path.name for path in folder.glob("*.png")}


@pytest.mark.parametrize(
    ("costs", "drawn", "reason"),
    [
        ([], set(), "slice: no trial has completed"),
        (["diverged", "failed"], set(), "slice: no trial has completed"),
        (["pruned", "pruned"], set(), "slice: no trial has completed"),
        ([math.inf] * 3, set(), "none of 3 completed trials has a finite value: all missed the target"),
        ([1.0], PLOTS - {"importances.png"}, "importances: it compares values, and 1 trials"),
        ([5.0, 5.0], PLOTS - {"importances.png"}, "importances: it compares values, and 2 trials"),
        ([math.inf, 3.0, 5.0], PLOTS, ""),
    ],
    ids=["none", "all-diverged", "all-pruned", "all-missed", "one", "equal", "some-missed"],
)
def test_what_cannot_be_drawn_is_said_with_the_reason(costs, drawn, reason, tmp_path):
    text, folder, pictures = study_files(tmp_path, new_study(NONE, 1, costs))
    assert pictures == drawn
    assert reason in text
    assert reason in (folder / "study.md").read_text()
    assert ("What could not be drawn" in text) == bool(reason)
    reached = any(isinstance(cost, float) and math.isfinite(cost) for cost in costs)
    assert (tmp_path / "report" / "costs.png").exists() == reached
    assert ("costs: no repeat of any cell has reached the target" in text) == (not reached)


def test_a_space_of_one_parameter_can_be_drawn(tmp_path):
    result = new_study(NONE, 1, [3.0, 2.0, 4.0, 5.0], space={"optimizer.learning_rate": RATE})
    assert study_files(tmp_path, result)[2] == PLOTS


def test_an_empty_space_is_said(tmp_path):
    text, _, pictures = study_files(tmp_path, new_study(NONE, 1, [3.0, 2.0], space={}))
    assert pictures == {"history.png"}
    assert "slice: nothing was searched" in text


def test_several_objectives_have_plots_each_and_a_front(tmp_path):
    objectives = ("fresh_examples_to_target", "wall_time")
    costs = [(100.0, 9.0), (80.0, 10.0), (math.inf, 12.0), (90.0, 11.0)]
    text, folder, pictures = study_files(tmp_path, new_study(NONE, 1, costs, objectives=objectives))
    each = {f"{name.removesuffix('.png')}_{objective}.png" for name in PLOTS for objective in objectives}
    assert pictures == {*each, "pareto_front.png"}
    assert "costs: several objectives have no single cost" in text
    page = (folder / "study.md").read_text()
    assert page.count("On the front") == 2  # 100/9 and 80/10; 90/11 is beaten by 80/10


def test_a_winner_at_the_border_is_warned_about(tmp_path):
    costs = [1.0, *[5.0] * 50]  # the first trial lies in the lowest 50th of both dimensions
    text, _, _ = study_files(tmp_path, new_study(NONE, 1, costs))
    assert "## Winners at the border of their space" in text
    assert "the winner's optimizer.momentum=0.8037 lies at the lower end of 0.8 to 0.99: widen it there." in text


def test_names_that_are_no_file_names_have_a_folder_each(tmp_path):
    results = [new_study({"a": "x/../../y", "b": "${z}"}, 1, [1.0]), new_study({"c": ".."}, 1, [1.0])]
    write_report(results, tmp_path / "sweep", UNTRACKED)
    pages = [path.relative_to(tmp_path) for path in tmp_path.rglob("study.md")]
    assert len(pages) == 2
    assert all(path.parts[:2] == ("sweep", "report") for path in map(Path, pages))

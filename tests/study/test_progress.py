"""A study tells, with every trial that ends, what is done, what is best, and how long it will take."""

import pytest

from dataecho_search.study.results import StudyResult, TrialResult
from dataecho_study.progress import StudyDisplay, Whole


def trial(number, cost, state="completed"):
    return TrialResult(
        number=number, state=state, params={"rate": 0.1}, values=(cost,) if state == "completed" else (), folder="",
        seed=0, metrics={}, mlflow_run_id=None, seconds=1.0,
    )  # fmt: skip


def result(name, *trials, num_trials=2):
    return StudyResult(
        name=name, cell={}, repeat=0, objectives=("fresh",), directions=("minimize",), space={},
        num_trials=num_trials, trials=trials,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dataecho_study.progress.time.monotonic", lambda: now[0])
    return now


def test_each_trial_tells_the_state_of_its_study_and_of_all(clock, capsys):
    whole = Whole({"figure_3 digits": 4, "figure_3 coco_ssd": 6})
    display = StudyDisplay("figure_3 digits", whole)
    display.study(result("a/0"))
    display.study(result("b/0"))
    clock[0] = 60.0
    display.finished(result("a/0", trial(0, 900.0)), 0)
    clock[0] = 120.0
    display.finished(result("a/0", trial(0, 900.0), trial(1, 800.0)), 1)
    display.ended("a/0")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[figure_3 digits: 0 of 2 repeats of cells done, 3 min left, 9 min for all studies] a/0")
    assert lines[1].startswith("[figure_3 digits: 1 of 2 repeats of cells done, 2 min left, 8 min for all studies] a/0")
    assert lines[1].endswith("[2/2, best 800]")
    assert lines[2].endswith("all studies] a 800")


def test_a_continued_study_counts_what_has_ended_and_tells_nothing_of_it_again(clock, capsys):
    whole = Whole({"figure_3 digits": 4})
    display = StudyDisplay("figure_3 digits", whole)
    display.study(result("a/0", trial(0, 900.0), trial(1, 800.0)))
    display.study(result("b/0"))
    display.ended("a/0")
    assert capsys.readouterr().out == ""
    clock[0] = 30.0
    display.finished(result("b/0", trial(0, 0, state="diverged")), 0)
    assert "1 of 2 repeats of cells done, 60 s left]" in capsys.readouterr().out

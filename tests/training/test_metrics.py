"""The table of metrics says every name that leaves the program, and the page is the table."""

import json
import re

import pytest

from dataecho.modes import run_mode
from dataecho.report import compare
from dataecho.report.metrics_page import page
from dataecho.training.metrics import METRICS, SUMMARY, TAGS, check_names
from dataecho.training.spool import read_spool
from tests.support import PROJECT, config
from tests.training.conftest import FakeTask


def test_the_page_is_that_of_the_table():
    path = "docs/reference/metrics.md"
    command = f"python -m dataecho.report.metrics_page > {path}"
    assert (PROJECT / path).read_text() == page(), f"{path} is not the table's: {command}"


def test_every_metric_is_computed_in_a_module_that_is_there():
    modules = {metric.computed_in for metric in (*METRICS.values(), *SUMMARY, *TAGS)}
    assert [name for name in modules if not (PROJECT / "platform" / "dataecho" / name).exists()] == []


def test_a_run_writes_the_tables_names_and_its_tasks_and_no_others(tmp_path):
    overrides = ("budget=steps", "budget.steps=20", "task.eval_interval=320", "stop_at_target=false", "tracking=none")
    quiet = ("display=none", "accelerator=cpu", "backend.compute_threads=1", "pictures.num_examples=0")
    folder = tmp_path / "run"
    run_mode(config(*overrides, *quiet, "echo=before_augmentation", "factor=2"), folder=folder, project=PROJECT)
    summary = json.loads((folder / "summary.json").read_text())
    marks = set().union(*(entry.metrics for entry in read_spool(folder)))
    waits, costs = {"input_wait_mean", "input_wait_p95"}, {name for name in METRICS if name.endswith("_to_target")}
    assert costs - marks in (set(), costs)  # a cost has no value before the target is reached
    assert marks | costs == METRICS.keys() | {"accuracy"}
    assert summary.keys() == METRICS.keys() - waits | {metric.name for metric in SUMMARY} | {"accuracy"}


def test_columns_of_reports_are_in_the_table():
    view = (PROJECT / "platform" / "dataecho" / "tracking" / "view.py").read_text()
    shown = re.findall(r"metrics\.`(\w+)`", view)
    tags = re.findall(r"tags\.`(\w+)`", view)
    assert shown and tags
    assert set(shown) | set(compare._COLUMNS) <= METRICS.keys()
    assert set(tags) <= {metric.name for metric in TAGS}


def test_a_name_outside_of_the_table_does_not_leave(new_run):
    with pytest.raises(AssertionError, match=r"surprise: add them to dataecho.training.metrics"):
        check_names(["steps", "surprise", "accuracy"], of_task=["eval_loss", "accuracy"])


def test_a_tasks_metric_must_not_take_a_name_of_the_table(new_run):
    class Takes(FakeTask):
        metric = "steps"

    run = new_run(task=Takes())
    run.trainer._marks._evaluate = lambda: {"eval_loss": 0.0, "steps": 1.0}
    with pytest.raises(ValueError, match="calls a metric steps, which has a meaning already: rename it"):
        run.run()

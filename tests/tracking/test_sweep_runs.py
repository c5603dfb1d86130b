"""A sweep in MLflow: studies above their trials, whatever the server does, and four trials that log at once."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho_search.report.mlflow_parents import open_parent, open_sweep, report_folder, trial_overrides
from dataecho_search.report.sweep_report import write_report
from tests.search.studies import new_study
from tests.support import PROJECT, config
from tests.tracking.conftest import Run, all_runs, dead_address

CELL = {"echo": "batch", "factor": "2"}
STUDY = "echo=batch,factor=2/1"


def tracking(uri, **options):
    """The configuration's node, as the sweeper has it."""
    node = config()["tracking"] | {"tracking_uri": uri, "experiment": "echo", "retry_interval": 0.01}
    return node | {"start_timeout": 0.5, "finish_timeout": 0.5, **options}


def run_trials(sweep, node, parent, costs):
    """The trials of one study, each in its folder, one mark each; returns the study."""
    result = new_study(CELL, 1, costs)
    for trial in result.trials:
        folder = sweep / trial.folder
        folder.mkdir(parents=True)
        run = Run(folder)
        tags = {"study": STUDY, "trial": str(trial.number)}
        own = config(*trial_overrides(parent, name=f"trial {trial.number}", tags=tags))["tracking"]
        given = {key: own[key] for key in ("parent_uuid", "run_name", "tags")}
        options = {key: value for key, value in (node | given).items() if key != "_target_"}
        tracker = MLflowTracker(**options)
        tracker.start(run.info)
        tracker.covered(run.mark(trial.number + 1))
        run.spool.close()
        tracker.finish(status="finished", artifacts=[], tags={})
    return result


def sweep_in(sweep, uri, costs=(5000.0, 3000.0, 4000.0), **options):
    """A sweep of one study, with a run of its own above; ended, and reported."""
    node = tracking(uri, **options)
    open_sweep(node, sweep, {"kind": "sweep"})
    parent = open_parent(node, sweep, STUDY, {"task": "digits", **CELL})
    result = run_trials(sweep, node, parent, costs)
    write_report([result], sweep, node, ended=True)
    return result


def tree(client):
    """Every run's name, and the name of its parent."""
    runs = all_runs(client)
    names = {run.info.run_id: run.info.run_name for run in runs}
    return sorted((run.info.run_name, names.get(run.data.tags.get("mlflow.parentRunId"))) for run in runs)


WHOLE = [("study " + STUDY, "sweep"), ("sweep", None), *((f"trial {number}", f"study {STUDY}") for number in range(3))]


def assert_whole(client, sweep):
    """Everything is there, once, and the best trial is linked."""
    assert tree(client) == WHOLE
    runs = {run.info.run_name: run for run in all_runs(client)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, run in runs.items():
        points = [p for key in run.data.metrics for p in client.get_metric_history(run.info.run_id, key)]
        assert max(Counter((p.key, p.step) for p in points).values(), default=1) == 1
        if name.startswith("trial"):
            assert len(points) == 3
    study = runs["study " + STUDY]
    assert study.data.metrics == {"fresh_examples_to_target": 3000.0, "counted_trials": 3.0}
    assert [p.value for p in client.get_metric_history(study.info.run_id, "fresh_examples_to_target")] == [
        *(5000.0, 3000.0, 3000.0)
    ]
    files = {file.path for file in client.list_artifacts(study.info.run_id)}
    assert files == {"history.png", "importances.png", "parallel_coordinate.png", "slice.png", "study.md", "trials.csv"}
    assert (study.data.tags["best_trial"], study.data.tags["echo"], study.data.tags["task"]) == ("1", "batch", "digits")
    above = {file.path for file in client.list_artifacts(runs["sweep"].info.run_id)}
    assert above == {"report.md", "costs.png", "cells.csv", "studies.csv", "trials.csv"}
    assert "| echo=batch,factor=2 |" in runs["sweep"].data.tags["mlflow.note.content"]
    return runs


def test_a_sweep_is_a_tree_and_its_best_trial_is_linked(uri, client, tmp_path):
    sweep_in(tmp_path / "sweep", uri, start_timeout=30.0, finish_timeout=30.0)
    runs = assert_whole(client, tmp_path / "sweep")
    best, study = runs["trial 1"].info, runs["study " + STUDY]
    assert study.data.tags["best_run"] == best.run_id
    link = f"[trial 1](#/experiments/{best.experiment_id}/runs/{best.run_id})"
    assert link in study.data.tags["mlflow.note.content"]


def test_a_sweep_that_is_continued_keeps_its_runs_and_adds_no_point(uri, client, tmp_path):
    node = tracking(uri, start_timeout=30.0, finish_timeout=30.0)
    first = sweep_in(tmp_path / "sweep", uri, start_timeout=30.0, finish_timeout=30.0)
    open_sweep(node, tmp_path / "sweep", {"kind": "sweep"})
    parent = open_parent(node, tmp_path / "sweep", STUDY, {"task": "digits", **CELL})
    record = json.loads((report_folder(tmp_path / "sweep", STUDY) / "tracking.json").read_text())
    assert parent == record["uuid"]
    assert client.get_run(record["run_id"]).info.status == "RUNNING"
    write_report([first], tmp_path / "sweep", node, ended=True)
    assert_whole(client, tmp_path / "sweep")


def test_with_a_dead_server_trials_go_on_and_all_arrives_later_once(client, server, tmp_path, capsys):
    dead = dead_address()
    sweep_in(tmp_path / "sweep", dead)
    assert all_runs(client) == []
    here = f"http://{server.address}"
    for path in (tmp_path / "sweep").rglob("tracking.json"):  # as if the server had come back at its address
        path.write_text(path.read_text().replace(dead, here))
    sync = config(
        "mode=sync", f"resume={tmp_path / 'sweep'}", f"tracking.tracking_uri={here}", "tracking.retry_interval=0.01"
    )
    server.loses_first = True
    run_mode(sync, folder=None, project=PROJECT)
    assert_whole(client, tmp_path / "sweep")
    assert "5 of 5: " in capsys.readouterr().out
    points = len(server.requests)
    run_mode(sync, folder=None, project=PROJECT)
    assert len(server.requests) == points  # nothing was left to send


def test_with_a_server_that_fails_and_hangs_trials_go_on_and_all_arrives_once(client, server, tmp_path):
    here = f"http://{server.address}"
    server.faults.extend(["hang", "hang", "fail", "lose", "fail", "lose", "hang"])
    sweep_in(tmp_path / "sweep", here)
    server.release()
    run_mode(
        config("mode=sync", f"resume={tmp_path / 'sweep'}", f"tracking.tracking_uri={here}"),
        folder=None,
        project=PROJECT,
    )
    assert_whole(client, tmp_path / "sweep")


def test_a_sweep_that_cannot_be_sent_says_what_is_left(server, tmp_path, capsys):
    sweep_in(tmp_path / "sweep", f"http://{server.address}", start_timeout=0.05, finish_timeout=0.05)
    elsewhere = config("mode=sync", f"resume={tmp_path / 'sweep'}", "tracking.tracking_uri=http://127.0.0.1:9")
    with pytest.raises(
        SettingError, match=r"tracking\.tracking_uri=http://127\.0\.0\.1:9 .*a place that takes runs now"
    ):
        run_mode(elsewhere, folder=None, project=PROJECT)
    here = f"tracking.tracking_uri=http://{server.address}"
    never = config("mode=sync", f"resume={tmp_path / 'sweep'}", here, "tracking.retry_interval=0")
    with pytest.raises(SettingError, match=r"tracking\.retry_interval=0 cannot be used. Allowed: seconds > 0"):
        run_mode(never, folder=None, project=PROJECT)


def test_without_mlflow_there_is_no_parent(tmp_path):
    node = config("tracking=none")["tracking"]
    assert open_sweep(node, tmp_path, {}) is None
    assert open_parent(node, tmp_path, STUDY, {}) is None
    assert trial_overrides(None, name="x", tags={"a": "b"}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["it's", "a\\", "a\\'b\\\\", '{x: 1}, [y] $ = "z"', "echo=batch,factor=2/1 trial 3", ""]
)
def test_any_name_comes_through_hydra_as_it_is(text):
    node = config(*trial_overrides("1" * 32, name=f"{text} trial", tags={"study": text}))["tracking"]
    assert (node["run_name"], node["tags"]["study"], node["parent_uuid"]) == (f"{text} trial", text, "1" * 32)


@pytest.mark.slow
def test_four_trials_that_log_at_once_lose_nothing(uri, client, tmp_path):
    """Forty marks of twenty metrics each, sent mark by mark by four processes into one sqlite file."""
    parent = open_parent(tracking(uri, start_timeout=30.0), tmp_path / "sweep", STUDY, {})
    script = """
import sys, time
from pathlib import Path
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho.training.contracts import RunInfo
from dataecho.training.spool import Spool
uri, folder, parent = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
folder.mkdir()
spool = Spool(folder)
tracker = MLflowTracker(tracking_uri=uri, experiment="echo", send_interval=0.0, start_timeout=120.0,
                        finish_timeout=120.0, run_name=folder.name, parent_uuid=parent)
tracker.start(RunInfo(folder=folder, name="trial", params={}, tags={}, dataset={}))
for mark in range(1, 41):
    spool.append(100 * mark, {f"m{i}": float(mark * i) for i in range(20)}, time_ms=1_700_000_000_000 + mark)
    spool.flush()
    tracker.covered(spool.position)
    time.sleep(0.02)
tracker.finish(status="finished", artifacts=[], tags={"end": "yes"})
"""
    names = [f"trial-{number}" for number in range(4)]
    commands = [[sys.executable, "-c", script, uri, str(tmp_path / name), parent] for name in names]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=250)[1] for process in processes]
    assert ([process.returncode for process in processes], errors) == ([0] * 4, [""] * 4)  # not one warning
    assert tree(client) == [(f"study {STUDY}", None), *((name, f"study {STUDY}") for name in names)]
    for run in all_runs(client):
        if run.info.run_name in names:
            assert (run.info.status, run.data.tags["end"]) == ("FINISHED", "yes")
            for i in range(20):
                found = client.get_metric_history(run.info.run_id, f"m{i}")
                assert [(p.step, p.value) for p in sorted(found, key=lambda p: p.step)] == [
                    (100 * mark, float(mark * i)) for mark in range(1, 41)
                ]

"""The real command line, as a user types it."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import PROJECT


def run(*arguments, cwd=PROJECT, **environment):
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path):
    done = run("factor=4", "tracking=none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: factor=4 cannot be used. Allowed: nothing or 1 with echo=none. "
        "Choose what to echo as well, for instance echo=before_augmentation.\n"
    )
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


def test_showing_the_configuration_imports_nothing_heavy():
    done = run("--cfg", "job", "echo=batch", "factor=4", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and "factor: 4" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "tensorflow", "mlflow", "sklearn", "matplotlib", "optuna", "scipy", "numpy"}


def test_help_names_the_groups_and_trains_nothing(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "echo: after_augmentation, batch, before_augmentation, example, none, stage" in done.stdout
    for word in ("mode=diagnose ", "optimizer.momentum ", "pipeline.throttle.latency ", "Compute the held-out metrics"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_group_lists_its_options_and_settings():
    done = run("--help", "optimizer")
    assert done.returncode == 0
    assert "optimizer=adamw" in done.stdout and "optimizer.weight_decay" in done.stdout
    assert "pipeline" not in done.stdout
    unknown = run("--help", "optimiser")
    assert unknown.returncode == 2 and "Did you mean optimizer?" in unknown.stderr


@pytest.mark.slow
def test_the_main_job_reaches_its_target_and_a_report_reads_it(tmp_path):
    done = run("display=plain", f"tracking.tracking_uri=sqlite:///{tmp_path}/mlflow.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Reached accuracy 0.97" in done.stdout and "fresh examples to target" in done.stdout
    (folder,) = tmp_path.glob("runs/*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["reached_target"] is True and summary["accuracy"] >= 0.97
    assert summary["fresh_examples_to_target"] == summary["fresh_examples"] == summary["steps"] * 64
    assert summary["fresh_examples_to_target"] % 256 == 0
    names = {"checkpoints", "config.json", "learning_curve.png", "metrics.jsonl", "summary.json", "tracking.json"}
    assert names <= {path.name for path in folder.iterdir()}
    assert run("mode=report", f"runs=[{folder}]", "run_dir=report", cwd=tmp_path).returncode == 0
    assert "| none |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_sweep_gives_every_run_a_folder_of_its_own(tmp_path):
    done = run(
        "-m", "seed=1,2", "tracking=none", "display=none", "budget=steps", "budget.steps=2",
        "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seeds = [json.loads((tmp_path / "sweep" / name / "summary.json").read_text())["seed"] for name in ("0", "1")]
    assert seeds == [1, 2]
    refused = run("-m", "seed=1,2", "run_dir=mine", "tracking=none", "hydra.sweep.dir=other", cwd=tmp_path)
    assert refused.returncode == 1 and "Use hydra.sweep.dir=" in refused.stderr

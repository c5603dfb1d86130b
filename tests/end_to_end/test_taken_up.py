"""A run is continued, evaluated and repeated by a command that names nothing but its folder."""

import json
import shlex
import subprocess
import sys

import pytest

from tests.support import PROJECT

pytestmark = pytest.mark.slow

SETTINGS = ("tracking=none", "display=none", "pictures.num_examples=0", "echo=batch", "factor=2", "seed=5")


def run(*arguments, cwd):
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_a_run_is_taken_up_by_its_folder_alone(tmp_path):
    first = run(*SETTINGS, "budget=steps", "budget.steps=12", "run_dir=runs/a b", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    repeat = (tmp_path / "runs/a b/command.txt").read_text().strip()
    assert f"Repeat:   {repeat}\n" in first.stdout
    evaluated = run("mode=evaluate", "checkpoint=runs/a b", cwd=tmp_path)
    assert evaluated.returncode == 0 and "8 steps" in evaluated.stdout, evaluated.stderr

    longer = run("resume=runs/a b", "budget.steps=24", "pipeline.num_threads=1", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    again = subprocess.run(
        [sys.executable, *shlex.split(repeat)[1:], "budget.steps=24", "run_dir=runs/whole"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert again.returncode == 0, again.stderr
    one, other = (json.loads((tmp_path / f"runs/{name}/summary.json").read_text()) for name in ("a b", "whole"))
    for name in ("steps", "fresh_examples", "delivered_examples", "accuracy", "eval_loss", "seed"):
        assert one[name] == other[name], name
    assert one["steps"] == 24 and one["config"]["pipeline"]["num_threads"] == 1

    for typed, both in (
        (["resume=runs/a b", "budget.steps=10"], "budget.steps=10 cannot be used. Allowed: 24"),
        (["resume=runs/a b", "seed=6"], "seed=6 cannot be used. Allowed: 5"),
        (["mode=evaluate", "checkpoint=runs/a b", "seed=6"], "seed=6 cannot be used. Allowed: 5"),
    ):
        refused = run(*typed, cwd=tmp_path)
        assert refused.returncode == 2 and both in refused.stderr, refused.stderr


def test_a_checkpoint_of_another_backend_says_which(tmp_path):
    run(*SETTINGS, "budget=steps", "budget.steps=4", "run_dir=run", cwd=tmp_path)
    evaluated = run("mode=evaluate", "checkpoint=run", "backend=jax", cwd=tmp_path)
    assert "was trained by backend=torch and is evaluated by backend=jax" in evaluated.stdout, evaluated.stderr

"""Runs killed by SIGKILL and resumed are bit-identical to unbroken ones, for every echo type."""

import json
import multiprocessing
import signal
import subprocess
import sys

import numpy as np
import pytest

from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from dataecho.training.spool import read_spool
from tests.end_to_end import killed_run
from tests.support import PROJECT, TIMES

# Fresh processes, but the libraries are imported once.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.end_to_end.killed_run"])
NEVER = 10**9
COMMON = (
    "tracking=none",
    "budget=fresh",
    "budget.fresh=700",
    "stop_at_target=false",
    "task.eval_batch_size=100",
    "optimizer.learning_rate=0.05",
    "backend.compute_threads=1",
)
# Kill points: before the first checkpoint, between two, twice in one run; steps are about 10 x factor.
ECHOES = {
    "none": (("echo=none",), [2, 6, 9]),
    "batch": (("echo=batch", "factor=2.5"), [3, 14, 22]),
    "batch shuffled": (("echo=batch", "factor=2", "echo.shuffle_buffer=3"), [1, 12, 13]),
    "device": (("echo=stage", "echo.after=device", "factor=2"), [9, 11]),
    "before": (("echo=before_augmentation", "factor=2.5"), [4, 9, 15]),
    "after": (("echo=after_augmentation", "factor=4"), [7, 25]),
    "read": (("echo=stage", "echo.after=read", "factor=2"), [7, 13]),
}


def run(folder, overrides, *, kill_after=NEVER, resume=False):
    overrides = [f"run_dir={folder}", *overrides, *(["resume=auto"] if resume else [])]
    process = SERVER.Process(target=killed_run.main, args=(kill_after, overrides))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == (0 if kill_after == NEVER else -signal.SIGKILL)


def result(folder):
    """Everything that must not depend on having been killed."""
    state = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    marks = [
        (entry.step, {name: value for name, value in entry.metrics.items() if name not in TIMES})
        for entry in read_spool(folder)
    ]
    summary = json.loads((folder / "summary.json").read_text())
    counts = {name: summary[name] for name in summary if name not in TIMES and name != "config"}
    return state, marks, counts


@pytest.mark.slow
@pytest.mark.parametrize(("echo", "kills"), ECHOES.values(), ids=ECHOES.keys())
def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path, echo, kills):
    overrides = (*COMMON, *echo)
    run(tmp_path / "whole", overrides)
    for number, step in enumerate(kills):
        run(tmp_path / "killed", overrides, kill_after=step, resume=number > 0)
    # Another number of loader threads or another chunk size changes nothing.
    run(tmp_path / "killed", (*overrides, "pipeline.num_threads=3", "pipeline.chunk_size=5"), resume=True)
    (whole, whole_marks, whole_counts), (killed, marks, counts) = (
        result(tmp_path / "whole"),
        result(tmp_path / "killed"),
    )
    assert len(whole_marks) == 3
    assert marks == whole_marks
    assert counts == whole_counts
    assert killed["ranks"].keys() == whole["ranks"].keys() == {"0"}
    for name, array in whole["backend"]["arrays"].items():
        np.testing.assert_array_equal(killed["backend"]["arrays"][name], array, err_msg=name)
    np.testing.assert_equal(killed["ranks"], whole["ranks"])


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    """From outside, at no chosen moment: SIGTERM to the real command line."""
    overrides = [*COMMON, "echo=before_augmentation", "factor=4", "checkpoints.interval=0", "display=plain"]
    overrides = [*overrides, "budget.fresh=20000"]
    command = [sys.executable, "train.py", f"run_dir={tmp_path / 'run'}", *overrides]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "fresh examples  loss" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"resume={tmp_path / 'run'}" in errors
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(checkpoint)["counts"]["steps"] > 0
    assert not (tmp_path / "run" / "summary.json").exists()

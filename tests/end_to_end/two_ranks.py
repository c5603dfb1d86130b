"""Two processes of one run, started as a user starts them, and what must not depend on what happened to them."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np

from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from dataecho.training.spool import read_spool
from tests.support import PROJECT, TIMES

BUDGET = 1900  # more than an epoch of 1,297 items: the ranks' shares are 649 and 648
SETTINGS = (
    "accelerator=cpu",
    "tracking=none",
    "display=none",
    "echo=before_augmentation",
    "factor=2.5",
    "stop_at_target=false",
    "budget=fresh",
    f"budget.fresh={BUDGET}",
    "backend.compute_threads=1",
    "backend.timeout=60",
)
SLOW = "pipeline.throttle.examples_per_second=150"  # of each rank: six seconds


def command(folder, *more):
    return [str(PROJECT / "train.py"), *SETTINGS, f"run_dir={folder}", *more]


def environment(**more):
    # Everything that a launcher would set is set here, or not at all.
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MASTER_", "TORCHELASTIC", "TF_CONFIG"))
    }
    return {**own, "OMP_NUM_THREADS": "1", **more}


def start(arguments, log, **env):
    with open(log, "w") as output:
        return subprocess.Popen(arguments, cwd=PROJECT, env=environment(**env), stdout=output, stderr=output)


def start_two(environments, folder, log, *more):
    """Two ranks without a launcher, each in one of ``environments``; their processes."""
    return [
        start([sys.executable, *command(folder, *more)], f"{log}.{rank}", **environments[rank]) for rank in range(2)
    ]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for_checkpoint(folder, processes, *, after=0):
    """The steps of the first checkpoint beyond ``after``."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        steps = [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder / "checkpoints")]
        if steps and steps[-1] > after:
            return steps[-1]
        assert all(process.poll() is None for process in processes), "ended too early"
        time.sleep(0.02)
    raise AssertionError("no checkpoint")


def result(folder):
    """Everything that must not depend on having been stopped."""
    state = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    marks = [
        (entry.step, {name: value for name, value in entry.metrics.items() if name not in TIMES})
        for entry in read_spool(folder)
    ]
    summary = json.loads((folder / "summary.json").read_text())
    how = {"config", "emulated_source", "git_revision"}  # of how it was run, not of what came of it
    return state, marks, {name: summary[name] for name in summary if name not in TIMES | how}


def assert_same_run(folder, whole):
    (state, marks, summary), (expected, expected_marks, expected_summary) = result(folder), result(whole)
    assert marks == expected_marks
    assert summary == expected_summary
    np.testing.assert_equal(state["ranks"], expected["ranks"])
    for name, array in expected["backend"]["arrays"].items():
        np.testing.assert_array_equal(state["backend"]["arrays"][name], array, err_msg=name)

"""Two processes on one machine, as a user starts them; stopped, killed, restarted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from dataecho.plan.plan import Plan
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
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

pytestmark = pytest.mark.slow


def command(folder, *more):
    return [str(PROJECT / "train.py"), *SETTINGS, f"run_dir={folder}", *more]


def environment(**more):
    # Everything that a launcher would set is set here, or not at all.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MASTER_", "TORCHELASTIC"))}
    return {**own, "OMP_NUM_THREADS": "1", **more}


def start(arguments, log, **env):
    with open(log, "w") as output:
        return subprocess.Popen(arguments, cwd=PROJECT, env=environment(**env), stdout=output, stderr=output)


def start_two(folder, log, *more):
    """Two ranks without a launcher, and their processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [
        start(
            [sys.executable, *command(folder, *more)], f"{log}.{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **common
        )
        for rank in range(2)
    ]


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    with start([*TORCHRUN, *command(folder)], folder.parent / "log") as process:
        assert process.wait(timeout=120) == 0, (folder.parent / "log").read_text()
    return folder


def assert_same_run(folder, whole):
    (state, marks, summary), (expected, expected_marks, expected_summary) = result(folder), result(whole)
    assert marks == expected_marks
    assert summary == expected_summary
    np.testing.assert_equal(state["ranks"], expected["ranks"])
    for name, array in expected["backend"]["arrays"].items():
        np.testing.assert_array_equal(state["backend"]["arrays"][name], array, err_msg=name)


def test_counts_are_those_of_both_plans_and_everything_is_written_once(whole):
    plans = [
        Plan(
            lambda shard: 1297,
            num_shards=1,
            seed=0,
            batch_size=32,
            shuffle_buffer=512,
            factor=2.5,
            rank=rank,
            num_ranks=2,
        )
        for rank in range(2)
    ]
    fresh = steps = 0
    entered = [0, 0]
    while True:
        batches = [plan.take(1)[0] for plan in plans]
        if fresh + sum(batch.num_fresh for batch in batches) > BUDGET:
            break
        fresh, steps = fresh + sum(batch.num_fresh for batch in batches), steps + 1
        entered = [batch.num_entered for batch in batches]
    _, marks, summary = result(whole)
    assert summary["fresh_examples"] == fresh
    assert summary["entered_examples"] == sum(entered)
    assert summary["steps"] == steps
    assert summary["delivered_examples"] == 64 * steps
    assert summary["epochs_entered"] == 2
    assert summary["num_ranks"] == 2
    assert [step for step, _ in marks] == [256 * number for number in range(1, 9)]
    assert {path.name for path in whole.iterdir()} == {
        "checkpoints",
        "config.json",
        "heartbeat.json",
        "learning_curve.png",
        "metrics.jsonl",
        "run.lock",
        "skipped.jsonl",
        "summary.json",
    }


def test_a_killed_rank_ends_the_other_and_torchrun_starts_both_again_from_the_checkpoint(whole, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = [*TORCHRUN, "--max-restarts=1", *command(folder, SLOW, "resume=auto")]
    with start(arguments, log) as launcher:
        wait_for_checkpoint(folder, [launcher])
        ranks = {
            process.environ().get("RANK"): process
            for process in psutil.Process(launcher.pid).children()
            if str(PROJECT / "train.py") in process.cmdline()
        }
        ranks["1"].kill()
        assert launcher.wait(timeout=120) == 0, log.read_text()
    assert_same_run(folder, whole)


def test_signals_and_lost_ranks_without_a_launcher(whole, tmp_path):
    folder = tmp_path / "run"
    # One is asked to stop: both do, with a checkpoint of the same step.
    ranks = start_two(folder, tmp_path / "stopped", SLOW)
    wait_for_checkpoint(folder, ranks)
    ranks[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in ranks] == [128 + signal.SIGTERM] * 2
    assert "Interrupted by SIGTERM; the checkpoint is written." in (tmp_path / "stopped.0").read_text()
    # One is killed: the other says so and ends.
    steps = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])["counts"]["steps"]
    ranks = start_two(folder, tmp_path / "killed", SLOW, "resume=auto")
    wait_for_checkpoint(folder, ranks, after=steps)
    ranks[1].kill()
    assert ranks[0].wait(timeout=90) == 1
    told = (tmp_path / "killed.0").read_text()
    assert "error: rank 0 of 2 waited for the others in vain" in told
    assert "Start all ranks again with resume=auto" in told
    # Another number of ranks cannot continue it; the same number can.
    done = subprocess.run(
        [sys.executable, *command(folder, "resume=auto")],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "num_ranks=1 cannot be used. Allowed: 2, the number of processes" in done.stderr
    ranks = start_two(folder, tmp_path / "last", "resume=auto")
    assert [process.wait(timeout=60) for process in ranks] == [0, 0], (tmp_path / "last.0").read_text()
    assert_same_run(folder, whole)


def test_a_batch_that_cannot_be_divided_is_refused_before_training(tmp_path):
    ranks = start_two(tmp_path / "run", tmp_path / "log", "task.batch_size=63")
    assert [process.wait(timeout=60) for process in ranks] == [2, 2]
    told = (tmp_path / "log.0").read_text()
    assert "task.batch_size=63 cannot be used. Allowed: multiples of 2, for 2 processes with 1 devices each" in told
    assert not (tmp_path / "run").exists()

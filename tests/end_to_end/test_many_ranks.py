"""Two processes on one machine, as a user starts them; stopped, killed, restarted."""

import signal
import subprocess
import sys

import psutil
import pytest

from dataecho.plan.plan import Plan
from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from tests.end_to_end import two_ranks
from tests.end_to_end.two_ranks import (
    BUDGET,
    SLOW,
    assert_same_run,
    command,
    environment,
    free_port,
    result,
    start,
    wait_for_checkpoint,
)
from tests.support import PROJECT

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

pytestmark = pytest.mark.slow


def start_two(folder, log, *more):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(2)]
    return two_ranks.start_two(ranks, folder, log, *more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    with start([*TORCHRUN, *command(folder)], folder.parent / "log") as process:
        assert process.wait(timeout=120) == 0, (folder.parent / "log").read_text()
    return folder


def test_counts_are_those_of_both_plans_and_everything_is_written_once(whole):
    plans = [
        Plan(
            {0: 1297},
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
    # A heartbeat is written when seconds have passed, which on a fast machine they have not.
    assert {path.name for path in whole.iterdir()} - {"heartbeat.json"} == {
        "checkpoints",
        "command.txt",
        "config.json",
        "learning_curve.png",
        "metrics.jsonl",
        "predictions.png",
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

"""Two TensorFlow workers on one machine, as a user starts them: one is killed, both are started again."""

import json

import pytest

from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from tests.end_to_end import two_ranks
from tests.end_to_end.two_ranks import SLOW, assert_same_run, free_port, result, wait_for_checkpoint

pytestmark = pytest.mark.slow


def start_two(folder, log, *more):
    cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    workers = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]
    return two_ranks.start_two(workers, folder, log, "backend=tensorflow", *more)


def test_a_killed_worker_ends_the_other_and_both_continue_from_the_checkpoint(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert [process.wait(timeout=120) for process in start_two(whole, tmp_path / "first")] == [0, 0], (
        tmp_path / "first.0"
    ).read_text()
    assert result(whole)[2]["num_ranks"] == 2
    workers = start_two(folder, tmp_path / "killed", SLOW)
    wait_for_checkpoint(folder, workers)
    workers[1].kill()
    assert workers[0].wait(timeout=120) == 1
    told = (tmp_path / "killed.0").read_text()
    assert "error: rank 0 of 2 waited for the others in vain" in told
    assert "Start all ranks again with resume=auto" in told
    steps = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])["counts"]["steps"]
    assert 0 < steps < result(whole)[2]["steps"]
    again = start_two(folder, tmp_path / "again", "resume=auto")
    assert [process.wait(timeout=120) for process in again] == [0, 0], (tmp_path / "again.0").read_text()
    assert_same_run(folder, whole)

"""Terminals, pipes and supervisors that go away or ask twice: no run ends by them without a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dataecho.training.checkpoint import list_checkpoints, load_checkpoint
from tests.support import PROJECT

pytestmark = pytest.mark.slow

SHORT = ("tracking=none", "display=plain", "budget=steps", "budget.steps=30", "pictures.num_examples=0")
LONG = (*SHORT[:2], "budget=fresh", "budget.fresh=200000", "stop_at_target=false", "checkpoints.interval=0")


def command(*arguments):
    return [sys.executable, str(PROJECT / "train.py"), *arguments]


def start(folder, *arguments, wrapper=(), **others):
    full = [*wrapper, *command(*arguments, "run_dir=run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(full, cwd=folder, text=True, **{**pipes, **others})


def until_it_trains(process):
    for line in process.stdout:
        if "fresh examples  loss" in line:
            return
    raise AssertionError(process.stderr.read())


def steps_of_checkpoint(folder):
    (checkpoint,) = list_checkpoints(folder / "run" / "checkpoints")
    return load_checkpoint(checkpoint)["counts"]["steps"]


@pytest.mark.parametrize("redirection", ["| head -n 1", "2>&1 | true", ">&-", ">&- 2>&- <&-", "> /dev/full 2>&1"])
def test_nobody_who_reads_the_output_is_no_reason_to_end(tmp_path, redirection):
    words = subprocess.list2cmdline(command(*SHORT, "run_dir=run"))
    done = subprocess.run(
        ["bash", "-c", f"{words} {redirection}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 30
    # Nothing that was printed has gone into a file that got the number of a closed descriptor.
    for path in (tmp_path / "run").rglob("*.json*"):
        assert all(json.loads(line) for line in path.read_text().splitlines() if path.suffix == ".jsonl")


def test_a_closed_terminal_is_a_request_to_end(tmp_path):
    process = start(tmp_path, *LONG)
    until_it_trains(process)
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP and "resume=" in errors
    assert steps_of_checkpoint(tmp_path) > 0


def test_under_nohup_a_closed_terminal_is_none(tmp_path):
    process = start(tmp_path, *LONG, wrapper=["nohup"])
    until_it_trains(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and steps_of_checkpoint(tmp_path) > 0


def test_a_supervisor_that_asks_twice_asks_once(tmp_path):
    process = start(tmp_path, *LONG)
    until_it_trains(process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    # The last one may meet an interpreter that is taking itself down, and no longer handles signals.
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert "the checkpoint is written" in errors and "Traceback" not in errors
    assert steps_of_checkpoint(tmp_path) > 0


def test_a_terminal_that_is_gone_takes_the_display_and_nothing_else(tmp_path):
    """The live line of a terminal, whose other end is closed while it is shown."""
    mine, theirs = os.openpty()
    process = start(tmp_path, *SHORT[2:], "tracking=none", "display=rich", "budget.steps=400", stdout=theirs)
    os.close(theirs)
    os.read(mine, 1)
    os.close(mine)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] <= 400

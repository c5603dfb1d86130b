"""Sweeps of ``app.py`` in processes of their own, and what they leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataecho_search.study.results import read_results
from dataecho_search.study.storage import open_storage, silence_optuna
from tests.support import PROJECT

APP = Path(__file__).with_name("app.py")
silence_optuna()


class App:
    """The program in ``folder``."""

    def __init__(self, folder):
        self.folder = folder
        self.sweep_dir = folder / "sweep"
        self.started = []

    def start(self, *arguments, program=APP, **environment):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
        if program is APP and "hydra/sweeper=basic" not in arguments:
            arguments = ("hydra.sweeper.pool.preload.all=[]", *arguments)
        process = subprocess.Popen(
            [sys.executable, str(program), "-m", "hydra.sweep.dir=sweep", *arguments],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments, **others):
        process = self.start(*arguments, **others)
        process.out, process.err = process.communicate(timeout=100)
        return process

    def results(self, storage=None):
        return read_results(open_storage(storage, self.sweep_dir))

    def attempts(self):
        """How often each trial's own code began, by its folder."""
        found = self.sweep_dir.rglob("attempts.txt")
        return {
            str(path.parent.relative_to(self.sweep_dir)): len(path.read_text().splitlines()) for path in sorted(found)
        }

    def pids(self):
        """Of every attempt so far."""
        lines = [line for path in self.sweep_dir.rglob("attempts.txt") for line in path.read_text().splitlines()]
        return [int(line.split()[1]) for line in lines]

    def until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)


@pytest.fixture
def app(tmp_path):
    made = App(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def points(results):
    """What was searched, and what came of it: the same for an unbroken and a broken sweep."""
    return {
        (result.name, trial.folder, trial.seed): (dict(trial.params), trial.state, trial.values)
        for result in results
        for trial in result.trials
        if trial.state != "retried"
    }


def alive(pid):
    """Whether a process runs; one that has ended and that nobody asks about does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

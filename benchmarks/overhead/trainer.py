"""Dataecho's share of a training step: ``python -m benchmarks.overhead.trainer [channels] [--backend=tensorflow]``.

Four arms take turns for 20 rounds, with the same network, optimizer and batches and one compute thread each:
a bare PyTorch or TensorFlow loop over resident batches; the same again (their difference is the noise of the machine);
the trainer on the same resident batches with MLflow tracking on and checkpoints at every evaluation; and the trainer
with its executor running, which decodes and augments every batch beside it. Seconds are ``train_time`` per step, after
a first step that is not counted. ``channels`` sets the length of a step: 64 by default, some 12 ms; 1 for steps of a
millisecond, where every microsecond shows. About five minutes; ``--rounds`` for less.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dataecho.environment import prepare
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.tracking.mlflow_tracker import MLflowTracker
from dataecho.training.budget import Budget
from dataecho.training.contracts import Backend, RunInfo
from dataecho.training.recipe import Recipe, TrainerSettings
from dataecho.training.schedule import ConstantSchedule
from dataecho.training.target import Target
from dataecho.training.timing import TimeModel
from dataecho.training.trainer import Observers, Origin, Trainer
from dataecho_tasks.digits.data import Digits

STEPS, STEPS_PER_MARK = 200, 50
BATCH_SIZE, RATE = 64, 0.01
SETTINGS = PipelineSettings(num_threads=1, hands_on=False)  # as the trainer has it with a backend on the CPU

TASK = Digits(
    batch_size=BATCH_SIZE,
    shuffle_buffer=1024,
    eval_batch_size=500,
    eval_interval=BATCH_SIZE * STEPS_PER_MARK,
    target=2.0,
    budget=BATCH_SIZE * STEPS,
    learning_rate=RATE,
    models={},
)
SOURCE = TASK.train_source()


def new_feed(state: dict[str, Any] | None = None) -> Feed:
    """The real one."""
    return Feed(
        SOURCE, TASK.stages(), batch_size=BATCH_SIZE, shuffle_buffer=1024, seed=0, settings=SETTINGS, state=state
    )


class ResidentFeed:
    """The real feed's plan over batches that were made beforehand: no executor runs."""

    def __init__(self, resident: list[dict[str, np.ndarray]], state: dict[str, Any] | None) -> None:
        self._feed = new_feed(state)
        planner = self._feed._executor._engine._board._planner
        self._planned = iter(lambda: planner.next_event(1).batches[0], None)
        self._resident = itertools.cycle(resident)
        self.meter, self.echo = self._feed.meter, self._feed.echo
        self.resume = self.close = lambda: None
        self.pause = lambda timeout: True
        self.ready = lambda timeout: True
        self.factors, self.memory, self.head_start = self._feed.factors, self._feed.memory, 0.0

    def state(self, num_batches: int) -> dict[str, Any]:
        cursor = self._feed._cursor
        cursor.advance(num_batches - cursor.num_batches)
        return {**cursor.state_dict(), "identity": self._feed.identity}

    def __next__(self) -> Batch:
        return Batch(next(self._resident), np.ones(BATCH_SIZE, np.float32), next(self._planned))

    def __enter__(self) -> ResidentFeed:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def trained(backend: Backend, open_feed: Any, folder: Path, database: Path) -> float:
    """Seconds of train_time per step of the real trainer."""
    state = backend.state()
    with new_feed() as feed:  # the first step traces, or picks algorithms
        backend.train_step(backend.put(next(feed)), learning_rate=RATE)
    backend.load_state(*state)
    tracker = MLflowTracker(tracking_uri=f"sqlite:///{database}", experiment="overhead")
    trainer = Trainer(
        folder,
        new_feed=open_feed,
        evaluate=lambda: {"eval_loss": 0.0, "accuracy": 0.0},
        backend=backend,
        recipe=Recipe(
            budget=Budget(fresh=TASK.budget),
            schedule=ConstantSchedule(),
            target=Target("accuracy", TASK.target, True),
            settings=TrainerSettings(learning_rate=RATE, eval_interval=TASK.eval_interval),
        ),
        time_model=TimeModel(batch_size=BATCH_SIZE, num_workers=1, shares_cores=True, workers_are_upstream=True),
        observers=Observers(tracker=tracker),
        origin=Origin(identity={}),
    )
    tracker.start(RunInfo(folder=folder, name="overhead", params={}, tags={}, dataset={}))
    outcome = trainer.run()
    tracker.finish(status="finished", artifacts=[], tags={})
    assert outcome.metrics["steps"] == STEPS
    return float(outcome.metrics["train_time"] or 0) / STEPS


def main() -> None:
    """Interleave, then compare medians and round-by-round ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("channels", nargs="?", type=int, default=64)
    parser.add_argument("--backend", choices=("torch", "tensorflow"), default="torch")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    framework = importlib.import_module(f"benchmarks.overhead.{given.backend}_loop")
    network = {"channels": (given.channels, given.channels), "rate": RATE}
    with new_feed() as feed:
        # Copies: what a batch is a view of may have other strides than usual, for which PyTorch chooses other kernels.
        resident = [
            {name: values.flatten().reshape(values.shape) for name, values in next(feed).arrays.items()}
            for _ in range(20)
        ]
    arms = ("bare loop", "bare loop again", "trainer, resident batches", "trainer, executor running")
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as place:
        database = Path(place, "mlflow.db")
        run = {
            arms[0]: lambda folder: framework.bare(resident, num_steps=STEPS, **network),
            arms[1]: lambda folder: framework.bare(resident, num_steps=STEPS, **network),
            arms[2]: lambda folder: trained(
                framework.new_backend(**network), partial(ResidentFeed, resident), folder, database
            ),
            arms[3]: lambda folder: trained(framework.new_backend(**network), new_feed, folder, database),
        }
        for arm in arms:  # warm up, and create the database
            run[arm](Path(place, f"warm-{arm}"))
        for number in track(range(given.rounds), "rounds"):
            for shift in range(len(arms)):  # everyone starts a round equally often
                arm = arms[(number + shift) % len(arms)]
                seconds[arm].append(run[arm](Path(place, f"{number}-{arm}")))
    table = Table("arm", "ms / step, median", "against the bare loop, median of rounds", "quartiles")
    for arm, values in seconds.items():
        ratios = [value / base - 1 for value, base in zip(values, seconds[arms[0]], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        table.add_row(
            arm,
            f"{statistics.median(values) * 1e3:.2f}",
            f"{statistics.median(ratios):+.1%}",
            f"{quartiles[0]:+.1%} to {quartiles[2]:+.1%}",
        )
    Console().print(table)


if __name__ == "__main__":
    prepare()
    main()

"""A run over twenty numbers: real feed, plan, trainer and checkpoints; the fakes at the border record it all."""

import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage
from dataecho.plan import keys as draws
from dataecho.plan import plan as plan_module
from dataecho.training import run_folder, spent
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import CheckpointStore
from dataecho.training.clock import Clock
from dataecho.training.contracts import Backend, Display, NoPruner, Task, Tracker, WeightedMeans
from dataecho.training.evaluation import evaluate
from dataecho.training.heartbeat import Heartbeat
from dataecho.training.ranks import OneRank, Ranks
from dataecho.training.recipe import CheckpointSettings, Recipe, TrainerSettings
from dataecho.training.schedule import ConstantSchedule
from dataecho.training.spool import read_spool
from dataecho.training.target import Target
from dataecho.training.timing import TimeModel
from dataecho.training.trainer import Observers, Origin, Trainer
from tests.support import TIMES

BATCH_SIZE = 4


class Now:
    """A clock that only goes on when told to."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds

    def advance(self, seconds):
        self.seconds += seconds


class CountingSource(ArraySource):
    """The numbers from ``first`` on; remembers what was read, and calls ``on_read`` before."""

    def __init__(self, size, *, first=0, on_read=lambda: None):
        super().__init__({"x": np.arange(first, first + size, dtype=np.int64)})
        self.reads = Counter()
        self.on_read = on_read

    def read(self, shards, ks):
        self.on_read()
        self.reads.update(ks.tolist())
        return super().read(shards, ks)


def _drawing(name):
    return Stage(name, lambda example, keys: {**example, name: draws.integers(keys, draw=0, high=1 << 30)}, random=True)


STAGES = (Stage("decode", lambda record: {"x": record["x"]}), _drawing("crop"), _drawing("color"))


@dataclass
class Placed:
    """A batch on the device; ``num_steps`` trained on it."""

    arrays: dict[str, np.ndarray]
    weights: np.ndarray
    num_steps: int = 0


class ThreadRanks(Ranks):
    """Ranks that are threads of this process; what they sum is collected between two barriers."""

    def __init__(self, rank, shared):
        self._rank, self._shared = rank, shared

    @classmethod
    def several(cls, num_ranks):
        shared = {"barrier": threading.Barrier(num_ranks, timeout=30), "values": [None] * num_ranks}
        return [cls(rank, shared) for rank in range(num_ranks)]

    @property
    def rank(self):
        return self._rank

    @property
    def num_ranks(self):
        return len(self._shared["values"])

    def leave(self):
        """Nobody waits for this rank any more."""
        self._shared["barrier"].abort()

    def sum(self, values):
        self._shared["barrier"].wait()
        self._shared["values"][self._rank] = values.copy()
        self._shared["barrier"].wait()
        return sum(self._shared["values"][1:], self._shared["values"][0])


ALONE = OneRank()


@dataclass
class FakeBackend(Backend):
    """One weight that moves towards the mean of ``x``, ``crop`` and ``color``; remembers every batch it trains on."""

    ranks: Ranks = ALONE
    events: list = field(default_factory=list)
    keeps_host_arrays: bool = False
    on_train: Any = lambda: None
    weight: float = 0.0
    poison: float = 0.0
    trained: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    rates: list = field(default_factory=list)
    placed: list = field(default_factory=list)
    loss_sum: float = 0.0
    num_losses: int = 0
    identity = versions = None

    def put(self, batch):
        self.events.append("put")
        arrays = (
            batch.arrays if self.keeps_host_arrays else {name: array.copy() for name, array in batch.arrays.items()}
        )
        self.placed.append(Placed(arrays, batch.weights))
        return self.placed[-1]

    def train_step(self, placed, *, learning_rate):
        self.on_train()
        self.events.append("train")
        rows = {name: array.tolist() for name, array in placed.arrays.items()}
        aim = sum(np.mean(values) / (20 if name == "x" else 1 << 30) for name, values in rows.items()) / 3
        aim = float(self.ranks.sum(np.array([aim]))[0]) / self.ranks.num_ranks
        loss = (aim - self.weight) ** 2 + self.poison
        self.weight += learning_rate * (aim - self.weight)
        self.loss_sum, self.num_losses = self.loss_sum + loss, self.num_losses + 1
        placed.num_steps += 1
        self.trained.append(rows)
        self.losses.append(loss)
        self.rates.append(learning_rate)

    def take_loss(self):
        mean = self.loss_sum / self.num_losses if self.num_losses else float("nan")
        self.loss_sum, self.num_losses = 0.0, 0
        return mean

    def eval_step(self, placed):
        return {"loss": (placed.arrays["x"] - self.weight) ** 2, "x": placed.arrays["x"]}

    def synchronize(self):
        self.events.append("synchronize")

    def state(self):
        return {"weight": np.array([self.weight, self.loss_sum])}, {"num_losses": self.num_losses}

    def load_state(self, arrays, values):
        self.weight, self.loss_sum = arrays["weight"].tolist()
        self.num_losses = values["num_losses"]

    def weights(self):
        return {"weight": np.array([self.weight])}

    def load_weights(self, weights):
        self.weight = float(weights["weight"][0])


@dataclass
class FakeDisplay(Display):
    """``on_step`` is called with the number of steps after each, ``on_filling`` each time that is shown."""

    on_step: Any = lambda steps: None
    on_filling: Any = lambda: None
    fillings: list = field(default_factory=list)
    calls: list = field(default_factory=list)
    marks: list = field(default_factory=list)
    last: Any = None

    def start(self, *, metric, target, title):
        self.calls.append(("start", metric, target, title))

    def filling(self, *, num_read, num_needed):
        self.fillings.append((num_read, num_needed))
        self.on_filling()

    def update(self, progress):
        self.last = progress
        self.on_step(progress.steps)

    def mark(self, progress):
        self.marks.append(progress)

    def stop(self):
        self.calls.append("stop")


@dataclass
class FakeTracker(Tracker):
    """Remembers the positions it was told."""

    positions: list = field(default_factory=list)
    where: str = ""
    on_covered: Any = lambda position: None

    def start(self, run):
        raise AssertionError("not the trainer's business")

    def covered(self, position):
        self.positions.append(position)
        self.on_covered(position)

    def finish(self, *, status, artifacts, tags):
        raise AssertionError("not the trainer's business")


@dataclass(frozen=True, kw_only=True)
class FakeTask(Task):
    """Ten held-out numbers from 50 on, four at a time: the last batch is padded by two rows."""

    batch_size: int = BATCH_SIZE
    shuffle_buffer: int = 0
    eval_batch_size: int = 4
    eval_interval: int = 8
    target: float = 0.0
    budget: int = 24
    learning_rate: float = 0.1
    models: dict = field(default_factory=dict)
    source: Any = field(default_factory=lambda: CountingSource(10, first=50))
    name = "fake"
    metric = "mean_x"
    higher_is_better = True

    def train_source(self):
        raise AssertionError("evaluation does not train")

    def eval_source(self):
        return self.source

    def stages(self):
        raise AssertionError("evaluation does not augment")

    def eval_stages(self):
        return STAGES[:1]

    def evaluator(self):
        return WeightedMeans({"eval_loss": "loss", "mean_x": "x"})


class Run:
    """One process of a run in ``folder``; ``events`` has everything in order: put, train, evaluate ...

    ``scores`` are the metric's values, mark by mark (default: the backend's weight); with ``task``, real evaluation.
    ``on_evaluate`` is called while evaluating, ``on_step`` after each step.
    """

    def __init__(
        self,
        folder,
        *,
        after=None,
        factor=1.0,
        batch_shuffle_buffer=0,
        shuffle_buffer=8,
        seed=0,
        budget=None,
        schedule=None,
        target=1e9,
        scores=None,
        task=None,
        identity=None,
        resume_from=None,
        source=None,
        look_ahead=3,
        num_threads=2,
        keeps_host_arrays=False,
        factor_control=None,
        checkpoints=None,
        pruner=None,
        ranks=None,
        on_train=lambda: None,
        on_step=lambda steps: None,
        on_filling=lambda: None,
        on_evaluate=lambda: None,
        on_covered=lambda position: None,
        **settings,
    ):
        self.folder, self.scores, self.on_evaluate = folder, list(scores) if scores else None, on_evaluate
        self.source = source or CountingSource(20)
        ranks = ranks or OneRank()
        self.backend = FakeBackend(ranks=ranks, keeps_host_arrays=keeps_host_arrays, on_train=on_train)
        self.events = self.backend.events
        self.pruner = pruner or NoPruner()
        self.display, self.tracker = FakeDisplay(on_step, on_filling), FakeTracker(on_covered=on_covered)
        self.num_steps_at_marks = []
        self.new_feed = lambda state, source=self.source: Feed(
            source,
            STAGES,
            batch_size=BATCH_SIZE,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            echo_after=after,
            factor=factor,
            batch_shuffle_buffer=batch_shuffle_buffer,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
            settings=PipelineSettings(num_threads=num_threads, look_ahead=look_ahead, chunk_size=3),
            state=state,
        )
        self.trainer = Trainer(
            folder,
            new_feed=self.new_feed,
            evaluate=self._evaluate if task is None else partial(self._evaluate_really, task),
            backend=self.backend,
            recipe=Recipe(
                budget=budget or Budget(fresh=24),
                schedule=schedule or ConstantSchedule(),
                target=Target("score" if task is None else task.metric, target, higher_is_better=True),
                settings=TrainerSettings(
                    checkpoints=checkpoints or CheckpointSettings(),
                    **{"learning_rate": 0.1, "eval_interval": 8, **settings},
                ),
            ),
            time_model=TimeModel(batch_size=BATCH_SIZE, num_workers=2, shares_cores=True, workers_are_upstream=True),
            factor_control=factor_control,
            observers=Observers(tracker=self.tracker, display=self.display, pruner=self.pruner),
            origin=Origin(identity=identity or {"seed": seed}, state=resume_from),
        )
        self.outcome = None

    def run(self):
        self.outcome = self.trainer.run()
        return self

    @property
    def trained(self):
        return self.backend.trained

    @property
    def spool(self):
        """(step, metrics) of every mark in the folder."""
        return [(entry.step, dict(entry.metrics)) for entry in read_spool(self.folder)]

    @property
    def exact_spool(self):
        """The same without what depends on time."""
        return [(step, without_times(metrics)) for step, metrics in self.spool]

    @property
    def exact_outcome(self):
        return without_times(self.outcome.metrics)

    def remove(self):
        shutil.rmtree(self.folder)

    def checkpoint(self):
        """The state that a resume starts from."""
        return CheckpointStore(self.folder).newest()

    def planned(self, count):
        """The first batches of the same plan, from a feed of their own."""
        with self.new_feed(None, CountingSource(20)) as feed:
            return [next(feed) for _ in range(count)]

    def _evaluate(self):
        self._note()
        score = self.scores.pop(0) if self.scores else self.backend.weight
        return {"eval_loss": 1 - self.backend.weight, "score": score}

    def _evaluate_really(self, task):
        self._note()
        return evaluate(task, task.eval_source(), self.backend, PipelineSettings(num_threads=2, chunk_size=3))

    def _note(self):
        self.events.append("evaluate")
        self.num_steps_at_marks.append(self.events.count("train"))
        self.on_evaluate()


def without_times(metrics):
    return {name: value for name, value in metrics.items() if name not in TIMES}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The plan is made in blocks of ten batches: several in a run, and fast."""
    monkeypatch.setattr(plan_module, "_USES_PER_BLOCK", 10 * BATCH_SIZE)


@pytest.fixture
def new_run(tmp_path):
    """Makes runs, all in one folder unless told otherwise."""
    return partial(Run, tmp_path / "run")


@pytest.fixture
def other_run(tmp_path):
    """Makes runs in folders of their own: ``other_run(3)`` twice is twice the same one."""
    return lambda name, **settings: Run(tmp_path / f"other {name}", **settings)


@pytest.fixture
def task():
    return FakeTask()


@pytest.fixture
def now(monkeypatch):
    """The trainer's clock is this one; the heartbeat beats after every step."""
    now = Now()
    monkeypatch.setattr(spent, "Clock", partial(Clock, now=now))
    monkeypatch.setattr(run_folder, "Heartbeat", partial(Heartbeat, interval=0.0, now=now))
    return now


@pytest.fixture
def slow_source():
    """A source that takes three milliseconds for every chunk."""
    return CountingSource(20, on_read=lambda: time.sleep(0.003))

"""The contract of a workload: its data, its stages, its metric."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.batch import Arrays, Batch
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.training.shown import Shown, described, in_numbers

#: From the fields of held-out rows, as the stages for evaluation make them, to a model's outputs for each of them.
Predict = Callable[[Arrays], Arrays]


class Evaluator(abc.ABC):
    """Turns a model's outputs on held-out rows into metrics; one object per evaluation."""

    @abc.abstractmethod
    def update(self, outputs: Mapping[str, NDArray[Any]], batch: Batch) -> None:
        """Take the outputs of one batch, arrays whose first axis is its rows. Rows of weight 0 do not count."""

    @abc.abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics over everything seen: ``eval_loss`` and the task's own."""

    @abc.abstractmethod
    def seen(self) -> Arrays:
        """What :meth:`compute` needs of the batches so far, as arrays: for another rank's :meth:`add`."""

    @abc.abstractmethod
    def add(self, seen: Arrays) -> None:
        """Take what another evaluator has :meth:`seen`, after what this one has."""


class WeightedMeans(Evaluator):
    """Means of per-row outputs over rows of weight 1. ``names`` maps a metric to the output it is the mean of."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self._sums = dict.fromkeys(names, 0.0)
        self._weight = 0.0

    def update(self, outputs: Mapping[str, NDArray[Any]], batch: Batch) -> None:
        self._weight += float(batch.weights.sum())
        for metric, output in self._names.items():
            self._sums[metric] += float(np.dot(outputs[output].astype(np.float64), batch.weights))

    def compute(self) -> dict[str, float]:
        return {metric: total / self._weight for metric, total in self._sums.items()}

    def seen(self) -> Arrays:
        return {"sums": np.array([*self._sums.values(), self._weight])}

    def add(self, seen: Arrays) -> None:
        *sums, weight = seen["sums"].tolist()
        self._sums = {metric: total + sums[n] for n, (metric, total) in enumerate(self._sums.items())}
        self._weight += weight


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """The facts of one workload, once; one model per framework stands beside them in ``models``.

    ``batch_size`` rows a step; ``shuffle_buffer`` examples (0: none); ``eval_interval`` and ``budget`` in fresh
    examples; ``target`` for the metric; ``learning_rate`` that serves every echo setting reasonably; ``models`` maps a
    backend's name to the ``_target_`` and arguments of its model.
    """

    batch_size: int
    shuffle_buffer: int
    eval_batch_size: int
    eval_interval: int
    target: float
    budget: int
    learning_rate: float
    models: dict[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "eval_interval", "budget"):
            value = getattr(self, name)
            require(value >= 1, f"task.{name}", value, allowed="whole numbers >= 1", cure=f"Set task.{name}.")
        require(
            math.isfinite(self.target), "task.target", self.target, allowed="finite numbers", cure="Set task.target."
        )
        require(
            self.shuffle_buffer >= 0,
            "task.shuffle_buffer",
            self.shuffle_buffer,
            allowed="0 (no shuffling) or a number of examples",
            cure="Set task.shuffle_buffer.",
        )

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The task's folder name."""

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """The metric that the target is about."""

    @property
    @abc.abstractmethod
    def higher_is_better(self) -> bool:
        """Whether the target is reached from below."""

    @abc.abstractmethod
    def train_source(self) -> Source:
        """What is trained on."""

    @abc.abstractmethod
    def eval_source(self) -> Source:
        """What is held out; shares no example with :meth:`train_source`."""

    @abc.abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages between ``read`` and ``batch``, in order."""

    @abc.abstractmethod
    def eval_stages(self) -> Sequence[Stage]:
        """The same for evaluation: nothing random."""

    @abc.abstractmethod
    def evaluator(self) -> Evaluator:
        """A new evaluator."""

    def starting_weights(self, given: Arrays, own: Arrays) -> Arrays:
        """What a new run begins with, if ``weights=`` names a file: by default ``given``, what is in it. That must have
        the names and shapes of ``own``, what the model has drawn at random; a task may complete a part of a network, or
        know other names."""
        return given

    def show(self, example: Any) -> Shown:
        """One example for a person to look at, after any stage or none (a record of its source)."""
        return described(example)

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        """Some held-out ``examples``, from the first on, and what a model makes of them.

        ``predict`` may be asked any number of times, of any rows with the fields and shapes of ``examples``. Several
        ranks ask together: what is asked, and how often, must not depend on the rank.
        """
        outputs = predict(examples)
        return [
            replace(self.show(example), caption=in_numbers(outputs, row))
            for row, example in enumerate(as_examples(examples))
        ]

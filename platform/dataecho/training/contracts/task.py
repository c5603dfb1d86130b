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

#: From fields of held-out rows, as the evaluation stages return them, to the model's outputs for each row.
Predict = Callable[[Arrays], Arrays]


class Evaluator(abc.ABC):
    """Computes metrics from a model's outputs on held-out rows; one object per evaluation.

    Outputs are arrays [b, ...], a row of the batch first; a metric is a number without a unit. Raises nothing of its
    own.

        >>> import numpy as np
        >>> from dataecho import ArraySource, Evaluator, once_through
        >>> class Largest(Evaluator):
        ...     loss = 0.0
        ...
        ...     def update(self, outputs, batch):
        ...         self.loss = max(self.loss, float((outputs["loss"] * batch.weights).max()))
        ...
        ...     def compute(self):
        ...         return {"eval_loss": self.loss}
        ...
        ...     def seen(self):
        ...         return {"loss": np.array(self.loss)}
        ...
        ...     def add(self, seen):
        ...         self.loss = max(self.loss, float(seen["loss"]))
        >>> evaluator = Largest()
        >>> with once_through(ArraySource({"x": np.arange(5.0)}), [], batch_size=3) as batches:
        ...     for batch in batches:
        ...         evaluator.update({"loss": batch["x"]}, batch)
        >>> evaluator.compute()
        {'eval_loss': 4.0}
    """

    @abc.abstractmethod
    def update(self, outputs: Mapping[str, NDArray[Any]], batch: Batch) -> None:
        """Add the outputs of one batch, arrays whose first axis is its rows. Rows of weight 0 do not count."""

    @abc.abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics over all batches: ``eval_loss`` and those of the task."""

    @abc.abstractmethod
    def seen(self) -> Arrays:
        """The state that :meth:`compute` needs, as arrays, for :meth:`add` on another rank."""

    @abc.abstractmethod
    def add(self, seen: Arrays) -> None:
        """Append the state of another evaluator, from its :meth:`seen`."""


class WeightedMeans(Evaluator):
    """Means of per-row outputs over rows of weight 1. ``names`` maps a metric to the output it is the mean of, an array
    [b]. An output that is not there raises ``KeyError``.

        >>> import numpy as np
        >>> from dataecho import ArraySource, WeightedMeans, once_through
        >>> evaluator = WeightedMeans({"accuracy": "correct"})
        >>> with once_through(ArraySource({"x": np.array([1.0, 1.0, 0.0, 1.0])}), [], batch_size=3) as batches:
        ...     for batch in batches:
        ...         evaluator.update({"correct": batch["x"]}, batch)
        >>> evaluator.compute()
        {'accuracy': 0.75}
    """

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
    """The facts of one workload, and its model for each framework.

    ``batch_size`` rows a step; ``shuffle_buffer`` examples (0: none); ``eval_interval`` and ``budget`` in fresh
    examples; ``target`` for the metric; ``learning_rate``: a reasonable default for every echo setting; ``models`` maps
    the name of a backend to the ``_target_`` and arguments of its model.

    Raises :class:`SettingError` for a fact out of bounds.

        >>> import numpy as np
        >>> from dataecho import ArraySource, Stage, Task, WeightedMeans
        >>> class Line(Task):
        ...     name, metric, higher_is_better = "line", "eval_loss", False
        ...
        ...     def train_source(self):
        ...         return ArraySource({"x": np.linspace(0, 1, 100, dtype=np.float32)})
        ...
        ...     def eval_source(self):
        ...         return ArraySource({"x": np.linspace(2, 3, 10, dtype=np.float32)})
        ...
        ...     def stages(self):
        ...         return [Stage("double", lambda example: {"x": example["x"], "y": 2 * example["x"]})]
        ...
        ...     def eval_stages(self):
        ...         return self.stages()
        ...
        ...     def evaluator(self):
        ...         return WeightedMeans({"eval_loss": "loss"})
        >>> model = {"torch": {"_target_": "line.torch_model.Line"}}
        >>> task = Line(
        ...     batch_size=10, shuffle_buffer=50, eval_batch_size=10, eval_interval=100, target=0.01, budget=1000,
        ...     learning_rate=0.1, models=model,
        ... )
        >>> task.budget  # fresh examples
        1000
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
        """The name of the metric that has the target."""

    @property
    @abc.abstractmethod
    def higher_is_better(self) -> bool:
        """Whether the target is reached from below."""

    @abc.abstractmethod
    def train_source(self) -> Source:
        """The training data."""

    @abc.abstractmethod
    def eval_source(self) -> Source:
        """The held-out data, which share no example with :meth:`train_source`."""

    @abc.abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages between ``read`` and ``batch``, in order."""

    @abc.abstractmethod
    def eval_stages(self) -> Sequence[Stage]:
        """The stages for evaluation, none of them random."""

    @abc.abstractmethod
    def evaluator(self) -> Evaluator:
        """A new evaluator."""

    def starting_weights(self, given: Arrays, own: Arrays) -> Arrays:
        """The initial weights of a new run with ``weights=<file>``: by default ``given``, the contents of the file. The
        result must have the names and shapes of ``own``, the model's random weights; a task may complete the weights of
        a part of the network, or translate names."""
        return given

    def show(self, example: Any) -> Shown:
        """The visible content of an example after any stage, or of a record of the source."""
        return described(example)

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        """The visible content of held-out ``examples``, from the first on, with the model's predictions.

        ``predict`` may be called any number of times, with any rows that have the fields and shapes of ``examples``. It
        is collective: its arguments and the number of calls must not depend on the rank.
        """
        outputs = predict(examples)
        return [
            replace(self.show(example), caption=in_numbers(outputs, row))
            for row, example in enumerate(as_examples(examples))
        ]

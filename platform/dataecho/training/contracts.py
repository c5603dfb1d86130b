"""The interfaces between the loop and everything around it. Every class here is abstract or a plain record."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.training.ranks import Ranks
from dataecho.training.shown import Shown, described, in_numbers

Arrays = dict[str, NDArray[Any]]

#: How the names of the model's weights begin in a backend's state.
MODEL = "model/"

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


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """One optimizer, in terms every framework has. ``name``: nesterov, momentum or adamw; ``weight_decay`` is for every
    weight, those of normalisations and biases included."""

    name: str
    learning_rate: float
    momentum: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    ALLOWED = ("nesterov", "momentum", "adamw")

    def __post_init__(self) -> None:
        allowed = ", ".join(self.ALLOWED)
        require(self.name in self.ALLOWED, "optimizer.name", self.name, allowed=allowed, cure="Use optimizer=nesterov.")
        require(
            self.learning_rate > 0,
            "optimizer.learning_rate",
            self.learning_rate,
            allowed="numbers > 0",
            cure="Leave it out for the task's default.",
        )
        for name in ("momentum", "beta_2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, allowed="[0, 1)", cure=f"Set optimizer.{name}.")
        if self.name != "adamw":
            for name, default in (("beta_2", 0.999), ("epsilon", 1e-8)):
                value = getattr(self, name)
                require(
                    value == default,
                    f"optimizer.{name}",
                    value,
                    allowed=f"nothing with optimizer={self.name}, which has no such thing",
                    cure="It belongs to optimizer=adamw.",
                )
        for name in ("epsilon", "weight_decay"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name}", value, allowed=">= 0", cure=f"Set optimizer.{name}.")


@dataclass(frozen=True, kw_only=True)
class AcceleratorSettings:
    """Where a backend computes and in which precision; ``devices``: how many of them this process drives. A backend
    refuses what its machine or framework lacks."""

    name: str
    precision: str = "32"
    devices: int = 1

    def __post_init__(self) -> None:
        require(
            self.devices >= 1,
            "accelerator.devices",
            self.devices,
            allowed="whole numbers >= 1",
            cure="1 is the default.",
        )


@dataclass(frozen=True, kw_only=True)
class BackendContext:
    """What a backend is built from besides its own settings. ``new_model`` builds the task's model for it, and is
    called once, after the framework's generator was seeded."""

    new_model: Callable[[], Any]
    optimizer: OptimizerSettings
    accelerator: AcceleratorSettings
    seed: int


class Backend(abc.ABC):
    """One framework: model, optimizer, device. Everything else in a run is framework-neutral."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with and the configuration does not tell: ``backend.device``, the one found, and
        ``backend.compute_threads``."""

    @property
    def shares_cores(self) -> bool:
        """Whether it computes on the cores that decode and augment, too."""
        return bool(self.identity["backend.device"] == "cpu")

    @property
    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Names and versions of the framework's packages."""

    @property
    @abc.abstractmethod
    def ranks(self) -> Ranks:
        """The processes that train this model together; ``OneRank`` where there is one. Of a backend with more, every
        method but :meth:`put` is collective; for evaluation too every rank takes as many batches."""

    @abc.abstractmethod
    def put(self, batch: Batch) -> Any:
        """The batch on the device. The host arrays may be used again at once; where :attr:`keeps_host_arrays`, when the
        step they went into has returned."""

    @property
    @abc.abstractmethod
    def keeps_host_arrays(self) -> bool:
        """Whether what :meth:`put` returns still reads the batch's host arrays (shared memory on a CPU). The steps of
        such a backend return when they are done."""

    @abc.abstractmethod
    def train_step(self, placed: Any, *, learning_rate: float) -> None:
        """One update with the weighted mean loss of the rows of all ranks (the sum of weight times loss, divided by the
        sum of the weights); adds to the loss that :meth:`take_loss` returns."""

    @abc.abstractmethod
    def take_loss(self) -> float:
        """Mean over the steps since the last call, NaN if there was none; the only place where a loss leaves the
        device."""

    @abc.abstractmethod
    def eval_step(self, placed: Any) -> dict[str, NDArray[Any]]:
        """The model's outputs for evaluation, arrays whose first axis is the batch's rows; changes no state."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Return when everything that was asked for has been computed, and the ranks agree on running statistics."""

    @abc.abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything a continuation needs (weights, optimizer, noise, running loss): arrays, and JSON values. The same
        on every rank, but for arrays whose names begin with ``rank/``: these are this rank's own. Those that begin with
        :data:`MODEL` are :meth:`weights`, all of them and nothing else, by their names behind it: ``mode=export`` takes
        them."""

    @abc.abstractmethod
    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        """Continue where :meth:`state` was taken."""

    @abc.abstractmethod
    def weights(self) -> Arrays:
        """Copies of the model's parameters and buffers, by framework-neutral dotted names and in framework-neutral
        layouts: those of PyTorch (convolutions [out, in, height, width], linear layers [out, in]; ``weight``, ``bias``,
        ``running_mean``, ``running_var``)."""

    @abc.abstractmethod
    def load_weights(self, weights: Arrays) -> None:
        """Set the model's parameters and buffers; every name and shape must match."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told about a run before it starts. Nothing in it is secret.

    ``params``: the flattened configuration; ``tags``: short facts to filter by (task, echo, git revision ...);
    ``dataset``: name, digest and number of examples of the training source.
    """

    folder: Path
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: Mapping[str, Any]


class Tracker(abc.ABC):
    """Records a run beside its folder. No method ever raises for, or waits long for, a tracker that fails."""

    @abc.abstractmethod
    def start(self, run: RunInfo) -> None:
        """Begin, or continue, the record of the run in ``run.folder``."""

    @abc.abstractmethod
    def covered(self, position: int) -> None:
        """The first ``position`` bytes of the spool are final (a checkpoint covers them): they may be sent. Returns at
        once."""

    @abc.abstractmethod
    def finish(self, *, status: str, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        """End the record: ``status`` is ``finished``, ``failed`` or ``interrupted``; everything in the spool that is
        covered, then ``artifacts`` and ``tags``, are sent within a bounded time, or kept for later."""

    @property
    @abc.abstractmethod
    def where(self) -> str:
        """How a person gets to see the record: a command or an address without credentials; empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a display shows while training: counts so far, the last mark's values, waits since the start."""

    fresh_examples: int
    steps: int
    spent_fraction: float
    train_loss: float
    metric: float
    input_wait_fraction: float


class Display(abc.ABC):
    """Shows a run to a person."""

    @abc.abstractmethod
    def start(self, *, metric: str, target: float, title: str) -> None:
        """Training begins."""

    @abc.abstractmethod
    def filling(self, *, num_read: int, num_needed: int) -> None:
        """Called a few times a second until there is a first batch, where the shuffle buffer is filled with what was
        read: of about ``num_needed`` examples ``num_read`` are here."""

    @abc.abstractmethod
    def update(self, progress: Progress) -> None:
        """Called after every step; cheap."""

    @abc.abstractmethod
    def mark(self, progress: Progress) -> None:
        """Called after every evaluation."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Training has ended, well or not."""


class Pruner(abc.ABC):
    """Ends a run that is not worth going on: it is asked at every mark but the last, on the first rank."""

    @abc.abstractmethod
    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        """Take the metric's ``value`` at the mark ``fresh_examples`` (on the grid of evaluations, the same for all runs
        of a task); True ends the run after a checkpoint. A resumed run may ask again about a mark that it had asked
        about before. Never raises for, or waits long for, whatever it asks."""


@final
class NoPruner(Pruner):
    """Lets every run go on."""

    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        return False

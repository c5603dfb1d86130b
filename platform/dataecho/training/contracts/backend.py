"""The contract of a framework, and the settings that it is built from."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.batch import Arrays, Batch
from dataecho.training.ranks import Ranks

#: The prefix of the model's weights in a backend's state.
MODEL = "model/"

#: The prefix of the arrays that differ from rank to rank.
RANK = "rank/"


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
    """The arguments of a backend besides its own settings. ``new_model`` builds the task's model; the backend calls it
    once, after it has seeded the framework's generator."""

    new_model: Callable[[], Any]
    optimizer: OptimizerSettings
    accelerator: AcceleratorSettings
    seed: int


class Backend(abc.ABC):
    """One framework: model, optimizer, device. Everything else in a run is framework-neutral."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Facts that a checkpoint must agree with and the configuration does not hold: ``backend.device``, the device
        in use, and ``backend.compute_threads``."""

    @property
    def shares_cores(self) -> bool:
        """Whether it computes on the cores that also decode and augment."""
        return bool(self.identity["backend.device"] == "cpu")

    @property
    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Names and versions of the framework's packages."""

    @property
    @abc.abstractmethod
    def ranks(self) -> Ranks:
        """The processes that train this model together; ``OneRank`` for a single process. With more, every method but
        :meth:`put` is collective, and in an evaluation every rank takes the same number of batches."""

    @abc.abstractmethod
    def put(self, batch: Batch) -> Any:
        """Copy the batch to the device. The host arrays may be reused at once, or, where :attr:`keeps_host_arrays`,
        when the step that uses them has returned."""

    @property
    @abc.abstractmethod
    def keeps_host_arrays(self) -> bool:
        """Whether the result of :meth:`put` still reads the batch's host arrays (shared memory on a CPU). Steps of such
        a backend are synchronous."""

    @abc.abstractmethod
    def train_step(self, placed: Any, *, learning_rate: float) -> None:
        """One update with the weighted mean loss of the rows of all ranks (the sum of weight times loss, divided by the
        sum of the weights); adds to the loss that :meth:`take_loss` returns."""

    @abc.abstractmethod
    def take_loss(self) -> float:
        """The mean loss of the steps since the last call, NaN if there was none. The only method that copies the loss
        to the host."""

    @abc.abstractmethod
    def eval_step(self, placed: Any) -> dict[str, NDArray[Any]]:
        """The model's outputs for evaluation, arrays whose first axis is the batch's rows; changes no state."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until the device is idle, and average running statistics over the ranks."""

    @abc.abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything a continuation needs (weights, optimizer, noise, running loss): arrays, and JSON values. All are
        the same on every rank, except arrays whose names begin with :data:`RANK`. The arrays whose names begin with
        :data:`MODEL` are those of :meth:`weights`, by their names behind it: ``mode=export`` writes them."""

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

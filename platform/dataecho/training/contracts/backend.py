"""The contract of a framework, and the settings that it is built from."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from dataecho.declare import SettingGroup, declared_settings, setting
from dataecho.errors import require
from dataecho.pipeline.batch import Arrays, Batch
from dataecho.training.ranks import Ranks

#: The prefix of the model's weights in a backend's state.
MODEL = "model/"

#: The prefix of the arrays that differ from rank to rank.
RANK = "rank/"


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(SettingGroup, key="optimizer"):
    """The update of the weights, in terms that every framework has."""

    name: Literal["nesterov", "momentum", "adamw"] = setting(help="The rule.", cure="Use optimizer=nesterov.")
    learning_rate: float = setting(
        above=0, help="Base learning rate, which the schedule scales.", cure="Leave it out for the task's default."
    )
    momentum: float = setting(0.9, at_least=0, below=1, help="Momentum; beta_1 of AdamW.")
    beta_2: float = setting(0.999, at_least=0, below=1, help="Decay of the second moment; AdamW only.")
    epsilon: float = setting(1e-8, at_least=0, help="Added to the denominator; AdamW only.")
    weight_decay: float = setting(0.0, at_least=0, help="Decay of every weight, norms and biases included.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for declared in declared_settings(OptimizerSettings):
            require(
                self.name == "adamw"
                or declared.name not in ("beta_2", "epsilon")
                or getattr(self, declared.name) == declared.default,
                declared.key,
                getattr(self, declared.name),
                allowed=f"nothing with optimizer={self.name}, which does not have it",
                cure="It belongs to optimizer=adamw.",
            )


@dataclass(frozen=True, kw_only=True)
class AcceleratorSettings(SettingGroup, key="accelerator"):
    """Where and in which precision the model is computed. A backend refuses what its machine or framework lacks."""

    name: str = setting("auto", help="A device that the backend knows: cpu, cuda, mps, ...; auto: the fastest here.")
    precision: str = setting("32", takes_numbers=True, help="32, bf16 or 64.")
    devices: int = setting(1, at_least=1, help="Devices that this process drives.", cure="1 is the default.")


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

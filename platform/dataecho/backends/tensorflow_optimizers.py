"""The update of one variable, by the formulas that every backend shares (see ``dataecho.testing.backend_contract``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataecho.backends.tensorflow_start import tf
from dataecho.errors import require
from dataecho.training.contracts import OptimizerSettings


@dataclass(frozen=True)
class Update:
    """``slots``: the names of the optimizer's state for each variable; every slot has the variable's shape and begins
    at 0."""

    settings: OptimizerSettings

    def __post_init__(self) -> None:
        require(
            self.settings.name != "nesterov" or self.settings.momentum > 0,
            "optimizer.momentum",
            self.settings.momentum,
            allowed="(0, 1) with optimizer=nesterov",
            cure="Plain SGD is optimizer=momentum optimizer.momentum=0.",
        )

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the slots that :meth:`apply` takes."""
        if self.settings.name == "adamw":
            return ("first_moment", "second_moment")
        return ("velocity",) if self.settings.momentum else ()

    def apply(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        slots: Mapping[str, tf.Variable],
        *,
        rate: tf.Tensor,
        num_steps: tf.Tensor,
    ) -> None:
        """Change ``variable`` and ``slots``; ``rate`` and ``num_steps`` (1 at the first) are float64."""
        if self.settings.name == "adamw":
            self._adamw(variable, gradient, slots["first_moment"], slots["second_moment"], rate, num_steps)
            return
        rate = tf.cast(rate, variable.dtype)
        if self.settings.weight_decay:
            gradient = gradient + self.settings.weight_decay * variable
        if self.settings.momentum:
            velocity = slots["velocity"].assign(self.settings.momentum * slots["velocity"] + gradient)
            ahead = gradient + self.settings.momentum * velocity
            gradient = ahead if self.settings.name == "nesterov" else velocity
        variable.assign_sub(rate * gradient)

    def _adamw(
        self,
        variable: tf.Variable,
        gradient: tf.Tensor,
        first: tf.Variable,
        second: tf.Variable,
        rate: tf.Tensor,
        num_steps: tf.Tensor,
    ) -> None:
        settings, dtype = self.settings, variable.dtype
        # In float64: in 32 bits, 1 - beta ** t loses most digits for a beta near 1.
        first_share = 1.0 - tf.constant(settings.momentum, tf.float64) ** num_steps
        second_share = 1.0 - tf.constant(settings.beta_2, tf.float64) ** num_steps
        mean = first.assign(settings.momentum * first + (1 - settings.momentum) * gradient)
        square = second.assign(settings.beta_2 * second + (1 - settings.beta_2) * tf.square(gradient))
        scale = tf.sqrt(square) / tf.cast(tf.sqrt(second_share), dtype) + settings.epsilon
        kept = variable * tf.cast(1.0 - rate * settings.weight_decay, dtype)
        variable.assign(kept - tf.cast(rate / first_share, dtype) * (mean / scale))

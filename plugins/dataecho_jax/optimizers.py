"""The update formulas that every backend shares, as pure functions of dictionaries of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dataecho.errors import require
from dataecho.training.contracts import OptimizerSettings
from dataecho_jax.model import Tensors

#: What an optimizer remembers of every parameter, by the slot's name.
Slots = dict[str, Tensors]


def new_slots(settings: OptimizerSettings, parameters: Tensors) -> Slots:
    """Zeros; two slots for AdamW, one for the others."""
    require(
        settings.name != "nesterov" or settings.momentum > 0,
        "optimizer.momentum",
        settings.momentum,
        allowed="(0, 1) with optimizer=nesterov",
        cure="Plain SGD is optimizer=momentum optimizer.momentum=0.",
    )
    names = ("mean", "square") if settings.name == "adamw" else ("velocity",)
    return {name: jax.tree.map(jnp.zeros_like, parameters) for name in names}


def scalars(settings: OptimizerSettings, *, learning_rate: float, step: int) -> dict[str, float]:
    """The numbers that :func:`update` takes at step 1, 2, ... In 32 bit 1 - beta^step would lose half its digits."""
    if settings.name != "adamw":
        return {"rate": learning_rate}
    return {
        "rate": learning_rate,
        "mean_correction": 1 - settings.momentum**step,
        "square_correction": 1 - settings.beta_2**step,
    }


def update(
    settings: OptimizerSettings, parameters: Tensors, gradients: Tensors, slots: Slots, scalars: Tensors
) -> tuple[Tensors, Slots]:
    """Parameters and slots after one step."""
    return (_adamw if settings.name == "adamw" else _momentum)(settings, parameters, gradients, slots, scalars)


def _momentum(
    settings: OptimizerSettings, parameters: Tensors, gradients: Tensors, slots: Slots, scalars: Tensors
) -> tuple[Tensors, Slots]:
    """Polyak's and Nesterov's momentum (Sutskever et al. 2013), the rate outside of the velocity."""
    beta, decay = settings.momentum, settings.weight_decay
    gradients = jax.tree.map(lambda g, p: g + decay * p, gradients, parameters)
    velocity = jax.tree.map(lambda v, g: beta * v + g, slots["velocity"], gradients)
    ahead = velocity
    if settings.name == "nesterov":
        ahead = jax.tree.map(lambda g, v: g + beta * v, gradients, velocity)
    return jax.tree.map(lambda p, a: p - scalars["rate"] * a, parameters, ahead), {"velocity": velocity}


def _adamw(
    settings: OptimizerSettings, parameters: Tensors, gradients: Tensors, slots: Slots, scalars: Tensors
) -> tuple[Tensors, Slots]:
    """Loshchilov and Hutter 2019, algorithm 2, the decay multiplied by the rate."""
    beta_1, beta_2, rate = settings.momentum, settings.beta_2, scalars["rate"]
    mean = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, slots["mean"], gradients)
    square = jax.tree.map(lambda s, g: beta_2 * s + (1 - beta_2) * g * g, slots["square"], gradients)

    def step(parameter: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
        size = jnp.sqrt(square / scalars["square_correction"]) + settings.epsilon
        return parameter * (1 - rate * settings.weight_decay) - rate * (mean / scalars["mean_correction"]) / size

    return jax.tree.map(step, parameters, mean, square), {"mean": mean, "square": square}

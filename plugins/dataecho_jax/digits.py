"""The digits network in JAX; what it computes is what ``dataecho_tasks.digits.torch_model`` computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dataecho.errors import require
from dataecho_jax.model import JaxModel, Tensors


@dataclass(frozen=True, kw_only=True)
class DigitsNet(JaxModel):
    """``image`` [b, 1, 8, 8] to ten logits; 9,930 parameters at the default ``channels`` (16, 32)."""

    channels: Sequence[int] = (16, 32)

    def __post_init__(self) -> None:
        require(
            len(self.channels) == 2 and min(self.channels) >= 1,
            "task.models.jax.channels",
            list(self.channels),
            allowed="two whole numbers >= 1",
            cure="[16, 32] is the default.",
        )
        object.__setattr__(self, "channels", tuple(self.channels))  # a list from a yaml cannot be hashed

    def init(self, key: jax.Array) -> tuple[Tensors, Tensors]:
        """Weights and biases uniform within 1 / sqrt(inputs of a unit), as PyTorch draws them."""
        first, second = self.channels
        shapes = {
            "convolution_1": (first, 1, 3, 3),
            "convolution_2": (second, first, 3, 3),
            "linear": (10, second * 16),
        }
        parameters = {}
        for layer_key, (layer, shape) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
            weight_key, bias_key = jax.random.split(layer_key)
            most = 1 / math.sqrt(math.prod(shape[1:]))
            parameters[f"{layer}.weight"] = jax.random.uniform(weight_key, shape, minval=-most, maxval=most)
            parameters[f"{layer}.bias"] = jax.random.uniform(bias_key, shape[:1], minval=-most, maxval=most)
        return parameters, {}

    def losses(
        self, parameters: Tensors, buffers: Tensors, batch: Tensors, key: jax.Array
    ) -> tuple[jax.Array, Tensors]:
        return _cross_entropy(_logits(parameters, batch["image"]), batch["label"]), buffers

    def outputs(self, parameters: Tensors, buffers: Tensors, batch: Tensors) -> Tensors:
        logits = _logits(parameters, batch["image"])
        predicted = logits.argmax(axis=1)
        return {
            "loss": _cross_entropy(logits, batch["label"]),
            "correct": predicted == batch["label"],
            "predicted": predicted,
        }


def _logits(parameters: Tensors, images: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(_convolved(parameters, "convolution_1", images))
    hidden = jax.nn.relu(_convolved(parameters, "convolution_2", hidden))
    count, channels, height, width = hidden.shape
    hidden = hidden.reshape(count, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    logits = hidden.reshape(count, -1) @ parameters["linear.weight"].T + parameters["linear.bias"]
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # bf16 is too coarse for a loss


def _convolved(parameters: Tensors, layer: str, inputs: jax.Array) -> jax.Array:
    outputs = jax.lax.conv_general_dilated(
        inputs, parameters[f"{layer}.weight"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return outputs + parameters[f"{layer}.bias"][:, None, None]


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

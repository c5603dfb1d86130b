"""The interface of a task's JAX model to the JAX backend."""

from __future__ import annotations

import abc

import jax

#: By dotted names, in PyTorch's layouts: convolutions [out, in, height, width], linear layers [out, in].
Tensors = dict[str, jax.Array]


class JaxModel(abc.ABC):
    """Pure functions of ``parameters``, which are trained, and ``buffers``, which are not (running statistics). The
    model itself has settings only and is hashable, best a frozen dataclass: equal models are compiled once.

    ``batch`` maps field names to arrays [b, ...]. With ``accelerator.precision=bf16`` parameters and fields of reals
    come in bfloat16, buffers in 32 bit.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array) -> tuple[Tensors, Tensors]:
        """New parameters and buffers, drawn from ``key``."""

    @abc.abstractmethod
    def losses(
        self, parameters: Tensors, buffers: Tensors, batch: Tensors, key: jax.Array
    ) -> tuple[jax.Array, Tensors]:
        """The training loss of every row, [b], of which the backend takes the weighted mean, and the buffers after this
        step. ``key`` is another one in every step: for dropout."""

    @abc.abstractmethod
    def outputs(self, parameters: Tensors, buffers: Tensors, batch: Tensors) -> Tensors:
        """The outputs for the task's evaluator, arrays whose first axis is the row."""

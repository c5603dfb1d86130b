"""Keras variables under PyTorch's names and in PyTorch's layouts, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.backends.tensorflow_start import keras
from dataecho.errors import require

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_NAMES = {
    "embeddings": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclass(frozen=True)
class Weight:
    """A variable whose neutral layout has its axes in the order ``axes``, reshaped to ``shape``. None: unchanged."""

    variable: keras.Variable
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    @property
    def neutral_shape(self) -> tuple[int, ...]:
        """The shape of the result of :meth:`to_neutral`."""
        return self.shape or self._turned

    def to_neutral(self, values: NDArray[Any]) -> NDArray[Any]:
        """A copy of ``values``, which have the variable's shape, in the neutral layout."""
        return np.array(values.transpose(self._axes).reshape(self.neutral_shape), order="C")

    def from_neutral(self, array: NDArray[Any]) -> NDArray[Any]:
        """The inverse of :meth:`to_neutral`."""
        return array.reshape(self._turned).transpose(np.argsort(self._axes))

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.axes or tuple(range(len(self.variable.shape)))

    @property
    def _turned(self) -> tuple[int, ...]:
        return tuple(int(self.variable.shape[axis]) for axis in self._axes)


def named_weights(model: keras.Layer, special: Mapping[str, Weight]) -> dict[str, Weight]:
    """Every weight of ``model`` by its PyTorch name: attributes and numbers, joined by dots. ``special``: weights with
    given names.

    Raises :class:`SettingError` for layers without weights yet, and for weights without a name.
    """
    for layer in model._flatten_layers(include_self=False):
        require(
            layer.built,
            "task.models.tensorflow",
            type(model).__name__,
            allowed="a model that has all its weights",
            cure=f"Layer {layer.name!r} has none yet: call its `build(shape)` in the constructor.",
        )
    found = dict(special)
    named = {id(weight.variable) for weight in special.values()}
    for name, weight in _walk(model, ""):
        if id(weight.variable) not in named:  # a shared weight has its first name
            found[name] = weight
            named.add(id(weight.variable))
    for variable in model.weights:
        require(
            id(variable) in named,
            "task.models.tensorflow",
            type(model).__name__,
            allowed="a model whose weights all have names",
            cure=f"{variable.path} belongs to no layer in a public attribute: name it in `special_weights`.",
        )
    return found


def _walk(layer: keras.Layer, prefix: str) -> Iterator[tuple[str, Weight]]:
    for name, child in _children(layer):
        yield from _walk(child, f"{prefix}{name}.")
    inside = {id(variable) for child in layer._flatten_layers(include_self=False) for variable in child.weights}
    for variable in layer.weights:
        if id(variable) not in inside:
            name, weight = _of_layer(layer, variable)
            yield prefix + name, weight


def _children(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    if isinstance(layer, keras.Sequential):
        yield from ((str(number), child) for number, child in enumerate(layer.layers))
        return
    for name, value in vars(layer).items():
        if name.startswith("_"):
            continue
        if isinstance(value, keras.Layer):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}.{n}", child) for n, child in enumerate(value) if isinstance(child, keras.Layer))
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", child) for key, child in value.items() if isinstance(child, keras.Layer))


def _of_layer(layer: keras.Layer, variable: keras.Variable) -> tuple[str, Weight]:
    """Name and layout of a variable of ``layer``."""
    name, shape = variable.name, tuple(variable.shape)
    last = len(shape) - 1
    if name == "kernel" and isinstance(layer, keras.layers.Dense):
        return "weight", Weight(variable, axes=(1, 0))
    if name == "kernel" and isinstance(layer, _CONVOLUTIONS):
        return "weight", Weight(variable, axes=(last, last - 1, *range(last - 1)))
    if name == "kernel" and isinstance(layer, _DEPTHWISE):
        turned = (math.prod(shape[-2:]), 1, *shape[:-2])
        return "weight", Weight(variable, axes=(last - 1, last, *range(last - 1)), shape=turned)
    return _NAMES.get(name, name), Weight(variable)

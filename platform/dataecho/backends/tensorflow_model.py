"""The interface of a task's TensorFlow model."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from dataecho.backends.tensorflow_start import keras, tf
from dataecho.backends.tensorflow_weights import Weight


class TensorflowModel(keras.Model, abc.ABC):  # type: ignore[misc]  # keras has no types
    """A Keras model with a loss per row. ``batch`` maps field names to tensors [b, ...], of a fixed shape.

    The constructor builds every layer (``layer.build(shape)``), so that weights can be set before the first batch.
    Layers stand in public attributes, in lists of them, or in ``keras.Sequential``; the attribute, or the number, names
    the layer. Random numbers come only from Keras (``keras.layers.Dropout``, ``keras.random`` with a
    ``SeedGenerator``), whose seeds the backend sets before every step.
    """

    @abc.abstractmethod
    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        """The loss of every row, [b]; the backend takes the weighted mean. ``training``: passed on to the layers."""

    @abc.abstractmethod
    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The tensors that the task's evaluator needs; their first axis is the row."""

    def special_weights(self) -> Mapping[str, Weight]:
        """Weights whose PyTorch name or layout does not follow from their layer, such as those of attention, by that
        name. By default none."""
        return {}

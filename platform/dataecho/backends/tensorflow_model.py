"""What a task's TensorFlow model offers to the TensorFlow backend."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from dataecho.backends.tensorflow_start import keras, tf
from dataecho.backends.tensorflow_weights import Weight


class TensorflowModel(keras.Model, abc.ABC):  # type: ignore[misc]  # keras has no types
    """A Keras model with a loss per row. ``batch`` maps field names to tensors [b, ...], of a fixed shape.

    The constructor gives every layer its weights (``layer.build(shape)``), so that they can be set before the first
    batch. Layers stand in public attributes, in lists of them, or in ``keras.Sequential``: their attribute, or their
    number, is their name. Random numbers come from Keras alone (``keras.layers.Dropout``, ``keras.random`` with a
    ``SeedGenerator``): the backend sets these before every step.
    """

    @abc.abstractmethod
    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        """The loss of every row, [b]; the backend takes the weighted mean. ``training``: to be handed to the layers."""

    @abc.abstractmethod
    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the task's evaluator needs, tensors whose first axis is the row."""

    def special_weights(self) -> Mapping[str, Weight]:
        """By their PyTorch names: weights whose name or layout does not follow from their layer, such as those of
        attention. By default none."""
        return {}

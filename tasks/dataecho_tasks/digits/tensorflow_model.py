"""The digits network in TensorFlow: two 3 x 3 convolutions, one pooling, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_layers import channels_first, uniform_by_inputs
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho.errors import require


class DigitsNet(TensorflowModel):
    """``image`` [b, 1, 8, 8] to ten logits; 9,930 parameters at the default ``channels`` (16, 32)."""

    def __init__(self, *, channels: Sequence[int] = (16, 32)) -> None:
        require(
            len(channels) == 2 and min(channels) >= 1,
            "task.models.tensorflow.channels",
            list(channels),
            allowed="two whole numbers >= 1",
            cure="[16, 32] is the default.",
        )
        super().__init__()
        inner, outer = channels
        self.convolution_1 = keras.layers.Conv2D(
            inner, 3, padding="same", activation="relu", **uniform_by_inputs(1 * 9)
        )
        self.convolution_2 = keras.layers.Conv2D(
            outer, 3, padding="same", activation="relu", **uniform_by_inputs(inner * 9)
        )
        self.linear = keras.layers.Dense(10, **uniform_by_inputs(outer * 16))
        self.convolution_1.build((None, 8, 8, 1))
        self.convolution_2.build((None, 8, 8, inner))
        self.linear.build((None, outer * 16))

    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], self._logits(batch["image"]))

    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logits = self._logits(batch["image"])
        predicted = tf.argmax(logits, axis=1)
        return {
            "loss": tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits),
            "correct": tf.cast(predicted == batch["label"], tf.float32),
            "predicted": predicted,
        }

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        hidden = self.convolution_1(tf.transpose(images, (0, 2, 3, 1)))
        hidden = tf.nn.max_pool2d(self.convolution_2(hidden), 2, strides=2, padding="VALID")
        flat = tf.reshape(channels_first(hidden), (hidden.shape[0], -1))
        return tf.cast(self.linear(flat), self.variable_dtype)

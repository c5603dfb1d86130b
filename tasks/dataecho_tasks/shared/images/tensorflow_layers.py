"""The base of image classifiers in TensorFlow, and layers of residual networks."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_model import TensorflowModel

_NARROW = 8  # input channels: from so many on, oneDNN's strided 1 x 1 convolution is sound


class TensorflowClassifier(TensorflowModel):
    """A model of ``image`` uint8 [b, height, width, c] and ``label`` int64 [b], trained by cross entropy."""

    @abc.abstractmethod
    def logits(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """The scores of all classes, [b, num_classes]."""

    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        logits = self.logits(batch["image"], training=training)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)

    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logits = self.logits(batch["image"], training=False)
        predicted = tf.argmax(logits, axis=1)
        return {
            "loss": tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits),
            "correct": tf.cast(predicted == batch["label"], tf.float32),
            "predicted": predicted,
        }


class Convolution(keras.layers.Conv2D):
    """``size`` x ``size`` without bias, with ``size // 2`` zeros on every side; weights as in He et al., ICCV 2015."""

    def __init__(self, inner: int, outer: int, *, size: int, stride: int = 1) -> None:
        # A narrow 1 x 1 convolution takes every n-th pixel first: without AVX-512, oneDNN writes outside its memory in
        # the backward pass of a strided one.
        self._first = stride if size == 1 and inner < _NARROW else 1
        super().__init__(outer, size, strides=stride // self._first, use_bias=False, kernel_initializer=he_normal())
        self._margin = size // 2  # Keras's "same" means another thing with a stride
        self.build((None, None, None, inner))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        inputs = inputs[:, :: self._first, :: self._first]
        sides = (self._margin, self._margin)
        padded = tf.pad(inputs, ((0, 0), sides, sides, (0, 0))) if self._margin else inputs
        return super().call(padded)


def he_normal() -> keras.initializers.Initializer:
    """He et al., ICCV 2015: what keeps variances through rectified units."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_in", distribution="untruncated_normal")


def classifier(inner: int, num_classes: int) -> keras.layers.Dense:
    """A linear layer of zeros: the first steps are those of a classifier that knows nothing, whatever the rate."""
    made = keras.layers.Dense(num_classes, kernel_initializer="zeros", bias_initializer="zeros")
    made.build((None, inner))
    return made


def standardised(
    images: tf.Tensor, *, mean: Sequence[float], deviation: Sequence[float], dtype: tf.DType | str
) -> tf.Tensor:
    """Pixels uint8 [b, height, width, c], less ``mean``, by ``deviation`` of every channel."""
    # Rounded to 32 bit first, as in PyTorch, so that both agree in 64 bit, too.
    offset, scale = (tf.cast(tf.constant(facts, tf.float32), dtype) for facts in (mean, deviation))
    return (tf.cast(images, dtype) - offset) / scale

"""A light network for small images in TensorFlow, so that reading them is what takes time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_layers import BatchNorm, channels_first
from dataecho.errors import require
from dataecho_tasks.shared.images.tensorflow_layers import TensorflowClassifier, he_normal

_VARIANCE_OF_NOISE = 256.0  # of pixels from 0 to 255


class ImagesNet(TensorflowClassifier):
    """``image`` uint8 [b, image_size, image_size, 3] to ``num_classes`` logits.

    Every image is brought to mean 0 and variance 1. Patches of 4 x 4 pixels become ``widths[0]`` channels; every
    further width is a 3 x 3 convolution with stride 2, each with batch normalisation, by groups of
    ``virtual_batch_size`` rows if so wished; one linear layer. 34,282 parameters at the default. ``image_size`` is a
    multiple of 4 * 2 ** (number of widths - 1).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int,
        widths: Sequence[int] = (16, 32, 64),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            len(widths) >= 1 and min(widths) >= 1,
            "task.models.tensorflow.widths",
            list(widths),
            allowed="one or more whole numbers >= 1",
            cure="[16, 32, 64] is the default.",
        )
        reduction = 4 * 2 ** (len(widths) - 1)
        require(
            image_size % reduction == 0,
            "task.image_size",
            image_size,
            allowed=f"multiples of {reduction}, for task.models.tensorflow.widths={list(widths)}",
            cure="Choose another size, or fewer widths.",
        )
        super().__init__()
        self.convolutions = [_convolution(3, widths[0], size=4, stride=4)]
        self.convolutions += [_convolution(inner, outer, size=3, stride=2) for inner, outer in pairwise(widths)]
        self.normalisations = [BatchNorm(virtual_batch_size=virtual_batch_size) for _ in widths]
        for normalisation, width in zip(self.normalisations, widths, strict=True):
            normalisation.build((None, None, None, width))
        # The first steps are then those of a classifier that knows nothing, whatever the rate.
        self.linear = keras.layers.Dense(num_classes, kernel_initializer="zeros", bias_initializer="zeros")
        self.linear.build((None, widths[-1] * (image_size // reduction) ** 2))

    def logits(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        pixels = tf.cast(images, self.variable_dtype)
        # Every image by its own light. The variance of a flat one is that of noise: it is not blown up.
        means, variances = tf.nn.moments(pixels, (1, 2, 3), keepdims=True)
        hidden = (pixels - means) * tf.math.rsqrt(variances + _VARIANCE_OF_NOISE)
        for number, (convolution, normalisation) in enumerate(zip(self.convolutions, self.normalisations, strict=True)):
            if number:  # the same on all sides, whatever the stride: "same" means another thing in Keras
                hidden = tf.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
            hidden = tf.nn.relu(normalisation(convolution(hidden), training=training))
        flat = tf.reshape(channels_first(hidden), (hidden.shape[0], -1))
        return tf.cast(self.linear(flat), self.variable_dtype)


def _convolution(inner: int, outer: int, *, size: int, stride: int) -> keras.layers.Conv2D:
    convolution = keras.layers.Conv2D(outer, size, strides=stride, use_bias=False, kernel_initializer=he_normal())
    convolution.build((None, None, None, inner))
    return convolution

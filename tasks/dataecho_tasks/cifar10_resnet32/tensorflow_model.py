"""The residual networks of He et al., CVPR 2016, section 4.2, in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.errors import require
from dataecho_tasks.shared.images.tensorflow_layers import Convolution, TensorflowClassifier, classifier, standardised


class CifarResnet(TensorflowClassifier):
    """``image`` uint8 [b, height, width, 3] to ``num_classes`` logits.

    A 3 x 3 convolution, then ``num_blocks`` blocks of two for each of ``widths``, the first with stride 2 where the
    width changes; the mean over all places; one linear layer. 5 blocks and widths 16, 32, 64 are ResNet-32: 464,154
    parameters with 10 classes. Shortcuts are option A: without weights, every second pixel, zeros for new channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: int = 5,
        widths: Sequence[int] = (16, 32, 64),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            num_blocks >= 1,
            "task.models.tensorflow.num_blocks",
            num_blocks,
            allowed="whole numbers >= 1",
            cure="5 is ResNet-32.",
        )
        require(
            len(widths) >= 1 and min(widths) >= 1 and list(widths) == sorted(widths),
            "task.models.tensorflow.widths",
            list(widths),
            allowed="one or more whole numbers >= 1, none smaller than the one before",
            cure="[16, 32, 64] is ResNet-32.",
        )
        super().__init__()
        self._mean, self._deviation = tuple(mean), tuple(deviation)
        self.convolution = Convolution(3, widths[0], size=3)
        self.normalisation = BatchNorm(virtual_batch_size=virtual_batch_size)
        self.normalisation.build((None, None, None, widths[0]))
        outers = [width for width in widths for _ in range(num_blocks)]
        inners = [widths[0], *outers[:-1]]
        self.blocks = [Block(inner, outer, virtual_batch_size) for inner, outer in zip(inners, outers, strict=True)]
        self.linear = classifier(widths[-1], num_classes)

    def logits(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        pixels = standardised(images, mean=self._mean, deviation=self._deviation, dtype=self.variable_dtype)
        hidden = tf.nn.relu(self.normalisation(self.convolution(pixels), training=training))
        for block in self.blocks:
            hidden = block(hidden, training=training)
        return tf.cast(self.linear(tf.reduce_mean(hidden, axis=(1, 2))), self.variable_dtype)


class Block(keras.layers.Layer):
    """Two convolutions beside a shortcut (He et al., figure 2 left)."""

    def __init__(self, inner: int, outer: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        self._stride, self._num_new = 1 if inner == outer else 2, outer - inner
        self.convolution_1 = Convolution(inner, outer, size=3, stride=self._stride)
        self.normalisation_1 = BatchNorm(virtual_batch_size=virtual_batch_size)
        self.convolution_2 = Convolution(outer, outer, size=3)
        self.normalisation_2 = BatchNorm(virtual_batch_size=virtual_batch_size)
        for normalisation in (self.normalisation_1, self.normalisation_2):
            normalisation.build((None, None, None, outer))
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        hidden = tf.nn.relu(self.normalisation_1(self.convolution_1(inputs), training=training))
        hidden = self.normalisation_2(self.convolution_2(hidden), training=training)
        if self._num_new:
            inputs = inputs[:, :: self._stride, :: self._stride]
            inputs = tf.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, self._num_new)))
        return tf.nn.relu(hidden + inputs)

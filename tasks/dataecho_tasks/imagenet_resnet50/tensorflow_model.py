"""The residual networks with bottlenecks of He et al., CVPR 2016, section 4.1, in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.errors import require
from dataecho_tasks.shared.images.tensorflow_layers import Convolution, TensorflowClassifier, classifier, standardised

_EXPANSION = 4


class ImagenetResnet(TensorflowClassifier):
    """``image`` uint8 [b, height, width, 3] to ``num_classes`` logits.

    A 7 x 7 convolution and a maximum over 3 x 3, both with stride 2; for each of ``widths`` as many blocks as
    ``num_blocks`` says; the mean over all places; one linear layer. Blocks 3, 4, 6, 3 of widths 64, 128, 256, 512 are
    ResNet-50: 25,557,032 parameters with 1,000 classes. Version 1: the stride is that of a block's first convolution;
    shortcuts are option B, convolutions where the shape changes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            len(widths) >= 1 and min(widths) >= 1,
            "task.models.tensorflow.widths",
            list(widths),
            allowed="one or more whole numbers >= 1",
            cure="[64, 128, 256, 512] is ResNet-50.",
        )
        require(
            len(num_blocks) == len(widths) and min(num_blocks) >= 1,
            "task.models.tensorflow.num_blocks",
            list(num_blocks),
            allowed=f"{len(widths)} whole numbers >= 1, one for each of task.models.tensorflow.widths",
            cure="[3, 4, 6, 3] is ResNet-50.",
        )
        super().__init__()
        self._mean, self._deviation = tuple(mean), tuple(deviation)
        self.convolution = Convolution(3, widths[0], size=7, stride=2)
        self.normalisation = _normalisation(widths[0], virtual_batch_size)
        blocks = []
        inner = widths[0]
        for group, (width, number) in enumerate(zip(widths, num_blocks, strict=True)):
            for block in range(number):
                stride = 2 if group and not block else 1
                blocks.append(Bottleneck(inner, width, stride=stride, virtual_batch_size=virtual_batch_size))
                inner = _EXPANSION * width
        self.blocks = blocks
        self.linear = classifier(inner, num_classes)

    def logits(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        pixels = standardised(images, mean=self._mean, deviation=self._deviation, dtype=self.variable_dtype)
        hidden = tf.nn.relu(self.normalisation(self.convolution(pixels), training=training))
        # Nothing is below zero here: zeros around it are never the only maximum.
        hidden = tf.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        hidden = tf.nn.max_pool2d(hidden, 3, strides=2, padding="VALID")
        for block in self.blocks:
            hidden = block(hidden, training=training)
        return tf.cast(self.linear(tf.reduce_mean(hidden, axis=(1, 2))), self.variable_dtype)


class Bottleneck(keras.layers.Layer):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 beside a shortcut (He et al., figure 5 right)."""

    def __init__(self, inner: int, width: int, *, stride: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        outer = _EXPANSION * width
        self.convolution_1 = Convolution(inner, width, size=1, stride=stride)
        self.normalisation_1 = _normalisation(width, virtual_batch_size)
        self.convolution_2 = Convolution(width, width, size=3)
        self.normalisation_2 = _normalisation(width, virtual_batch_size)
        self.convolution_3 = Convolution(width, outer, size=1)
        self.normalisation_3 = _normalisation(outer, virtual_batch_size)
        self._projects = inner != outer or stride != 1
        if self._projects:
            self.shortcut_convolution = Convolution(inner, outer, size=1, stride=stride)
            self.shortcut_normalisation = _normalisation(outer, virtual_batch_size)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        hidden = tf.nn.relu(self.normalisation_1(self.convolution_1(inputs), training=training))
        hidden = tf.nn.relu(self.normalisation_2(self.convolution_2(hidden), training=training))
        hidden = self.normalisation_3(self.convolution_3(hidden), training=training)
        if self._projects:
            inputs = self.shortcut_normalisation(self.shortcut_convolution(inputs), training=training)
        return tf.nn.relu(hidden + inputs)


def _normalisation(width: int, virtual_batch_size: int | None) -> BatchNorm:
    made = BatchNorm(virtual_batch_size=virtual_batch_size)
    made.build((None, None, None, width))
    return made

"""SSD (Liu et al., ECCV 2016) on the first groups of a residual network, in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho_tasks.coco_ssd.boxes import DefaultBoxes
from dataecho_tasks.coco_ssd.shape import NEGATIVES, extra_strides
from dataecho_tasks.shared.images.tensorflow_layers import Convolution, he_normal, standardised


class SsdResnet(TensorflowModel):
    """``image`` uint8 [b, size, size, 3] to four offsets and ``num_classes`` + 1 logits for every default box.

    A 7 x 7 convolution and a maximum over 3 x 3, both with stride 2; for each of ``widths`` as many blocks as
    ``num_blocks`` says, the first with the stride that ``strides`` says; for each of ``extras`` a 1 x 1 and a 3 x 3
    convolution, to the next smaller map; a 3 x 3 convolution on every map for the offsets, one for the logits. Blocks
    3, 4, 6 of widths 64, 128, 256 with strides 1, 2, 1 are ResNet-34 without its last group, and without the stride of
    the one before, as in MLPerf's SSD. 19,975,222 parameters with 80 classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        default_boxes: DefaultBoxes,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: Sequence[int] = (3, 4, 6),
        widths: Sequence[int] = (64, 128, 256),
        strides: Sequence[int] = (1, 2, 1),
        extras: Sequence[Sequence[int]] = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256)),
        virtual_batch_size: int | None = None,
        num_candidates: int = 1000,
    ) -> None:
        layers = extra_strides(
            "tensorflow",
            default_boxes=default_boxes,
            num_blocks=num_blocks,
            widths=widths,
            strides=strides,
            extras=extras,
        )
        super().__init__()
        self._num_classes = num_classes
        self._num_candidates = num_candidates
        self._mean, self._deviation = tuple(mean), tuple(deviation)
        self.convolution = Convolution(3, widths[0], size=7, stride=2)
        self.normalisation = _normalisation(widths[0], virtual_batch_size)
        blocks = []
        inner = widths[0]
        for width, number, stride in zip(widths, num_blocks, strides, strict=True):
            for block in range(number):
                blocks.append(Block(inner, width, stride=1 if block else stride, virtual_batch_size=virtual_batch_size))
                inner = width
        self.blocks = blocks
        found = []
        outers = [inner]
        for (narrow, wide), (stride, margin) in zip(extras, layers, strict=True):
            found.append(Extra(outers[-1], narrow, wide, stride, margin, virtual_batch_size))
            outers.append(wide)
        self.extras = found
        pairs = list(zip(outers, default_boxes.per_place, strict=True))
        self.offset_heads = [head(outer, 4 * number) for outer, number in pairs]
        self.class_heads = [head(outer, (num_classes + 1) * number) for outer, number in pairs]

    def losses(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        offsets, logits = self._predictions(batch["image"], training=training)
        return detection_losses(offsets, logits, batch["offsets"], batch["classes"])

    def outputs(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        offsets, logits = self._predictions(batch["image"], training=False)
        num_rows, num_boxes = offsets.shape[0], offsets.shape[1]
        scores = tf.reshape(tf.nn.softmax(logits)[:, :, 1:], (num_rows, num_boxes * self._num_classes))
        scores, pairs = tf.math.top_k(scores, k=min(self._num_candidates, scores.shape[1]), index_type=tf.int64)
        return {
            "loss": detection_losses(offsets, logits, batch["offsets"], batch["classes"]),
            "scores": scores,
            "pairs": pairs,
            "offsets": tf.gather(offsets, pairs // self._num_classes, batch_dims=1),
            **{name: batch[name] for name in ("boxes", "labels", "crowd")},
        }

    def _predictions(self, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Offsets [b, n, 4] and logits [b, n, num_classes + 1], in the order of the default boxes."""
        pixels = standardised(images, mean=self._mean, deviation=self._deviation, dtype=self.variable_dtype)
        hidden = tf.nn.relu(self.normalisation(self.convolution(pixels), training=training))
        # Nothing is below zero here: zeros around it are never the only maximum.
        hidden = tf.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
        hidden = tf.nn.max_pool2d(hidden, 3, strides=2, padding="VALID")
        for block in self.blocks:
            hidden = block(hidden, training=training)
        maps = [hidden]
        for extra in self.extras:
            maps.append(extra(maps[-1], training=training))
        return self._of_all_places(self.offset_heads, maps, 4), self._of_all_places(
            self.class_heads, maps, self._num_classes + 1
        )

    def _of_all_places(self, heads: Sequence[keras.Layer], maps: Sequence[tf.Tensor], size: int) -> tf.Tensor:
        found = [tf.reshape(head(one), (one.shape[0], -1, size)) for head, one in zip(heads, maps, strict=True)]
        return tf.cast(tf.concat(found, axis=1), self.variable_dtype)


class Block(keras.layers.Layer):
    """Two 3 x 3 convolutions beside a shortcut, a 1 x 1 convolution where the shape changes (He et al., CVPR 2016,
    figure 5 left, option B)."""

    def __init__(self, inner: int, outer: int, *, stride: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        self.convolution_1 = Convolution(inner, outer, size=3, stride=stride)
        self.normalisation_1 = _normalisation(outer, virtual_batch_size)
        self.convolution_2 = Convolution(outer, outer, size=3)
        self.normalisation_2 = _normalisation(outer, virtual_batch_size)
        self._projects = inner != outer or stride != 1
        if self._projects:
            self.shortcut_convolution = Convolution(inner, outer, size=1, stride=stride)
            self.shortcut_normalisation = _normalisation(outer, virtual_batch_size)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        hidden = tf.nn.relu(self.normalisation_1(self.convolution_1(inputs), training=training))
        hidden = self.normalisation_2(self.convolution_2(hidden), training=training)
        if self._projects:
            inputs = self.shortcut_normalisation(self.shortcut_convolution(inputs), training=training)
        return tf.nn.relu(hidden + inputs)


class Extra(keras.layers.Layer):
    """From one map to the next: a 1 x 1 and a 3 x 3 convolution."""

    def __init__(
        self, inner: int, narrow: int, wide: int, stride: int, margin: int, virtual_batch_size: int | None
    ) -> None:
        super().__init__()
        self.convolution_1 = Convolution(inner, narrow, size=1)
        self.normalisation_1 = _normalisation(narrow, virtual_batch_size)
        self.convolution_2 = keras.layers.Conv2D(
            wide, 3, strides=stride, use_bias=False, kernel_initializer=he_normal()
        )
        self.convolution_2.build((None, None, None, narrow))
        self.normalisation_2 = _normalisation(wide, virtual_batch_size)
        self._margin = (margin, margin)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        hidden = tf.nn.relu(self.normalisation_1(self.convolution_1(inputs), training=training))
        hidden = self.convolution_2(tf.pad(hidden, ((0, 0), self._margin, self._margin, (0, 0))))
        return tf.nn.relu(self.normalisation_2(hidden, training=training))


def head(inner: int, outer: int) -> keras.layers.Conv2D:
    """A 3 x 3 convolution with bias; weights as in the authors' code."""
    made = keras.layers.Conv2D(outer, 3, padding="same", kernel_initializer="glorot_uniform", bias_initializer="zeros")
    made.build((None, None, None, inner))
    return made


def detection_losses(offsets: tf.Tensor, logits: tf.Tensor, true_offsets: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """The loss of every row, [b] (Liu et al., section 2.2): smooth L1 of the offsets [b, n, 4] of default boxes with an
    object, cross entropy of the logits [b, n, classes] of these and of the three times as many others that are worst,
    all by the number of the former; 0 in a row without any."""
    is_positive = classes > 0
    count = tf.reduce_sum(tf.cast(is_positive, offsets.dtype), axis=1)
    apart = tf.abs(offsets - true_offsets)
    distance = tf.reduce_sum(tf.where(apart < 1, apart**2 / 2, apart - 0.5), axis=2)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    worst = tf.sort(tf.where(is_positive, tf.zeros_like(entropy), entropy), direction="DESCENDING")
    ranks = tf.range(worst.shape[1], dtype=count.dtype)
    mined = tf.cast(ranks < NEGATIVES * count[:, None], worst.dtype)
    total = tf.reduce_sum((distance + entropy) * tf.cast(is_positive, entropy.dtype), axis=1)
    return (total + tf.reduce_sum(worst * mined, axis=1)) / tf.maximum(count, 1)


def _normalisation(width: int, virtual_batch_size: int | None) -> BatchNorm:
    made = BatchNorm(virtual_batch_size=virtual_batch_size)
    made.build((None, None, None, width))
    return made

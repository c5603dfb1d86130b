"""The arms of tf.data: the same Python functions through ``numpy_function``, and TensorFlow's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from benchmarks.loaders.work import (
    BATCH_SIZES,
    CROP_SIDE,
    NUM_JPEG_DRAWS,
    NUM_JPEGS,
    NUM_SMALL,
    NUM_SMALL_DRAWS,
    ROW_LENGTH,
    SMALL_SIDE,
    Arms,
    Data,
    decode,
    random_resized_crop,
)


class _Random(threading.local):
    """One generator for each thread that calls Python functions."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng()

    def __call__(self, *shape: int) -> Any:
        return self._generator.random(shape)


def _examples(count: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(count).shuffle(count, reshuffle_each_iteration=True).repeat()


def _jpegs(data: Data, calls: int, ordered: bool) -> Iterator[Mapping[str, Any]]:
    random = _Random()

    def load(k: np.int64) -> tuple[Any, Any]:
        return random_resized_crop(decode(data.read(k)), random(NUM_JPEG_DRAWS)), data.labels[k]

    def example(k: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = tf.numpy_function(load, [k], [tf.uint8, tf.int64], stateful=True)
        return {"image": tf.ensure_shape(image, (CROP_SIDE, CROP_SIDE, 3)), "label": tf.ensure_shape(label, ())}

    return _batched(_examples(NUM_JPEGS).map(example, calls, ordered))


def _jpegs_native(data: Data, calls: int, ordered: bool) -> Iterator[Mapping[str, Any]]:
    paths, labels = tf.constant(data.paths), tf.constant(data.labels)

    def example(k: tf.Tensor) -> dict[str, tf.Tensor]:
        content = tf.io.read_file(paths[k])
        height, width = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.float32))
        chance = tf.unstack(tf.random.uniform([NUM_JPEG_DRAWS]))
        side = tf.sqrt(height * width * (0.08 + 0.92 * chance[0]))
        stretch = (3 / 4) ** (chance[1] - 0.5)
        rows, columns = tf.minimum(height, tf.round(side * stretch)), tf.minimum(width, tf.round(side / stretch))
        top, left = tf.floor(chance[3] * (height - rows + 1)), tf.floor(chance[2] * (width - columns + 1))
        window = tf.cast(tf.stack([top, left, rows, columns]), tf.int32)
        image = tf.io.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.cast(tf.image.resize(image, (CROP_SIDE, CROP_SIDE)), tf.uint8)
        image = tf.cond(chance[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
        return {"image": image, "label": labels[k]}

    return _batched(_examples(NUM_JPEGS).map(example, calls, ordered))


def _batched(examples: tf.data.Dataset) -> Iterator[Mapping[str, Any]]:
    return iter(examples.batch(BATCH_SIZES["jpeg"], drop_remainder=True).prefetch(2))


def _small(data: Data, calls: int, ordered: bool) -> Iterator[Mapping[str, Any]]:
    random, size = _Random(), BATCH_SIZES["small"]

    def load(ks: np.ndarray) -> tuple[Any, ...]:
        arrays = data.small_batch(ks, random(len(ks), NUM_SMALL_DRAWS))
        return arrays["image"], arrays["label"]

    def batch(ks: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = tf.numpy_function(load, [ks], [tf.float32, tf.int64], stateful=True)
        return {
            "image": tf.ensure_shape(image, (size, SMALL_SIDE, SMALL_SIDE, 3)),
            "label": tf.ensure_shape(label, (size,)),
        }

    return iter(_examples(NUM_SMALL).batch(size, drop_remainder=True).map(batch, calls, ordered).prefetch(2))


def _tokens(data: Data, calls: int, ordered: bool) -> Iterator[Mapping[str, Any]]:
    size = BATCH_SIZES["tokens"]

    def load(ks: np.ndarray) -> tuple[Any, ...]:
        arrays = data.token_batch(ks)
        return arrays["inputs"], arrays["targets"]

    def batch(ks: tf.Tensor) -> dict[str, tf.Tensor]:
        both = tf.numpy_function(load, [ks], [tf.int32, tf.int32], stateful=False)
        return {
            name: tf.ensure_shape(values, (size, ROW_LENGTH))
            for name, values in zip(("inputs", "targets"), both, strict=True)
        }

    return iter(_examples(len(data.rows)).batch(size, drop_remainder=True).map(batch, calls, ordered).prefetch(2))


def arms(workload: str, data: Data) -> Arms:
    """Ways to open the loader, by what is set."""
    cv2.setNumThreads(0)
    openers: dict[str, Callable[..., Iterator[Mapping[str, Any]]]] = {
        "jpeg": {"tf.data": _jpegs, "tf.data, its own operations": _jpegs_native},
        "small": {"tf.data": _small},
        "tokens": {"tf.data": _tokens},
    }[workload]
    settings = {
        "calls=1": (1, True),
        "calls=2": (2, True),
        "calls=AUTOTUNE": (tf.data.AUTOTUNE, True),
        "calls=AUTOTUNE unordered": (tf.data.AUTOTUNE, False),
    }
    return {
        kind: {name: partial(opener, data, *values) for name, values in settings.items()}
        for kind, opener in openers.items()
    }

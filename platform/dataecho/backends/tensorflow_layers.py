"""Layers that the frameworks define differently, in a form that all backends share."""

from __future__ import annotations

import math
from typing import Any

from dataecho.backends.tensorflow_start import keras, tf
from dataecho.errors import require


class BatchNorm(keras.layers.Layer):  # type: ignore[misc]  # keras has no types
    """Batch normalisation over all axes but the last ([b, ..., c]), optionally in ghost batches.

    In training, each group of ``virtual_batch_size`` consecutive rows is normalised by its own mean and biased
    variance (Hoffer et al. 2017, section 4); None: the whole batch of this device. The running statistics move by
    ``momentum`` towards the averages of the groups' means and unbiased variances. Everything is computed in at least
    32 bit. Raises :class:`SettingError` for a batch that the groups do not divide.
    """

    def __init__(
        self,
        *,
        virtual_batch_size: int | None = None,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        **keras_settings: Any,
    ) -> None:
        super().__init__(**keras_settings)
        self._virtual_batch_size, self._momentum, self._epsilon = virtual_batch_size, momentum, epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights; only the last axis of ``input_shape`` counts."""

        def vector(name: str, start: str, *, trainable: bool) -> keras.Variable:
            shape = (input_shape[-1],)
            return self.add_weight(name=name, shape=shape, initializer=start, trainable=trainable, autocast=False)

        self.weight = vector("weight", "ones", trainable=True)
        self.bias = vector("bias", "zeros", trainable=True)
        self.running_mean = vector("running_mean", "zeros", trainable=False)
        self.running_var = vector("running_var", "ones", trainable=False)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalised inputs, of the same shape and type."""
        values = tf.cast(inputs, self.variable_dtype)
        if not training:
            return tf.cast(self._normalised(values, self.running_mean.value, self.running_var.value), inputs.dtype)
        num_rows = int(inputs.shape[0])
        size = self._virtual_batch_size or num_rows
        require(
            num_rows % size == 0,
            "virtual_batch_size",
            size,
            allowed=f"divisors of {num_rows}, the rows of a batch on one device",
            cure="Choose one of them, or another task.batch_size.",
        )
        grouped = tf.reshape(values, [num_rows // size, size, *inputs.shape[1:]])
        axes = list(range(1, len(grouped.shape) - 1))
        means, variances = tf.nn.moments(grouped, axes, keepdims=True)
        normalised = tf.reshape(self._normalised(grouped, means, variances), inputs.shape)
        count = math.prod(grouped.shape[1:-1])  # values per mean
        self._follow(self.running_mean, means)
        self._follow(self.running_var, variances * (count / max(count - 1, 1)))
        return tf.cast(normalised, inputs.dtype)

    def _normalised(self, values: tf.Tensor, means: tf.Tensor, variances: tf.Tensor) -> tf.Tensor:
        return tf.nn.batch_normalization(values, means, variances, self.bias.value, self.weight.value, self._epsilon)

    def _follow(self, running: keras.Variable, of_groups: tf.Tensor) -> None:
        mean = tf.reduce_mean(tf.reshape(of_groups, [-1, of_groups.shape[-1]]), axis=0)
        running.assign(running.value + self._momentum * (mean - running.value))


def uniform_by_inputs(num_inputs: int) -> dict[str, keras.Initializer]:
    """Initialisers of a convolution or linear layer as PyTorch draws them: weights and biases uniform in
    +- 1 / sqrt(``num_inputs``), the number of inputs of one output."""
    bound = num_inputs**-0.5
    return {
        name: keras.initializers.RandomUniform(-bound, bound) for name in ("kernel_initializer", "bias_initializer")
    }


def channels_first(images: tf.Tensor) -> tf.Tensor:
    """Transpose [b, height, width, c] to [b, c, height, width], before flattening for a linear layer that has PyTorch's
    order of inputs."""
    return tf.transpose(images, (0, 3, 1, 2))

"""Batch normalisation is the same in both frameworks: by its definition in numpy, and by each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_layers import BatchNorm as TensorflowBatchNorm
from dataecho.backends.torch_layers import BatchNorm as TorchBatchNorm
from dataecho.errors import SettingError

SHAPES = {"rows": (8, 5), "images": (8, 5, 3, 4)}  # channels second
STATE = {
    name: np.random.default_rng(number).uniform(0.5, 2.0, size=5)
    for number, name in enumerate(("weight", "bias", "running_mean", "running_var"))
}


def numbers(shape, *, seed=9):
    return np.random.default_rng(seed).normal(size=shape) * 3 + 7


def in_torch(inputs, *, size, training, momentum=0.1):
    """Outputs, gradient of the sum of their cubes, running statistics."""
    layer = TorchBatchNorm(5, virtual_batch_size=size, momentum=momentum).double().train(training)
    layer.load_state_dict({name: torch.from_numpy(values) for name, values in STATE.items()})
    given = torch.from_numpy(inputs).requires_grad_()
    outputs = layer(given)
    outputs.pow(3).sum().backward()
    found = [outputs, given.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
    return [values.detach().numpy() for values in found]


def in_tensorflow(inputs, *, size, training, momentum=0.1):
    layer = TensorflowBatchNorm(virtual_batch_size=size, momentum=momentum, dtype="float64")
    layer.build((None, 5))
    for name, values in STATE.items():
        getattr(layer, name).assign(values)
    given = tf.constant(np.moveaxis(inputs, 1, -1))
    with tf.GradientTape() as tape:
        tape.watch(given)
        outputs = layer(given, training=training)
        total = tf.reduce_sum(outputs**3)
    of_inputs, *gradients = tape.gradient(total, [given, layer.weight.value, layer.bias.value])
    found = [np.moveaxis(values.numpy(), -1, 1) for values in (outputs, of_inputs)]
    return [*found, *(values.numpy() for values in (*gradients, layer.running_mean, layer.running_var))]


def by_definition(inputs, *, size, momentum):
    """Outputs and running statistics of a training step."""
    grouped = inputs.reshape(-1, size, *inputs.shape[1:])
    axes = (1, *range(3, grouped.ndim))
    shape = (1, 1, 5, *[1] * (grouped.ndim - 3))
    means, variances = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    normalised = (grouped - means) / np.sqrt(variances + 1e-5)
    outputs = normalised * STATE["weight"].reshape(shape) + STATE["bias"].reshape(shape)
    mean, variance = means.reshape(-1, 5).mean(0), grouped.var(axes, ddof=1).mean(0)
    running = [
        (1 - momentum) * STATE[name] + momentum * new
        for name, new in (("running_mean", mean), ("running_var", variance))
    ]
    return outputs.reshape(inputs.shape), *running


@pytest.mark.parametrize("framework", [in_torch, in_tensorflow])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("size", [None, 8, 4, 2])
def test_training_is_the_definition(framework, shape, size):
    inputs = numbers(shape)
    outputs, _, _, _, *running = framework(inputs, size=size, training=True, momentum=0.3)
    expected, *expected_running = by_definition(inputs, size=size or 8, momentum=0.3)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(running, expected_running, rtol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("size", [None, 4])
def test_outputs_gradients_and_statistics_agree(shape, size, training):
    inputs = numbers(shape)
    both = [framework(inputs, size=size, training=training) for framework in (in_torch, in_tensorflow)]
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9)
    changed = not np.array_equal(both[0][-1], STATE["running_var"])
    assert changed == training


@pytest.mark.parametrize("framework", [in_torch, in_tensorflow])
@pytest.mark.parametrize("size", [3, 16])
def test_groups_that_do_not_divide_the_batch_are_refused(framework, size):
    message = f"virtual_batch_size={size} cannot be used. Allowed: divisors of 8, the rows of a batch on one device"
    with pytest.raises(SettingError, match=message):
        framework(numbers((8, 5)), size=size, training=True)
    framework(numbers((8, 5)), size=size, training=False)  # evaluation has no groups


def test_with_bf16_the_statistics_are_computed_in_32_bit():
    layer = TensorflowBatchNorm(dtype=keras.DTypePolicy("mixed_bfloat16"))
    layer.build((None, 5))
    inputs = (numbers((512, 5)) + 100).astype(np.float32)
    outputs = layer(tf.cast(inputs, tf.bfloat16), training=True)
    assert outputs.dtype == tf.bfloat16
    rounded = tf.cast(tf.cast(inputs, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * rounded.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * rounded.var(0, ddof=1), rtol=1e-4)

"""A strided 1 x 1 convolution with few input channels never reaches oneDNN, which writes outside its memory in its
backward pass where the processor has no AVX-512."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.torch_backend import TorchBackend
from dataecho.backends.torch_layers import NARROW, stride_before_narrow_convolutions
from dataecho.build import build
from dataecho_tasks.shared.images.tensorflow_layers import Convolution
from tests.backends.narrow_models import SMALL, WIDTHS, Own, context, context_of, own_batch, task_and_batch, train
from tests.support import PROJECT, config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


class Convolutions(TorchDispatchMode):
    """Notes every 1 x 1 convolution with few input channels: its stride."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            if tuple(weight.shape[2:]) == (1, 1) and weight.shape[1] < NARROW:
                self.strides.append(tuple(stride))
        return function(*args, **kwargs or {})


def strides(new_context, batch):
    with Convolutions() as met:
        train(TorchBackend(new_context), batch, num_steps=1)
    return met.strides


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("name", SMALL)
def test_no_shipped_model_strides_in_a_narrow_convolution_at_any_width(folder, name, widths):
    task, batch = task_and_batch(name, widths, folder)
    found = strides(context_of(task, "torch"), batch)
    assert set(found) <= {(1, 1)}
    if name == "coco_ssd":
        assert found  # hence they are seen


def test_these_are_all_the_shipped_models_that_have_convolutions():
    names = {path.stem for path in (PROJECT / "conf" / "task").glob("*.yaml")}
    found = set()
    for name in names:
        node = config(f"task={name}")["task"]["models"]["torch"]
        model = build(node, nn.Module, key="task.models.torch")
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            found.add(name)
    assert found == SMALL.keys()


def test_a_narrow_model_of_ones_own_is_seen_to_by_the_backend():
    assert strides(context(Own), own_batch()) == [(1, 1)]


@pytest.mark.parametrize("stride", [2, 3, (2, 1), (1, 2)])
def test_it_is_the_same_function_of_the_same_weights(stride):
    convolution = nn.Conv2d(4, 8, 1, stride=stride).double()
    images = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    given, expected_at = images.clone().requires_grad_(), images.clone().requires_grad_()
    weight, bias = (values.detach().clone().requires_grad_() for values in (convolution.weight, convolution.bias))
    stride_before_narrow_convolutions(convolution)
    stride_before_narrow_convolutions(convolution)  # what it has done, it does not do again
    found, expected = convolution(given), functional.conv2d(expected_at, weight, bias, stride=stride)
    assert convolution.stride == (1, 1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(convolution(images[0]), found[0])
    torch.testing.assert_close(convolution(input=images), found)
    found.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    for one, other in ((given, expected_at), (convolution.weight, weight), (convolution.bias, bias)):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    "convolution",
    [nn.Conv2d(NARROW, 4, 1, stride=2), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 1, stride=2, padding=1)],
    ids=["wide", "3x3", "padded"],
)
def test_what_is_sound_stays_as_it_is(convolution):
    stride_before_narrow_convolutions(nn.Sequential(convolution))
    assert convolution.stride == (2, 2)
    assert not convolution._forward_pre_hooks


@pytest.mark.parametrize(("inner", "strides"), [(NARROW - 1, (1, 1)), (NARROW, (2, 2))])
def test_tensorflow_does_the_same(inner, strides):
    convolution = Convolution(inner, 8, size=1, stride=2)
    assert convolution.strides == strides
    images = tf.random.stateless_normal((2, 7, 8, inner), seed=(0, 0))
    expected = tf.nn.conv2d(images, convolution.kernel, strides=2, padding="VALID")
    np.testing.assert_allclose(convolution(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_narrow_models_are_trained_as_a_processor_without_avx_512_does_it(folder, framework):
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.narrow_models", framework, folder],
        cwd=PROJECT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}"
    assert done.stdout.endswith("all of them were trained\n")

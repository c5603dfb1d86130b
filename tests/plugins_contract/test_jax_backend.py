"""The JAX backend of the plugin: the contract on every device that is here, then agreement with PyTorch."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dataecho.backends.torch_backend import TorchBackend
from dataecho.compose import compose_workload
from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.source import ArraySource
from dataecho.testing.backend_contract import OPTIMIZERS, BackendContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho_jax.backend import PRECISIONS, JaxBackend
from dataecho_jax.devices import DEVICES, find_device
from dataecho_jax.digits import DigitsNet
from dataecho_jax.model import JaxModel
from tasks.digits.torch_model import DigitsNet as TorchDigitsNet
from tests.support import PROJECT, config

NUM_CORES = len(os.sched_getaffinity(0))


def _is_here(name):
    try:
        return bool(jax.devices(name))
    except RuntimeError:
        return False


PRESENT = [name for name in ("cpu", "cuda", "tpu") if _is_here(name)]


def normal(key, *shape):
    return jax.random.normal(key, shape) / 2


@dataclass(frozen=True)
class Linear(JaxModel):
    """One linear layer."""

    def init(self, key):
        return {"layer.weight": normal(key, 1, 3), "layer.bias": jnp.zeros(1)}, {}

    def losses(self, parameters, buffers, batch, key):
        return self.outputs(parameters, buffers, batch)["loss"], buffers

    def outputs(self, parameters, buffers, batch):
        predictions = (batch["x"] @ parameters["layer.weight"].T + parameters["layer.bias"])[:, 0]
        return {"loss": (predictions - batch["y"]) ** 2}


@dataclass(frozen=True)
class Noisy(JaxModel):
    """A hidden layer, centred by a running mean while it evaluates, and dropout."""

    def init(self, key):
        first, second = jax.random.split(key)
        parameters = {
            "first.weight": normal(first, 16, 3),
            "second.weight": normal(second, 1, 16),
            "second.bias": jnp.zeros(1),
        }
        return parameters, {"norm.running_mean": jnp.zeros(16)}

    def losses(self, parameters, buffers, batch, key):
        hidden = batch["x"] @ parameters["first.weight"].T
        mean = hidden.mean(axis=0)
        kept = jax.random.bernoulli(key, 0.5, hidden.shape)
        running = 0.9 * buffers["norm.running_mean"] + 0.1 * mean
        return self._errors(parameters, jax.nn.relu(hidden - mean) * kept * 2, batch), {"norm.running_mean": running}

    def outputs(self, parameters, buffers, batch):
        hidden = batch["x"] @ parameters["first.weight"].T - buffers["norm.running_mean"]
        return {"loss": self._errors(parameters, jax.nn.relu(hidden), batch)}

    def _errors(self, parameters, hidden, batch):
        predictions = (hidden @ parameters["second.weight"].T + parameters["second.bias"])[:, 0]
        return (predictions - batch["y"]) ** 2


@pytest.mark.parametrize("accelerator", [AcceleratorSettings(name=name) for name in PRESENT], ids=PRESENT)
class TestJaxBackend(BackendContract):
    @pytest.fixture
    def new_backend(self):
        return JaxBackend

    @pytest.fixture
    def linear_model(self):
        return Linear

    @pytest.fixture
    def noisy_model(self):
        return Noisy

    @pytest.fixture
    def fetch(self):
        return lambda placed: (
            {name: np.asarray(values) for name, values in placed.fields.items()},
            np.asarray(placed.weights),
        )

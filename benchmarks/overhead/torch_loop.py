"""PyTorch's part of ``overhead/trainer.py``."""

from __future__ import annotations

import itertools
import time
from functools import partial

import numpy as np
import torch

from dataecho.backends.torch_backend import TorchBackend
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho_tasks.digits.torch_model import DigitsNet


def bare(resident: list[dict[str, np.ndarray]], *, channels: tuple[int, int], rate: float, num_steps: int) -> float:
    """Seconds per step of the loop that anybody would write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DigitsNet(channels=channels)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True)
    batches = [{name: torch.from_numpy(values) for name, values in arrays.items()} for arrays in resident]
    model.train()
    started = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), num_steps):
        loss = model.losses(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - started) / num_steps


def new_backend(*, channels: tuple[int, int], rate: float) -> TorchBackend:
    """The backend that trains the same."""
    context = BackendContext(
        new_model=partial(DigitsNet, channels=channels),
        optimizer=OptimizerSettings(name="nesterov", learning_rate=rate),
        accelerator=AcceleratorSettings(name="cpu"),
        seed=0,
    )
    return TorchBackend(context, compute_threads=1)

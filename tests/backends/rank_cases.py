"""What one rank does in ``test_torch_ranks.py``: ``torchrun rank_cases.py FOLDER`` writes ``FOLDER/<rank>.npz``."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dataecho.backends.torch_backend import TorchBackend
from dataecho.backends.torch_layers import BatchNorm
from dataecho.backends.torch_model import TorchModel
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings

ROWS, NUM_RANKS, NUM_STEPS, RATE = 8, 2, 5, 0.05
#: Valid rows of every step, rank by rank: unequal, so that means of means are not the mean.
VALID = [(8, 8), (8, 3), (1, 8), (8, 8), (5, 6)]
ENGINES = ("ddp", "fsdp")


class Plain(TorchModel):
    """Two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)

    def losses(self, batch):
        return (self._predict(batch["x"]) - batch["y"]) ** 2

    def outputs(self, batch):
        return {"loss": self.losses(batch)}

    def units(self):
        return [self.last]

    def _predict(self, inputs):
        return self.last(torch.tanh(self.first(inputs)))[:, 0]


class Ghost(Plain):
    """Normalised in groups of four rows: two groups a rank."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNorm(5, virtual_batch_size=4)

    def _predict(self, inputs):
        return self.last(torch.tanh(self.norm(self.first(inputs))))[:, 0]


MODELS = {"plain": Plain, "ghost": Ghost}
OPTIMIZERS = {"plain": "adamw", "ghost": "nesterov"}


def new_backend(model, *, engine="ddp", seed=0):
    context = BackendContext(
        new_model=MODELS[model],
        optimizer=OptimizerSettings(name=OPTIMIZERS[model], learning_rate=RATE),
        accelerator=AcceleratorSettings(name="cpu", precision="64"),
        seed=seed,
    )
    return TorchBackend(context, parallel=engine, timeout=60)


def rows(step, rank):
    """What a rank gets at a step: fields of ``ROWS`` rows, and how many are valid."""
    draws = np.random.default_rng([step, rank])
    arrays = {"x": draws.normal(size=(ROWS, 3)).astype(np.float32), "y": draws.normal(size=ROWS).astype(np.float32)}
    return arrays, VALID[step][rank]


def batch(arrays, weights):
    with once_through(ArraySource(arrays), (), batch_size=len(weights)) as batches:
        made = next(batches)
    made.weights[:] = weights
    return made


def train(backend, step, rank):
    arrays, num_valid = rows(step, rank)
    backend.train_step(backend.put(batch(arrays, np.arange(ROWS) < num_valid)), learning_rate=RATE)


def run_case(model, engine, rank, found):
    backend = new_backend(model, engine=engine)
    name = f"{model}/{engine}"
    for step in range(NUM_STEPS):
        if step == 3:
            state = backend.state()
        train(backend, step, rank)
        backend.synchronize()
        for weight, values in backend.weights().items():
            found[f"{name}/{step}/{weight}"] = values
    found[f"{name}/loss"] = np.array(backend.take_loss())
    arrays, _ = rows(0, 0)
    found[f"{name}/outputs"] = backend.eval_step(backend.put(batch(arrays, np.ones(ROWS))))["loss"]
    resumed = new_backend(model, engine=engine, seed=1)
    resumed.load_state(*state)
    for step in range(3, NUM_STEPS):
        train(resumed, step, rank)
        resumed.synchronize()
    for weight, values in resumed.weights().items():
        found[f"{name}/resumed/{weight}"] = values
    found[f"{name}/resumed/loss"] = np.array(resumed.take_loss())


def main():
    found = {}
    ranks = new_backend("plain").ranks
    found["gathered"] = ranks.gather([ranks.rank, 2.5])
    found["texts"] = np.array(
        [blob.decode() for blob in ranks.gather_bytes(b"rank %d" % ranks.rank * (1 + ranks.rank))]
    )
    found["first"] = np.array(ranks.from_first(f"I am {ranks.rank}"))
    for model in MODELS:
        for engine in ENGINES:
            run_case(model, engine, ranks.rank, found)
    np.savez(Path(sys.argv[1]) / f"{ranks.rank}.npz", **found)


if __name__ == "__main__":
    main()

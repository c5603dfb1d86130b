"""What one worker does in ``test_tensorflow_ranks.py``: it writes ``FOLDER/<rank>.npz``."""

import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho.training.ranks import RankLost

ROWS, NUM_RANKS, NUM_STEPS, RATE = 8, 2, 5, 0.05
#: Valid rows of every step, rank by rank: unequal, so that means of means are not the mean.
VALID = [(8, 8), (8, 3), (1, 8), (8, 8), (5, 6)]


class Ghost(TensorflowModel):
    """Two layers, normalised in groups of four rows: two groups a rank."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = keras.layers.Dense(5), BatchNorm(virtual_batch_size=4)
        self.last = keras.layers.Dense(1)
        self.first.build((None, 3))
        self.norm.build((None, 5))
        self.last.build((None, 5))

    def losses(self, batch, *, training):
        hidden = tf.tanh(self.norm(self.first(batch["x"]), training=training))
        return (self.last(hidden)[:, 0] - batch["y"]) ** 2

    def outputs(self, batch):
        return {"loss": self.losses(batch, training=False)}


def new_backend(*, seed=0):
    context = BackendContext(
        new_model=Ghost,
        optimizer=OptimizerSettings(name="adamw", learning_rate=RATE, weight_decay=0.1),
        accelerator=AcceleratorSettings(name="cpu", precision="64"),
        seed=seed,
    )
    return TensorflowBackend(context, timeout=20.0)


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


def main():
    found = {}
    backend = new_backend()
    ranks = backend.ranks
    found["gathered"] = ranks.gather([ranks.rank, 2.5])
    blobs = ranks.gather_bytes(b"rank %d" % ranks.rank * (1 + 40 * ranks.rank))
    found["texts"] = np.array([blob.decode() for blob in blobs])
    found["first"] = np.array(ranks.from_first(f"I am {ranks.rank}"))
    for step in range(NUM_STEPS):
        if step == 3:
            state = backend.state()
        train(backend, step, ranks.rank)
        backend.synchronize()
        for weight, values in backend.weights().items():
            found[f"{step}/{weight}"] = values
    found["loss"] = np.array(backend.take_loss())
    arrays, _ = rows(0, 0)
    found["outputs"] = backend.eval_step(backend.put(batch(arrays, np.ones(ROWS))))["loss"]
    resumed = new_backend(seed=1)
    resumed.load_state(*state)
    for step in range(3, NUM_STEPS):
        train(resumed, step, ranks.rank)
    for weight, values in resumed.weights().items():
        found[f"resumed/{weight}"] = values
    found["resumed/loss"] = np.array(resumed.take_loss())
    np.savez(Path(sys.argv[1]) / f"{ranks.rank}.npz", **found)
    print("written", flush=True)
    if ranks.rank == 1:
        os._exit(9)  # as if it had been killed
    try:
        train(resumed, 0, ranks.rank)
    except RankLost as error:
        print(error, flush=True)
        os._exit(3)


if __name__ == "__main__":
    main()

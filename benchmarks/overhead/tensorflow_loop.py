"""TensorFlow's part of ``overhead/trainer.py``: ``python -m benchmarks.overhead.trainer --backend=tensorflow``."""

from __future__ import annotations

import itertools
import time
from functools import partial

import numpy as np

from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.tensorflow_start import keras, tf
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho_tasks.digits.tensorflow_model import DigitsNet

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


def bare(resident: list[dict[str, np.ndarray]], *, channels: tuple[int, int], rate: float, num_steps: int) -> float:
    """Seconds per step of the loop that anybody would write; without its trace."""
    model = DigitsNet(channels=channels)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    batches = [{name: tf.constant(values) for name, values in arrays.items()} for arrays in resident]

    @tf.function
    def step(batch: dict[str, tf.Tensor]) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.losses(batch, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    step(batches[0])
    started = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), num_steps):
        step(batch)
    return (time.perf_counter() - started) / num_steps


def new_backend(*, channels: tuple[int, int], rate: float) -> TensorflowBackend:
    """The backend that trains the same."""
    context = BackendContext(
        new_model=partial(DigitsNet, channels=channels),
        optimizer=OptimizerSettings(name="nesterov", learning_rate=rate),
        accelerator=AcceleratorSettings(name="cpu"),
        seed=0,
    )
    return TensorflowBackend(context, compute_threads=1)

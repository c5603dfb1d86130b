"""The TensorFlow backend: the contract on one device and on two, then what is TensorFlow's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.testing.backend_contract import OPTIMIZERS, BackendContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext

PRESENT = ["cpu"] + ["cuda"] * bool(tf.config.list_physical_devices("GPU"))


class Linear(TensorflowModel):
    """One linear layer; remembers the types it computed in, one for every time it was traced."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)
        self.layer.build((None, 3))
        self.traced_in = []

    def losses(self, batch, *, training):
        predictions = self._predictions(batch["x"], training)
        self.traced_in.append(predictions.dtype)
        return (tf.cast(predictions, batch["y"].dtype) - batch["y"]) ** 2

    def outputs(self, batch):
        return {"loss": self.losses(batch, training=False)}

    def _predictions(self, inputs, training):
        return self.layer(inputs)[:, 0]


class Noisy(Linear):
    """Batch normalisation has running statistics, dropout draws random numbers."""

    def __init__(self):
        super().__init__()
        self.layer = keras.Sequential(
            [
                keras.layers.Dense(16),
                BatchNorm(),
                keras.layers.ReLU(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1),
            ]
        )
        self.layer.build((None, 3))

    def _predictions(self, inputs, training):
        return self.layer(inputs, training=training)[:, 0]


class Ghosts(Noisy):
    """Groups of two rows, and nothing random."""

    def __init__(self):
        super().__init__()
        self.layer = keras.Sequential(
            [keras.layers.Dense(16), BatchNorm(virtual_batch_size=2), keras.layers.ReLU(), keras.layers.Dense(1)]
        )
        self.layer.build((None, 3))


def backend(
    model=Linear, *, device="cpu", devices=1, precision="32", optimizer=OPTIMIZERS["nesterov"], seed=0, **settings
):
    accelerator = AcceleratorSettings(name=device, precision=precision, devices=devices)
    context = BackendContext(new_model=model, optimizer=optimizer, accelerator=accelerator, seed=seed)
    return TensorflowBackend(context, **settings)


def linear_batch(*, num_rows=6, size=None, seed=0):
    draws = np.random.default_rng(seed)
    arrays = {"x": draws.normal(size=(num_rows, 3)), "y": draws.normal(size=num_rows) + 3}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    with once_through(ArraySource(arrays), (), batch_size=size or num_rows) as batches:
        return next(batches)


def losses(trained, *, num_steps=5):
    placed, found = trained.put(linear_batch()), []
    for _ in range(num_steps):
        trained.train_step(placed, learning_rate=0.05)
        found.append(trained.take_loss())
    return found


class Shared(BackendContract):
    """What the contract needs to know."""

    @pytest.fixture
    def new_backend(self):
        return TensorflowBackend

    @pytest.fixture
    def linear_model(self):
        return Linear

    @pytest.fixture
    def noisy_model(self):
        return Noisy

    @pytest.fixture
    def fetch(self):
        def whole(values):
            parts = getattr(values, "values", (values,))  # one for every device
            return np.concatenate([part.numpy() for part in parts])

        return lambda placed: (
            {name: whole(values) for name, values in placed.fields.items()},
            whole(placed.weights),
        )


@pytest.mark.parametrize("accelerator", [AcceleratorSettings(name=name) for name in PRESENT], ids=PRESENT)
class TestTensorflowBackend(Shared):
    pass


class TestOnTwoDevices(Shared):
    @pytest.fixture
    def accelerator(self):
        return AcceleratorSettings(name="cpu", devices=2)

    def test_rows_of_weight_0_change_nothing(self, make, linear_model):
        """The contract's own compares with a batch of 5 rows, which two devices cannot share."""
        padded, wild = linear_batch(num_rows=6, size=8), linear_batch(num_rows=6, size=8)
        wild["x"][6:], wild["y"][6:] = 1e3, -1e3
        trained = [make(linear_model) for _ in range(3)]
        for one, batch in zip(trained, (padded, wild, linear_batch(num_rows=6)), strict=True):
            one.train_step(one.put(batch), learning_rate=0.1)
        expected, unmoved, unpadded = (one.weights() for one in trained)
        for name, values in expected.items():
            np.testing.assert_array_equal(unmoved[name], values)
            np.testing.assert_allclose(unpadded[name], values, rtol=1e-5, atol=1e-6)

"""The TensorFlow backend: the contract on one device and on two, then what is TensorFlow's own."""

import os
import random
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from tensorflow.python.framework.config import is_op_determinism_enabled
from torch.nn import functional

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.tensorflow_devices import DEVICES
from dataecho.backends.tensorflow_layers import BatchNorm
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho.backends.tensorflow_start import without_start_up_lines
from dataecho.backends.tensorflow_weights import Weight
from dataecho.errors import SettingError
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.testing.backend_contract import OPTIMIZERS, BackendContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings

PRESENT = ["cpu"] + ["cuda"] * bool(tf.config.list_physical_devices("GPU"))


class Linear(TensorflowModel):
    """One linear layer; remembers the types it computed in, one for every time it was traced."""

    def __init__(self):
        super().__init__()
        self.layer = self._new_layer()
        self.layer.build((None, 3))
        self.traced_in = []

    def _new_layer(self):
        return keras.layers.Dense(1)

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

    def _new_layer(self):
        layers = [keras.layers.Dense(16), BatchNorm(), keras.layers.ReLU(), keras.layers.Dropout(0.5)]
        return keras.Sequential([*layers, keras.layers.Dense(1)])

    def _predictions(self, inputs, training):
        return self.layer(inputs, training=training)[:, 0]


class Ghosts(Noisy):
    """Groups of two rows, and nothing random."""

    def _new_layer(self):
        layers = [keras.layers.Dense(16), BatchNorm(virtual_batch_size=2), keras.layers.ReLU()]
        return keras.Sequential([*layers, keras.layers.Dense(1)])


class Dropping(Linear):
    """A row's loss is 1 where dropout keeps it."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.layers.Dropout(0.5)

    def losses(self, batch, *, training):
        return self.dropout(tf.ones_like(batch["y"]), training=training) / 2 + 0 * self.layer(batch["x"])[:, 0]


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


SOME_OPTIMIZERS = pytest.mark.parametrize("optimizer", [OPTIMIZERS["nesterov-decay"], OPTIMIZERS["adamw-decay"]])


class TestOnTwoDevices(Shared):
    @pytest.fixture
    def accelerator(self):
        return AcceleratorSettings(name="cpu", devices=2)

    @SOME_OPTIMIZERS  # the others differ in nothing that devices change, and a trace for two takes its time
    def test_a_state_resumes_bit_exactly_at_every_step(self, make, noisy_model, optimizer):
        super().test_a_state_resumes_bit_exactly_at_every_step(make, noisy_model, optimizer)

    @SOME_OPTIMIZERS
    def test_a_state_survives_safetensors_and_json(self, make, noisy_model, optimizer):
        super().test_a_state_survives_safetensors_and_json(make, noisy_model, optimizer)

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


# ---- devices


# AdamW would make steps of rounding: in front of a normalisation the gradient of a bias is 0.
@pytest.mark.parametrize(("model", "name"), [(Linear, "nesterov"), (Linear, "adamw-decay"), (Ghosts, "nesterov")])
def test_two_devices_train_what_one_would(model, name):
    one, two = (backend(model, devices=count, precision="64", optimizer=OPTIMIZERS[name]) for count in (1, 2))
    start = one.weights()
    for step, (num_rows, size) in enumerate([(8, 8), (3, 8), (8, 8), (7, 8)]):  # 3 and 7: not the same on both
        for trained in (one, two):
            trained.train_step(trained.put(linear_batch(num_rows=num_rows, size=size, seed=step)), learning_rate=0.05)
        expected, computed = one.weights(), two.weights()
        assert two.take_loss() == pytest.approx(one.take_loss(), rel=1e-12)
        for weight, values in expected.items():
            np.testing.assert_allclose(computed[weight], values, rtol=1e-12, atol=1e-14, err_msg=f"{weight} {step}")
    assert not any(np.array_equal(values, start[weight]) for weight, values in expected.items())
    batch = linear_batch(num_rows=4)
    np.testing.assert_allclose(*(each.eval_step(each.put(batch))["loss"] for each in (one, two)), rtol=1e-12)


def test_two_devices_draw_other_noise():
    # The same rows on both, and a loss that is 1 where a row is kept: 0 or 2 rows on both devices, if they drew alike.
    trained, batch = backend(Dropping, devices=2), linear_batch(num_rows=16)
    kept = []
    for _ in range(8):
        trained.train_step(trained.put(batch), learning_rate=0.0)
        kept.append(round(trained.take_loss() * 16))
    assert any(count % 2 for count in kept)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    trained = backend(devices=2)
    with pytest.raises(SettingError, match=r"accelerator\.devices=2 cannot be used. Allowed: divisors of 5, the rows"):
        trained.put(linear_batch(num_rows=5))


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(SettingError, match=r"accelerator\.devices=3 .*at most 2, with which TensorFlow has started"):
        backend(devices=3)


def test_the_contract_covers_every_device_that_the_backend_can_use_here():
    usable = set()
    for name in DEVICES:
        try:
            usable.add(backend(device=name).identity["backend.device"])
        except SettingError:
            assert name not in PRESENT
    assert usable == set(PRESENT)


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch, device):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    message = f"accelerator={device} cannot be used. Allowed: what this machine has: cpu. Use accelerator=auto"
    with pytest.raises(SettingError, match=message):
        backend(device=device)


@pytest.mark.parametrize(("platform", "there", "other"), [("linux", "cuda", "mps"), ("darwin", "mps", "cuda")])
def test_an_accelerator_that_is_here_is_listed_before_the_cpu(monkeypatch, platform, there, other):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"] * (kind == "GPU"))
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SettingError, match=f"accelerator={other} .*what this machine has: {there}, cpu"):
        backend(device=other)


def test_auto_is_the_best_device_that_is_here():
    assert backend(device="auto").identity["backend.device"] == PRESENT[-1]


@pytest.mark.parametrize("device", ["gpu", "CPU"])
def test_an_unknown_device_is_refused_with_the_known_ones(device):
    with pytest.raises(SettingError, match=f"accelerator={device} cannot be used. Allowed: auto, cpu, cuda, mps, tpu"):
        backend(device=device)


# ---- precision


@pytest.mark.parametrize("precision", ["16", "fp32", "tf32"])
def test_an_unknown_precision_is_refused_with_the_known_ones(precision):
    with pytest.raises(
        SettingError, match=rf"accelerator\.precision={precision} cannot be used. Allowed: 32, bf16, 64"
    ):
        backend(precision=precision)


@pytest.mark.parametrize(
    ("precision", "computed", "kept"),
    [("32", tf.float32, np.float32), ("bf16", tf.bfloat16, np.float32), ("64", tf.float64, np.float64)],
)
def test_a_precision_is_what_the_model_computes_in_and_weights_have_32_bit_at_least(precision, computed, kept):
    models = []
    trained = backend(lambda: models.append(Linear()) or models[0], precision=precision)
    losses(trained)
    outputs = trained.eval_step(trained.put(linear_batch()))
    assert set(models[0].traced_in) == {computed}
    assert outputs["loss"].dtype == kept
    arrays, _ = trained.state()
    floats = [array.dtype for name, array in arrays.items() if name != "rank/loss_sum"]
    assert len(floats) == 4  # two weights, two velocities
    assert set(floats) == {np.dtype(kept)}
    assert keras.config.dtype_policy().name == "float32"  # as it was


def test_bf16_trains_nearly_like_32_bit():
    exact, rounded = (losses(backend(precision=precision)) for precision in ("32", "bf16"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact


# ---- graphs


def test_a_step_is_traced_once_for_all_rates_and_batches():
    models = []
    trained = backend(lambda: models.append(Linear()) or models[0])
    for number in range(5):
        trained.train_step(trained.put(linear_batch(seed=number)), learning_rate=0.1 / (number + 1))
        trained.take_loss()
    assert len(models[0].traced_in) == 1
    for number in range(3):
        trained.eval_step(trained.put(linear_batch(seed=number)))
    assert len(models[0].traced_in) == 2


def test_batches_of_different_lengths_take_turns_and_each_length_is_traced_once():
    models = []
    trained = backend(lambda: models.append(Linear()) or models[0])
    for num_rows in (6, 4, 6, 4):
        batch = linear_batch(num_rows=num_rows)
        expected = trained.eval_step(trained.put(batch))["loss"]
        trained.train_step(trained.put(batch), learning_rate=0.1)
        assert expected.shape == (num_rows,)
        assert trained.take_loss() == pytest.approx(float(expected.mean()), rel=1e-5)
    assert len(models[0].traced_in) == 4  # two lengths, training and evaluation


def test_compiled_and_not_give_the_same_losses():
    for model in (Linear, Ghosts):
        plain, compiled = (losses(backend(model, jit_compile=compile)) for compile in (False, True))
        assert compiled == pytest.approx(plain, rel=1e-5)


def test_a_loss_leaves_the_device_only_when_it_is_taken(monkeypatch):
    read = []
    tensor = type(tf.constant(0.0))
    for name in ("numpy", "__float__", "__array__"):
        original = getattr(tensor, name)
        monkeypatch.setattr(
            tensor, name, lambda self, *given, _original=original: read.append(1) or _original(self, *given)
        )
    trained = backend()
    placed = trained.put(linear_batch())
    for _ in range(3):
        trained.train_step(placed, learning_rate=0.05)
    assert read == []
    trained.take_loss()
    assert read  # hence it is seen


# ---- what TensorFlow has once per process


def test_deterministic_reaches_tensorflow_and_is_reset():
    for wanted in (True, False, True):
        trained = backend(Noisy, deterministic=wanted)
        assert is_op_determinism_enabled() == wanted
        losses(trained, num_steps=1)  # nothing draws from TensorFlow's own generator, which would raise
    backend()
    assert not is_op_determinism_enabled()


def test_compute_threads_stand_in_the_identity_and_cannot_change_later():
    own = backend().identity["backend.compute_threads"]
    assert own == len(os.sched_getaffinity(0))
    message = rf"backend\.compute_threads={own + 5} .*Allowed: {own}, with which TensorFlow has started.*new process"
    with pytest.raises(SettingError, match=message):
        backend(compute_threads=own + 5)


@pytest.mark.parametrize("num_threads", [0, -1])
def test_compute_threads_below_1_are_refused(num_threads):
    with pytest.raises(SettingError, match=rf"backend\.compute_threads={num_threads} cannot be used. Allowed: >= 1"):
        backend(compute_threads=num_threads)


def test_the_backend_draws_nothing_from_anybody_elses_generator():
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    losses(backend(Noisy))
    assert (random.random(), np.random.random()) == expected


def test_a_fresh_process_takes_threads_and_devices_as_wanted_and_ignores_keras_configuration():
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 {'backend.device': 'cpu', 'backend.compute_threads': 3} tensorflow False\n"


FRESH = """
import sys
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho_tasks.digits.tensorflow_model import DigitsNet
backend = TensorflowBackend(
    BackendContext(
        new_model=DigitsNet,
        optimizer=OptimizerSettings(name="nesterov", learning_rate=0.1),
        accelerator=AcceleratorSettings(name="cpu", devices=3),
        seed=0,
    ),
    compute_threads=3,
)
import keras
print(backend._strategy.num_replicas_in_sync, backend.identity, keras.config.backend(), "torch" in sys.modules)
"""


# ---- models and names


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(SettingError, match=r"optimizer\.momentum=0(\.0)? .*optimizer=nesterov.*optimizer=momentum"):
        backend(optimizer=OptimizerSettings(name="nesterov", learning_rate=0.1, momentum=0.0))


def test_a_model_that_is_no_tensorflow_model_is_refused():
    with pytest.raises(SettingError, match=r"task\.models\.tensorflow=Dense cannot be used.*TensorflowModel.*`losses`"):
        backend(lambda: keras.layers.Dense(1))


class Unbuilt(Linear):
    def __init__(self):
        super().__init__()
        self.other = keras.layers.Dense(1, name="late")


class Regular(Linear):
    def _new_layer(self):
        return keras.layers.Dense(1, kernel_regularizer="l2")


class Attentive(Linear):
    """The parts of attention have private names."""

    def __init__(self):
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(num_heads=2, key_dim=3)
        self.attention.build((None, 4, 6), (None, 4, 6))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Unbuilt, "task.models.tensorflow=Unbuilt .*'late' has none yet: call its `build"),
        (Regular, "task.models.tensorflow=Regular .*kernel has one: use optimizer.weight_decay"),
        (
            Attentive,
            "task.models.tensorflow=Attentive .*query/kernel belongs to no layer in a public attribute",
        ),
    ],
)
def test_a_model_whose_weights_cannot_be_told_is_refused(model, told):
    with pytest.raises(SettingError, match=told):
        backend(model)


class Twice(Linear):
    def __init__(self):
        super().__init__()
        self.again = self.layer


def test_what_stands_in_two_places_is_one_weight():
    both = [backend(model) for model in (Linear, Twice)]
    both[1].load_weights(both[0].weights())
    assert losses(both[1]) == losses(both[0])


def test_only_greetings_are_kept_from_standard_error(capfd):
    with without_start_up_lines():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may see\nan error\n")
        os.write(2, b"another\n")
    with pytest.raises(ZeroDivisionError), without_start_up_lines():
        os.write(2, b"a third\n")
        1 / 0  # noqa: B018
    os.write(2, b"a fourth\n")
    assert capfd.readouterr().err == "an error\nanother\na third\na fourth\n"


class Everything(Linear):
    """One of each layout; and a special case."""

    def __init__(self):
        super().__init__()
        layers = keras.layers
        self.convolutions = [layers.Conv1D(2, 3), layers.Conv2D(4, (2, 5)), layers.Conv3D(2, 3)]
        for dimensions, convolution in enumerate(self.convolutions, start=1):
            convolution.build((None, *[9] * dimensions, 3))
        self.back = layers.Conv2DTranspose(5, (2, 3))
        self.back.build((None, 9, 9, 4))
        self.depth = layers.DepthwiseConv2D((2, 3), depth_multiplier=2)
        self.depth.build((None, 9, 9, 4))
        self.parts = {"words": layers.Embedding(7, 3), "norm": layers.LayerNormalization()}
        self.parts["words"].build(None)
        self.parts["norm"].build((None, 3))
        self.keras_norm = layers.BatchNormalization()
        self.keras_norm.build((None, 3))
        self.heads = layers.EinsumDense("bsd,dhk->bshk", output_shape=(None, 2, 4), bias_axes="hk")
        self.heads.build((None, 5, 6))

    def special_weights(self):
        return {
            "heads.weight": Weight(self.heads.kernel, axes=(1, 2, 0), shape=(8, 6)),
            "heads.bias": Weight(self.heads.bias, shape=(8,)),
        }


SHAPES = {
    "layer.weight": (1, 3),
    "layer.bias": (1,),
    "convolutions.0.weight": (2, 3, 3),
    "convolutions.0.bias": (2,),
    "convolutions.1.weight": (4, 3, 2, 5),
    "convolutions.1.bias": (4,),
    "convolutions.2.weight": (2, 3, 3, 3, 3),
    "convolutions.2.bias": (2,),
    "back.weight": (4, 5, 2, 3),
    "back.bias": (5,),
    "depth.weight": (8, 1, 2, 3),
    "depth.bias": (8,),
    "parts.words.weight": (7, 3),
    "parts.norm.weight": (3,),
    "parts.norm.bias": (3,),
    "keras_norm.weight": (3,),
    "keras_norm.bias": (3,),
    "keras_norm.running_mean": (3,),
    "keras_norm.running_var": (3,),
    "heads.weight": (8, 6),
    "heads.bias": (8,),
}


def test_weights_have_pytorchs_names_and_shapes_and_come_back():
    trained = backend(Everything)
    draws = np.random.default_rng(0)
    weights = {name: draws.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    trained.load_weights(weights)
    found = trained.weights()
    assert found.keys() == SHAPES.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].flags.c_contiguous


def test_layers_compute_what_pytorchs_do_with_the_same_weights():
    trained = backend(Everything)
    weights = {name: torch.from_numpy(values) for name, values in trained.weights().items()}
    model, draws = trained._model, np.random.default_rng(0)

    def same(layer, function, inputs):
        expected = function(torch.from_numpy(inputs)).numpy()
        computed = layer(tf.constant(np.moveaxis(inputs, 1, -1))).numpy()
        np.testing.assert_allclose(np.moveaxis(computed, -1, 1), expected, rtol=1e-4, atol=1e-5)

    def given(*shape):
        return draws.normal(size=shape).astype(np.float32)

    functions = (functional.conv1d, functional.conv2d, functional.conv3d)
    for number, function in enumerate(functions):
        own = [weights[f"convolutions.{number}.{name}"] for name in ("weight", "bias")]
        same(model.convolutions[number], partial(_called, function, *own), given(2, 3, *[9] * (number + 1)))
    same(
        model.back,
        partial(_called, functional.conv_transpose2d, weights["back.weight"], weights["back.bias"]),
        given(2, 4, 9, 9),
    )
    depth = partial(_called, functional.conv2d, weights["depth.weight"], weights["depth.bias"], groups=4)
    same(model.depth, depth, given(2, 4, 9, 9))
    inputs = given(2, 5, 6)
    heads = functional.linear(torch.from_numpy(inputs), weights["heads.weight"], weights["heads.bias"]).numpy()
    np.testing.assert_allclose(model.heads(inputs).numpy().reshape(2, 5, 8), heads, rtol=1e-4, atol=1e-5)


def _called(function, weight, bias, inputs, **settings):
    return function(inputs, weight, bias, **settings)

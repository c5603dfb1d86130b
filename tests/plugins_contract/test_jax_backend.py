"""The JAX backend of the plugin: the contract on every device that is here, then agreement with PyTorch."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dataecho.compose import compose_workload
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.source import ArraySource
from dataecho.testing.backend_contract import OPTIMIZERS, BackendContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings
from dataecho_jax import devices
from dataecho_jax.backend import JaxBackend
from dataecho_jax.devices import DEVICES
from dataecho_jax.digits import DigitsNet
from dataecho_jax.model import JaxModel
from tests.support import PROJECT, config

NUM_CORES = len(os.sched_getaffinity(0))
QUIET = ("tracking=none", "display=none", "accelerator=cpu")


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
    """One linear layer; remembers the type of every trace."""

    traces: ClassVar[list] = []

    def init(self, key):
        return {"layer.weight": normal(key, 1, 3), "layer.bias": jnp.zeros(1)}, {}

    def losses(self, parameters, buffers, batch, key):
        return self.outputs(parameters, buffers, batch)["loss"], buffers

    def outputs(self, parameters, buffers, batch):
        predictions = (batch["x"] @ parameters["layer.weight"].T + parameters["layer.bias"])[:, 0]
        self.traces.append(predictions.dtype.name)
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


@dataclass(frozen=True)
class Careless(Noisy):
    """Gives its running mean in the type it computes in."""

    def losses(self, parameters, buffers, batch, key):
        losses, buffers = super().losses(parameters, buffers, batch, key)
        return losses, {name: values.astype(batch["x"].dtype) for name, values in buffers.items()}


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


def backend(model=Linear, *, device="cpu", precision="32", devices=1, optimizer=OPTIMIZERS["nesterov"], **settings):
    accelerator = AcceleratorSettings(name=device, precision=precision, devices=devices)
    return JaxBackend(BackendContext(new_model=model, optimizer=optimizer, accelerator=accelerator, seed=0), **settings)


def batch_of(**arrays):
    with once_through(ArraySource(arrays), (), batch_size=len(next(iter(arrays.values())))) as batches:
        return next(batches)


def linear_batch(num_rows=6):
    draws = np.random.default_rng(0)
    return batch_of(
        x=draws.normal(size=(num_rows, 3)).astype(np.float32), y=draws.normal(size=num_rows).astype(np.float32) + 3
    )


def losses(trained, *, num_steps=5):
    placed, found = trained.put(linear_batch()), []
    for _ in range(num_steps):
        trained.train_step(placed, learning_rate=0.05)
        found.append(trained.take_loss())
    return found


# ---- devices


def test_the_contract_covers_every_device_that_the_backend_can_use_here():
    usable = set()
    for name in DEVICES:
        try:
            usable.add(backend(device=name).identity["backend.device"])
        except SettingError:
            assert name not in PRESENT
    assert usable == set(PRESENT)


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch, device):
    monkeypatch.setattr(devices, "_devices", lambda name: jax.devices("cpu") if name == "cpu" else [])
    message = f"accelerator={device} cannot be used. Allowed: what this machine has: cpu. Use accelerator=auto"
    with pytest.raises(SettingError, match=message):
        backend(device=device)


def test_auto_is_the_best_device_that_is_here(monkeypatch):
    assert backend(device="auto").identity["backend.device"] == PRESENT[-1]
    monkeypatch.setattr(devices, "_devices", lambda name: jax.devices("cpu") if name != "tpu" else [])
    assert backend(device="auto").identity == {"backend.device": "cuda", "backend.compute_threads": None}
    with pytest.raises(SettingError, match="accelerator=tpu .*what this machine has: cuda, cpu"):
        backend(device="tpu")


@pytest.mark.parametrize("device", ["mps", "metal", "gpu", "CPU"])
def test_an_unknown_device_is_refused_with_the_known_ones(device):
    with pytest.raises(SettingError, match=f"accelerator={device} cannot be used. Allowed: auto, cpu, cuda, tpu"):
        backend(device=device)


def test_several_devices_or_processes_are_refused(monkeypatch):
    with pytest.raises(SettingError, match=r"accelerator\.devices=2 cannot be used. Allowed: 1 with backend=jax"):
        backend(devices=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="torchrun --nproc-per-node=2 cannot be used. Allowed: 1 with backend=jax"):
        backend()


@pytest.mark.parametrize("variable", ["PJRT_NPROC", "NPROC"])
def test_compute_threads_are_stated_and_only_that_number_may_be_asked_for(monkeypatch, variable):
    assert backend(compute_threads=NUM_CORES).identity["backend.compute_threads"] == NUM_CORES
    message = rf"backend\.compute_threads={NUM_CORES + 1} .*null or {NUM_CORES}, .*PJRT_NPROC={NUM_CORES + 1}"
    with pytest.raises(SettingError, match=message):
        backend(compute_threads=NUM_CORES + 1)
    monkeypatch.setenv(variable, str(NUM_CORES + 1))  # what XLA would have read
    assert backend(compute_threads=NUM_CORES + 1).identity["backend.compute_threads"] == NUM_CORES + 1


# ---- precision


@pytest.mark.parametrize("precision", ["16", "fp32"])
def test_an_unknown_precision_is_refused_with_the_known_ones(precision):
    message = rf"accelerator\.precision={precision} cannot be used. Allowed: 32, bf16, 64"
    with pytest.raises(SettingError, match=message):
        backend(precision=precision)


@pytest.mark.filterwarnings("error")  # JAX warns where it cannot use the old state's memory again
@pytest.mark.parametrize(
    ("precision", "computed", "stored"),
    [("32", "float32", "float32"), ("bf16", "bfloat16", "float32"), ("64", "float64", "float64")],
)
@pytest.mark.parametrize("users_own", [False, True])
def test_a_precision_is_of_this_backend_whatever_the_process_has(precision, computed, stored, users_own):
    jax.clear_caches()
    Linear.traces.clear()
    with jax.enable_x64(users_own):
        trained = backend(precision=precision)
        losses(trained)
        outputs = trained.eval_step(trained.put(linear_batch()))
        assert jnp.zeros(1).dtype == ("float64" if users_own else "float32")
    assert set(Linear.traces) == {computed}
    arrays, _ = trained.state()
    assert len(arrays) == 5  # two weights, two velocities, the loss
    assert {array.dtype.name for array in (*arrays.values(), *outputs.values())} == {stored}


def test_running_statistics_stay_32_bit_with_bf16():
    trained, careless = backend(Noisy, precision="bf16"), backend(Careless, precision="bf16")
    for each in (trained, careless):
        losses(each)
        assert each.weights()["norm.running_mean"].dtype == np.float32
    mean = trained.weights()["norm.running_mean"]
    assert (mean != mean.astype(jnp.bfloat16)).any()


def test_all_precisions_start_with_the_same_weights_and_train_alike():
    exact, single = backend(precision="64"), backend(precision="32")
    with jax.enable_x64(True):  # the user's own, which is nothing to the backend
        rounded = backend(precision="bf16")
    for name, values in exact.weights().items():
        assert (values == single.weights()[name]).all() and (values == rounded.weights()[name]).all()
    expected = losses(exact)
    assert losses(single) == pytest.approx(expected, rel=1e-5)
    coarse = losses(rounded)
    assert coarse == pytest.approx(expected, rel=0.05) and coarse != pytest.approx(expected, rel=1e-5)


def test_numbers_of_64_bits_are_kept_or_refused():
    batch = batch_of(label=np.array([2**31, -1]))
    assert np.asarray(backend(precision="64").put(batch).fields["label"]).tolist() == [2**31, -1]
    for precision in ("32", "bf16"):
        message = rf"accelerator\.precision={precision} .*64 with field 'label', which has numbers of more than 32 bits"
        with pytest.raises(SettingError, match=message):
            backend(precision=precision).put(batch)
    assert np.asarray(backend().put(batch_of(label=np.array([2**31 - 1, -(2**31)]))).fields["label"]).tolist() == [
        2**31 - 1,
        -(2**31),
    ]


# ---- memory


def test_even_memory_that_jax_could_use_as_its_own_is_copied():
    # On a CPU it does so with numpy arrays that begin at a multiple of 64 bytes, which few do.
    room = np.zeros(64 + 16, dtype=np.float32)
    begin = -room.ctypes.data % 64 // 4
    aligned = room[begin : begin + 64]
    assert aligned.ctypes.data % 64 == 0
    batch = batch_of(x=np.ones(64, np.float32))
    batch.arrays["x"] = aligned
    placed = backend().put(batch)
    aligned[:] = 7
    assert np.asarray(placed.fields["x"]).max() == 0


# ---- models


def test_equal_models_are_compiled_once():
    jax.clear_caches()
    Linear.traces.clear()
    losses(backend())
    num_traces = len(Linear.traces)
    assert num_traces > 0
    losses(backend())
    assert len(Linear.traces) == num_traces


def test_a_model_that_is_no_jax_model_is_refused():
    with pytest.raises(SettingError, match=r"task\.models\.jax=object cannot be used.*JaxModel.*`losses`"):
        backend(object)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(SettingError, match=r"optimizer\.momentum=0 .*optimizer=nesterov.*optimizer=momentum"):
        backend(optimizer=OptimizerSettings(name="nesterov", learning_rate=0.1, momentum=0.0))


@pytest.mark.parametrize("channels", [[16], [16, 0], [1, 2, 3]])
def test_channels_that_make_no_network_are_refused(channels):
    with pytest.raises(SettingError, match=r"task\.models\.jax\.channels=\[.*two whole numbers >= 1"):
        DigitsNet(channels=channels)


# ---- agreement with PyTorch


def ten_steps(precision):
    """Losses and weights after each of ten steps of both backends from the same weights on the same batches."""
    workloads = [
        compose_workload(config(f"backend={name}", *QUIET, f"accelerator.precision={precision}"))
        for name in ("jax", "torch")
    ]
    ours, theirs = (workload.backend for workload in workloads)
    task, draws = workloads[0].task, np.random.default_rng(0)
    start = {name: draws.normal(size=values.shape, scale=0.1) for name, values in theirs.weights().items()}
    for trained in (ours, theirs):
        trained.load_weights({name: values.astype(theirs.weights()[name].dtype) for name, values in start.items()})
    with Feed(
        task.train_source(), task.stages(), batch_size=64, shuffle_buffer=256, seed=0, echo_after="decode", factor=2
    ) as feed:
        for _ in range(10):
            batch, found = next(feed), []
            for trained in (ours, theirs):
                trained.train_step(trained.put(batch), learning_rate=0.2)
                found.append((trained.take_loss(), trained.weights()))
            batch.release()
            yield found


def test_ten_steps_are_pytorchs_in_64_bit():
    seen = []
    for (loss, weights), (expected_loss, expected) in ten_steps("64"):
        assert loss == pytest.approx(expected_loss, abs=1e-12)
        assert weights.keys() == expected.keys()
        for name, values in weights.items():
            assert values.dtype == expected[name].dtype == np.float64
            np.testing.assert_allclose(values, expected[name], rtol=1e-8, atol=1e-14, err_msg=name)
        seen.append(loss)
    assert len(seen) == 10 and seen[-1] < seen[0] - 0.1  # it has learned: the steps were not nothing


def test_ten_steps_are_nearly_pytorchs_in_32_bit():
    differences = [abs(loss - expected) for (loss, _), (expected, _) in ten_steps("32")]
    assert len(differences) == 10
    assert differences[0] <= 1e-5 and differences[-1] <= 1e-3


def test_both_evaluate_alike():
    ours, theirs = (
        compose_workload(config(f"backend={name}", *QUIET, "accelerator.precision=64")) for name in ("jax", "torch")
    )
    ours.backend.load_weights(theirs.backend.weights())
    metrics = ours.evaluate()
    assert metrics == pytest.approx(theirs.evaluate(), abs=1e-12)
    assert metrics.keys() == {"eval_loss", "accuracy"}


# ---- the command line

TRAIN = """
import runpy, sys
runpy.run_path(sys.argv[0], run_name="__main__")
print("loaded:", *sorted({"torch", "tensorflow", "jax"} & sys.modules.keys()))
"""


def keys(node, prefix=""):
    """Names in a summary, but for those that a configuration or a framework chooses."""
    if not isinstance(node, dict) or prefix in ("config.", "versions.", "dataset."):
        return {prefix}
    return set().union(*(keys(value, f"{prefix}{name}.") for name, value in node.items()))


def test_the_command_line_trains_with_it_alone_and_writes_what_pytorch_writes(tmp_path):
    budget = ("budget=steps", "budget.steps=8", "task.eval_interval=256")
    code = TRAIN.replace("sys.argv[0]", repr(str(PROJECT / "train.py")))
    done = subprocess.run(
        [sys.executable, "-c", code, "backend=jax", "run_dir=jax", *QUIET, *budget],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Memory of the input side")  # and not with what JAX did not find
    assert done.stdout.splitlines()[-1] == "loaded: jax"
    run_mode(config("backend=torch", f"run_dir={tmp_path / 'torch'}", *QUIET, *budget), folder=None, project=PROJECT)
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("jax", "torch"))
    assert ours["steps"] == 8 and ours["config"]["backend"]["name"] == "jax"
    assert keys(ours) == keys(theirs)


def test_a_task_without_a_jax_model_is_refused_with_the_frameworks_it_has(tmp_path):
    few = [f"task.{part}.{item}" for part in ("train", "eval") for item in (f"cache_dir={tmp_path}", "num_examples=8")]
    message = "backend=jax cannot be used. Allowed: tensorflow, torch, the frameworks that task=images has a model for"
    with pytest.raises(SettingError, match=message):
        compose_workload(config("backend=jax", "task=images", *few, *QUIET))


def test_the_model_of_a_plugin_is_there_with_its_own_backend_only():
    assert config()["task"]["models"].keys() == {"torch", "tensorflow"}
    assert config("backend=jax", "task.models.jax.channels=[4,5]")["task"]["models"]["jax"] == {
        "_target_": "dataecho_jax.digits.DigitsNet",
        "channels": [4, 5],
    }

"""The PyTorch backend: the contract on every device that is here, then what is PyTorch's own."""

import functools
import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dataecho.backends import torch_backend
from dataecho.backends.torch_backend import DEVICES, TorchBackend
from dataecho.backends.torch_model import TorchModel
from dataecho.errors import SettingError
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.testing.backend_contract import OPTIMIZERS, BackendContract
from dataecho.training.checkpoint import CheckpointStore, load_checkpoint
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
PRESENT = [
    name
    for name, is_there in (
        ("cpu", True),
        ("cuda", torch.cuda.is_available()),
        ("mps", torch.backends.mps.is_available()),
    )
    if is_there
]


class Linear(TorchModel):
    """One linear layer; remembers the type it computed in."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.computed_in = set()

    def losses(self, batch):
        predictions = self.layer(batch["x"])[:, 0]
        self.computed_in.add(predictions.dtype)
        return (predictions - batch["y"]) ** 2

    def outputs(self, batch):
        return {"loss": self.losses(batch)}


class Noisy(Linear):
    """Batch normalisation has running means and a count without axes, dropout draws random numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 1))


class Untraced(Linear):
    """Nothing that ``torch.compile`` would have to break its trace for."""

    def losses(self, batch):
        return (self.layer(batch["x"])[:, 0] - batch["y"]) ** 2


@pytest.fixture(autouse=True)
def global_settings(monkeypatch):
    """The backend sets what PyTorch has once per process; the next test finds it as it was."""
    monkeypatch.setenv(CUBLAS, "the user's own")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def backend(model=Linear, *, device="cpu", precision="32", optimizer=OPTIMIZERS["nesterov"], seed=0, **settings):
    accelerator = AcceleratorSettings(name=device, precision=precision)
    context = BackendContext(new_model=model, optimizer=optimizer, accelerator=accelerator, seed=seed)
    return TorchBackend(context, **settings)


def linear_batch(*, num_rows=6):
    draws = np.random.default_rng(0)
    arrays = {"x": draws.normal(size=(num_rows, 3)), "y": draws.normal(size=num_rows) + 3}
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    with once_through(ArraySource(arrays), (), batch_size=num_rows) as batches:
        return next(batches)


def losses(trained, *, num_steps=5):
    placed, found = trained.put(linear_batch()), []
    for _ in range(num_steps):
        trained.train_step(placed, learning_rate=0.05)
        found.append(trained.take_loss())
    return found


@pytest.mark.parametrize("accelerator", [AcceleratorSettings(name=name) for name in PRESENT], ids=PRESENT)
class TestTorchBackend(BackendContract):
    @pytest.fixture
    def new_backend(self):
        return TorchBackend

    @pytest.fixture
    def linear_model(self):
        return Linear

    @pytest.fixture
    def noisy_model(self):
        return Noisy

    @pytest.fixture
    def fetch(self):
        return lambda placed: (
            {name: values.cpu().numpy() for name, values in placed.fields.items()},
            placed.weights.cpu().numpy(),
        )


# ---- devices


def test_the_contract_covers_every_device_that_the_backend_can_use_here():
    usable = set()
    for name in DEVICES:
        try:
            usable.add(backend(device=name).identity["backend.device"])
        except SettingError:
            assert name not in PRESENT
    assert usable == set(PRESENT)
    marks = {mark.name: mark for mark in TestTorchBackend.pytestmark}
    assert [accelerator.name for accelerator in marks["parametrize"].args[1]] == PRESENT


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = f"accelerator={device} cannot be used. Allowed: what this machine has: cpu. Use accelerator=auto"
    with pytest.raises(SettingError, match=message):
        backend(device=device)


@pytest.mark.parametrize(("there", "other"), [("cuda", "mps"), ("mps", "cuda")])
def test_an_accelerator_that_is_here_is_listed_before_the_cpu(monkeypatch, there, other):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    with pytest.raises(SettingError, match=f"accelerator={other} .*what this machine has: {there}, cpu"):
        backend(device=other)


def test_auto_is_the_best_device_that_is_here():
    assert backend(device="auto").identity["backend.device"] == PRESENT[-1]


@pytest.mark.parametrize("device", ["gpu", "tpu", "CPU"])
def test_an_unknown_device_is_refused_with_the_known_ones(device):
    with pytest.raises(SettingError, match=f"accelerator={device} cannot be used. Allowed: auto, cpu, cuda, mps"):
        backend(device=device)


# ---- precision


@pytest.mark.parametrize("precision", ["16", "fp32", "tf32"])
def test_an_unknown_precision_is_refused_with_the_known_ones(precision):
    with pytest.raises(
        SettingError, match=rf"accelerator\.precision={precision} cannot be used. Allowed: 32, bf16, 64"
    ):
        backend(precision=precision)


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize(("precision", "expected"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_is_what_the_model_computes_in_and_weights_stay_32_bit(device, precision, expected):
    models = []
    trained = backend(lambda: models.append(Linear()) or models[0], device=device, precision=precision)
    losses(trained)
    assert models[0].computed_in == {expected}
    models[0].computed_in.clear()
    outputs = trained.eval_step(trained.put(linear_batch()))
    assert models[0].computed_in == {expected}
    assert outputs["loss"].dtype == np.float32
    arrays, _ = trained.state()
    floats = {
        name: array.dtype for name, array in arrays.items() if array.dtype.kind == "f" and name != "rank/loss_sum"
    }
    assert len(floats) == 4  # two weights, two momenta
    assert set(floats.values()) == {np.dtype(np.float32)}


@pytest.mark.parametrize("device", PRESENT)
def test_bf16_trains_nearly_like_32_bit(device):
    exact, rounded = (losses(backend(device=device, precision=precision)) for precision in ("32", "bf16"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact


# ---- compile


def test_compiled_and_not_give_the_same_losses(monkeypatch):
    # The tracer without the C++ compiler behind it: what is under test is what is handed to it, and that it is used.
    traced = []

    def compiler(graph, inputs):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler, fullgraph=True))
    monkeypatch.setattr(torch_backend, "TORCH_FOLDER", "/torch")
    plain, compiled = backend(Untraced), backend(Untraced, compile=True)
    expected = losses(plain)
    assert traced == []
    assert losses(compiled) == pytest.approx(expected, rel=1e-6)
    assert len(traced) == 1  # once, for all steps
    np.testing.assert_allclose(compiled.weights()["layer.weight"], plain.weights()["layer.weight"], rtol=1e-5)


def test_a_compiled_backend_evaluates_and_continues_with_weights_loaded_later():
    compiled, plain = backend(Untraced, seed=1), backend(Untraced, seed=2)
    compiled.load_state(*plain.state())
    assert losses(compiled) == losses(plain)


def test_the_compiler_is_refused_where_its_own_folder_has_a_space(monkeypatch):
    monkeypatch.setattr(torch_backend, "TORCH_FOLDER", "/my work/torch")
    with pytest.raises(
        SettingError, match=r"backend\.compile=True cannot be used\. Allowed: false, .*: /my work/torch\. "
    ):
        backend(compile=True)
    backend(compile=False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler: g++")
def test_the_real_compiler_gives_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if " " in torch_backend.TORCH_FOLDER:
        pytest.xfail("PyTorch cannot compile from a folder with a space in its name")
    assert losses(backend(Untraced, compile=True)) == pytest.approx(losses(backend(Untraced)), rel=1e-5)


# ---- what PyTorch has once per process


def test_deterministic_reaches_pytorch_and_is_reset():
    for wanted in (True, False, True):
        backend(deterministic=wanted)
        assert torch.are_deterministic_algorithms_enabled() == wanted
    backend()
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_lets_cublas_be_so_unless_the_user_has_said_how(monkeypatch):
    # PyTorch raises at the first matrix product on CUDA without it.
    backend(deterministic=True)
    assert os.environ[CUBLAS] == "the user's own"
    monkeypatch.delenv(CUBLAS)
    backend(deterministic=False)
    assert CUBLAS not in os.environ
    backend(deterministic=True)
    assert os.environ[CUBLAS] == ":4096:8"


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_compute_threads_reach_pytorch_and_the_identity(num_threads):
    identity = backend(compute_threads=num_threads).identity
    assert torch.get_num_threads() == num_threads == identity["backend.compute_threads"]


def test_without_compute_threads_pytorch_decides_whatever_ran_before_in_this_process():
    own = backend().identity["backend.compute_threads"]
    backend(compute_threads=own + 1)
    assert backend().identity["backend.compute_threads"] == torch.get_num_threads() == own


@pytest.mark.parametrize("num_threads", [0, -1])
def test_compute_threads_below_1_are_refused(num_threads):
    with pytest.raises(SettingError, match=rf"backend\.compute_threads={num_threads} cannot be used. Allowed: >= 1"):
        backend(compute_threads=num_threads)


def test_draws_from_pytorchs_generator_change_no_initial_weight():
    first = backend(Noisy).weights()
    torch.manual_seed(123)
    torch.rand(7)
    second = backend(Noisy).weights()
    assert all((second[name] == values).all() for name, values in first.items())


# ---- losses


class Reads(TorchDispatchMode):
    """Counts the values that Python takes out of a tensor: ``item``, ``float``, ``bool`` and their like."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("device", PRESENT)
@pytest.mark.parametrize("optimizer", ["nesterov", "momentum"])  # AdamW reads its step number, which is on the host
def test_a_loss_leaves_the_device_only_when_it_is_taken(monkeypatch, device, optimizer):
    copies = []
    for name in ("cpu", "numpy", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, _counted(getattr(torch.Tensor, name), copies))
    trained = backend(device=device, optimizer=OPTIMIZERS[optimizer])
    placed = trained.put(linear_batch())
    with Reads() as reads:
        for _ in range(3):
            trained.train_step(placed, learning_rate=0.05)
        assert (reads.count, copies) == (0, [])
        trained.take_loss()
        assert reads.count + len(copies) == 1
    trained.weights()
    assert "numpy" in copies  # hence they are seen


def _counted(function, calls):
    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return counted


# ---- settings that do not fit


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(SettingError, match=r"optimizer\.momentum=0(\.0)? .*optimizer=nesterov.*optimizer=momentum"):
        backend(optimizer=OptimizerSettings(name="nesterov", learning_rate=0.1, momentum=0.0))


class Renaming(TorchBackend):
    """Names its weights as it likes."""

    def state(self):
        arrays, values = super().state()
        return {name.replace("model/", "params/"): array for name, array in arrays.items()}, values


def test_the_contract_sees_weights_that_could_not_be_exported():
    def make(model):
        accelerator = AcceleratorSettings(name="cpu")
        return Renaming(
            BackendContext(new_model=model, optimizer=OPTIMIZERS["nesterov"], accelerator=accelerator, seed=0)
        )

    with pytest.raises(AssertionError, match="mode=export takes what begins with 'model/'"):
        BackendContract.test_the_weights_in_a_state_are_all_the_weights(None, make, Noisy)


def test_a_model_that_is_no_torch_model_is_refused():
    with pytest.raises(SettingError, match=r"task\.models\.torch=Linear cannot be used.*TorchModel.*`losses`"):
        backend(lambda: nn.Linear(3, 1))


# ---- names


def test_labels_keep_their_64_bits_on_the_device():
    with once_through(ArraySource({"label": np.array([2**40, -1])}), (), batch_size=2) as batches:
        placed = backend().put(next(batches))
    assert placed.fields["label"].dtype == torch.int64
    assert placed.fields["label"].tolist() == [2**40, -1]


@pytest.mark.parametrize("offset", [0, 16, 64])
def test_fields_lie_as_pytorchs_own_tensors_do_wherever_they_were(offset):
    # A batch [2, 1, 3, 4]: an axis of length 1 can have any stride, and PyTorch takes this one for "channels last".
    memory = np.zeros(256 + offset, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    image = np.ndarray((2, 1, 3, 4), np.float32, memory[start:], strides=(48, 4, 16, 4))
    image[...] = np.arange(24).reshape(2, 1, 3, 4)
    assert image.flags.c_contiguous and image.ctypes.data % 64 == offset % 64
    batch = linear_batch(num_rows=2)
    placed = backend().put(Batch({"image": image}, batch.weights, batch.planned))
    for tensor in (placed.fields["image"], placed.weights):
        assert tensor.stride() == torch.empty(tensor.shape).stride() and tensor.data_ptr() % 64 == 0
    assert placed.fields["image"].tolist() == image.tolist()


def test_a_model_with_batch_normalisation_continues_from_a_checkpoint_on_disk(tmp_path):
    # Its count of batches is an array without axes, which not every writer keeps.
    unbroken = backend(Noisy)
    losses(unbroken, num_steps=3)
    arrays, values = unbroken.state()
    path = CheckpointStore(tmp_path).save({"arrays": arrays, "values": values}, steps=3, best_steps=None)
    expected = losses(unbroken)
    stored, resumed = load_checkpoint(path), backend(Noisy, seed=1)
    resumed.load_state(stored["arrays"], stored["values"])
    assert losses(resumed) == expected


def test_weights_have_the_models_own_names():
    assert {name: array.shape for name, array in backend(Noisy).weights().items()} == {
        "layer.0.weight": (16, 3),
        "layer.0.bias": (16,),
        "layer.1.weight": (16,),
        "layer.1.bias": (16,),
        "layer.1.running_mean": (16,),
        "layer.1.running_var": (16,),
        "layer.1.num_batches_tracked": (),
        "layer.4.weight": (1, 16),
        "layer.4.bias": (1,),
    }

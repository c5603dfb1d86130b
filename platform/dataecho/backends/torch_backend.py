"""The PyTorch backend: CPU, CUDA and MPS; 64 and 32 bit and bf16; one process or the many that torchrun starts; exact
resume."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataecho.backends.same_shapes import require_same_shapes
from dataecho.backends.torch_copies import SideStreamCopies, use_on_current_stream
from dataecho.backends.torch_forward import ForwardModule
from dataecho.backends.torch_layers import stride_before_narrow_convolutions
from dataecho.backends.torch_model import TorchModel
from dataecho.backends.torch_parallel import ENGINES, parallelize
from dataecho.backends.torch_rank_errors import lost_ranks_detected
from dataecho.backends.torch_ranks import join_ranks, launched_ranks, local_rank
from dataecho.errors import SettingError, require
from dataecho.pipeline.batch import ALIGNMENT, Batch
from dataecho.plan.keys import KeyStream
from dataecho.training.contracts import MODEL, AcceleratorSettings, Arrays, Backend, BackendContext, OptimizerSettings
from dataecho.training.ranks import Ranks

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("32", "bf16", "64")
_WEIGHTS = "/weights"  # no field has this name
_NOISE = "backend.torch.noise"

TORCH_FOLDER = os.path.dirname(torch.__file__)
_DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process sets another number


@dataclass(frozen=True)
class _Placed:
    fields: dict[str, Tensor]
    weights: Tensor
    arrived: torch.cuda.Event | None = None  # on CUDA the copy overlaps the previous step

    def ready(self) -> _Placed:
        """Wait, on the device, for the copy. Call before use."""
        if self.arrived is not None:
            use_on_current_stream([*self.fields.values(), self.weights], self.arrived)
        return self


class TorchBackend(Backend):
    """``compile``: trace the loss with ``torch.compile``; ``deterministic``: only deterministic algorithms;
    ``compute_threads``: CPU threads of this process, None for PyTorch's default; ``parallel``: with several processes
    of ``torchrun``, ``ddp`` (each has the whole model) or ``fsdp`` (each has a part of it); ``timeout``: seconds that
    the processes wait for each other.

    Raises :class:`SettingError` for a device or precision that is not available.
    """

    def __init__(
        self,
        context: BackendContext,
        *,
        compile: bool = False,
        deterministic: bool = False,
        compute_threads: int | None = None,
        parallel: str = "ddp",
        timeout: float = 600.0,
    ) -> None:
        if deterministic:  # cuBLAS reads it once, when CUDA starts; PyTorch refuses determinism without it
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._device = _device(context.accelerator)
        _check(context.accelerator, self._device, compute_threads=compute_threads, parallel=parallel, timeout=timeout)
        _check_compiler(compile, self._device)
        torch.set_num_threads(compute_threads or _DEFAULT_THREADS)
        if self._device.type == "cuda":  # "32" means 32 bit: TF32 has 19
            torch.cuda.set_device(self._device)
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(deterministic)
        self._ranks = join_ranks(self._device, timeout=timeout)
        # The same weights on every rank, independent of earlier random numbers.
        torch.manual_seed(KeyStream(context.seed, "backend.torch").key(0) >> 1)
        self._model = context.new_model()
        if not isinstance(self._model, TorchModel):
            raise SettingError(
                "task.models.torch",
                type(self._model).__name__,
                allowed="a subclass of dataecho.backends.torch_model.TorchModel",
                cure="Give the model `losses` and `outputs`.",
            )
        if self._device.type == "cpu":
            stride_before_narrow_convolutions(self._model)
        precision = context.accelerator.precision
        self._dtype = torch.float64 if precision == "64" else torch.float32
        self._model.to(self._device, self._dtype)
        self._copies = SideStreamCopies(self._device) if self._device.type == "cuda" else None
        self._forward = ForwardModule(self._model, compile=compile)
        self._trained, self._sharding = parallelize(self._forward, self._ranks, parallel)
        self._optimizer = _optimizer(self._model, context.optimizer)
        self._bf16 = precision == "bf16"
        self._identity = {
            "backend.device": self._device.type,
            "backend.compute_threads": torch.get_num_threads() if self._device.type == "cpu" else None,
        }
        self._loss_sum = torch.zeros((), dtype=torch.float64 if self._device.type != "mps" else torch.float32)
        self._loss_sum = self._loss_sum.to(self._device)
        self._num_losses = 0
        self._ones = self._equal_shares = torch.ones(0)
        self._noise_seed, self._num_steps = context.seed, 0
        self._noise = KeyStream(self._noise_seed, _NOISE)

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    @property
    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    @property
    def keeps_host_arrays(self) -> bool:
        return self._device.type == "cpu"

    def put(self, batch: Batch) -> _Placed:
        if self._copies is not None:
            placed, arrived = self._copies.start({**batch.arrays, _WEIGHTS: batch.weights})
            return _Placed(placed, placed.pop(_WEIGHTS), arrived)
        # From pageable memory `to` returns after the copy; on the CPU only misaligned arrays are copied.
        fields = {name: _aligned(values).to(self._device) for name, values in batch.arrays.items()}
        return _Placed(fields, self._weights_of(batch))

    def train_step(self, placed: _Placed, *, learning_rate: float) -> None:
        placed = placed.ready()
        self._seed_noise()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if not self._model.training:  # `train` walks through all modules
            self._model.train()
        with lost_ranks_detected(self._ranks):
            with self._precision():
                losses = self._trained(self._fields(placed), evaluates=False).to(self._dtype)
            shares = self._shares(placed.weights)
            losses.backward(shares)  # the gradients of the weighted sum of losses
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._loss_sum += torch.dot(losses.detach(), shares)
        self._num_losses += 1
        self._num_steps += 1

    def take_loss(self) -> float:
        if not self._num_losses:
            return float("nan")
        sums = self._ranks.sum(np.array([self._loss_sum.item()], dtype=np.float64))
        mean = float(sums[0]) / self._ranks.num_ranks / self._num_losses
        self._loss_sum.zero_()
        self._num_losses = 0
        return mean

    @torch.no_grad()
    def eval_step(self, placed: _Placed) -> dict[str, NDArray[Any]]:
        self._model.eval()
        with self._precision():
            outputs = self._forward(self._fields(placed.ready()), evaluates=True)
        return {name: values.to(self._dtype).cpu().numpy() for name, values in outputs.items()}

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        if self._ranks.num_ranks > 1:
            self._average_statistics()

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {f"{MODEL}{name}": values for name, values in self.weights().items()}
        arrays["rank/loss_sum"] = self._to_numpy(self._loss_sum.reshape(1))
        names = [name for name, _ in self._model.named_parameters()]
        for number, slots in self._optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if value is not None:
                    tensor = torch.as_tensor(value)
                    arrays[f"optimizer/{names[number]}/{slot}"] = self._to_numpy(tensor.reshape(tensor.shape or (1,)))
        values = {"num_losses": self._num_losses, "num_steps": self._num_steps, "noise_seed": self._noise_seed}
        return arrays, values

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.load_weights({name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)})
        parameters = dict(self._model.named_parameters())
        numbers = {name: number for number, name in enumerate(parameters)}
        slots: dict[int, dict[str, Tensor]] = {}
        for path, array in arrays.items():
            if path.startswith("optimizer/"):
                name, slot = path.removeprefix("optimizer/").rsplit("/", 1)
                value = torch.from_numpy(array.copy())
                slots.setdefault(numbers[name], {})[slot] = (
                    value.reshape(()) if slot == "step" else self._sharding.part(value, like=parameters[name])
                )
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self._loss_sum.copy_(torch.from_numpy(arrays["rank/loss_sum"].copy()).reshape(()))
        self._num_losses, self._num_steps = values["num_losses"], values["num_steps"]
        self._noise_seed = values["noise_seed"]
        self._noise = KeyStream(self._noise_seed, _NOISE)

    def weights(self) -> Arrays:
        return {name: self._to_numpy(value) for name, value in self._model.state_dict().items()}

    def load_weights(self, weights: Arrays) -> None:
        own = self._model.state_dict()
        require_same_shapes(
            {name: tuple(array.shape) for name, array in weights.items()},
            {name: tuple(value.shape) for name, value in own.items()},
        )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(self._sharding.part(torch.from_numpy(weights[name].copy()), like=value))

    def _weights_of(self, batch: Batch) -> Tensor:
        """The row weights on the device. They are nearly always ones, which are kept: a copy releases Python's lock and
        may wait for it."""
        if not batch.weights.all():
            return _aligned(batch.weights).to(self._device)
        if len(self._ones) != len(batch):
            self._ones = torch.ones(len(batch), device=self._device)
            self._equal_shares = torch.full_like(self._ones, 1 / len(batch), dtype=self._dtype)
        return self._ones

    def _shares(self, weights: Tensor) -> Tensor:
        """The share of each row in the loss. Gradients are averaged over the ranks, so that together they are those of
        the mean over all rows. For one rank without broken rows the shares are constant."""
        if weights is self._ones and self._ranks.num_ranks == 1:
            return self._equal_shares
        weights = weights.to(self._dtype)
        return weights * (self._ranks.num_ranks / self._summed(weights.sum()))

    def _fields(self, placed: _Placed) -> dict[str, Tensor]:
        if self._dtype == torch.float32:
            return placed.fields
        return {
            name: values.to(self._dtype) if values.is_floating_point() else values
            for name, values in placed.fields.items()
        }

    def _to_numpy(self, tensor: Tensor) -> NDArray[Any]:
        array: NDArray[Any] = self._sharding.whole(tensor.detach()).cpu().numpy().copy()
        return array

    def _seed_noise(self) -> None:
        """Seed the generator of dropout from seed, step and rank: no state is needed, and no other run interferes."""
        generator = torch.default_generator
        if self._device.type == "cuda":
            generator = torch.cuda.default_generators[self._device.index]
        elif self._device.type == "mps":
            generator = torch.mps._get_default_mps_generator()
        generator.manual_seed(self._noise.key(self._num_steps, self._ranks.rank) >> 1)

    def _average_statistics(self) -> None:
        """Average running statistics over the ranks. They are linear in the statistics of the batches, so the result is
        that of one process with all rows, at any time."""
        with lost_ranks_detected(self._ranks):
            for buffer in self._model.buffers():
                if buffer.is_floating_point():
                    torch.distributed.all_reduce(buffer)
                    buffer /= self._ranks.num_ranks

    def _summed(self, value: Tensor) -> Tensor:
        if self._ranks.num_ranks > 1:
            torch.distributed.all_reduce(value)
        return value

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext()


def _aligned(values: NDArray[Any]) -> torch.Tensor:
    """A tensor in the layout of torch's own tensors: contiguous, 64-byte aligned, and with the usual strides on axes of
    length 1 (torch takes some other strides for "channels last"). In another layout the last bits of results differ,
    and these must not depend on how a batch was made."""
    tensor = torch.from_numpy(values)
    if tensor.data_ptr() % ALIGNMENT or not tensor.is_contiguous():
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor if _has_usual_strides(tensor) else tensor.view(-1).view(tensor.shape)


def _has_usual_strides(tensor: torch.Tensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != expected:
            return False
        expected *= length
    return True


def _device(settings: AcceleratorSettings) -> torch.device:
    """The device of this process; of several devices, the one with its local rank."""
    name = _available(settings.name)
    require(
        settings.devices == 1,
        "accelerator.devices",
        settings.devices,
        allowed="1 with backend=torch: one process drives one device",
        cure=f"Start one for each: torchrun --nproc-per-node={settings.devices} -m dataecho ...",
    )
    if name != "cuda":
        return torch.device(name)
    require(
        local_rank() < torch.cuda.device_count(),
        "torchrun --nproc-per-node",
        launched_ranks(),
        allowed=f"at most {torch.cuda.device_count()}, the CUDA devices of this machine",
        cure="Start fewer processes, or use accelerator=cpu.",
    )
    return torch.device(name, local_rank())


def _check_compiler(compile: bool, device: torch.device) -> None:
    # On a CPU PyTorch's compiler writes its own folder into a command line without quotes.
    require(
        not compile or device.type != "cpu" or len(TORCH_FOLDER.split()) == 1,
        "backend.compile",
        compile,
        allowed=f"false, where PyTorch is installed in a folder with a space in its name: {TORCH_FOLDER}",
        cure="Use backend.compile=false, or make the environment in a folder whose name has no space.",
    )


def _check(
    settings: AcceleratorSettings,
    device: torch.device,
    *,
    compute_threads: int | None,
    parallel: str,
    timeout: float,
) -> None:
    require(
        settings.precision in PRECISIONS,
        "accelerator.precision",
        settings.precision,
        allowed=", ".join(PRECISIONS),
        cure="Use accelerator.precision=32.",
    )
    require(
        settings.precision != "64" or device.type != "mps",
        "accelerator.precision",
        settings.precision,
        allowed="32, bf16 with accelerator=mps, which has no 64-bit numbers",
        cure="Use accelerator.precision=32, or accelerator=cpu.",
    )
    require(
        compute_threads is None or compute_threads >= 1,
        "backend.compute_threads",
        compute_threads,
        allowed=">= 1",
        cure="Leave it out.",
    )
    require(
        parallel in ENGINES,
        "backend.parallel",
        parallel,
        allowed=", ".join(ENGINES),
        cure="Use backend.parallel=ddp.",
    )
    require(timeout > 0, "backend.timeout", timeout, allowed="seconds > 0", cure="600 is the default.")
    require(
        launched_ranks() == 1 or device.type != "mps",
        "accelerator",
        "mps",
        allowed="cpu, cuda with torchrun",
        cure="PyTorch has no communication between MPS devices.",
    )


def _available(name: str) -> str:
    """The device for the setting ``accelerator``. Raises :class:`SettingError` with a list of the devices present."""
    present = ["cpu"]
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    require(
        name in DEVICES,
        "accelerator",
        name,
        allowed=", ".join(DEVICES),
        cure="backend=torch has no other; accelerator=auto takes the best there is.",
    )
    if name == "auto":
        return present[0]
    require(
        name in present,
        "accelerator",
        name,
        allowed=f"what this machine has: {', '.join(present)}",
        cure="Use accelerator=auto, or install a PyTorch build and driver for the device.",
    )
    return name


def _optimizer(model: TorchModel, settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.momentum, settings.beta_2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
    require(
        settings.name != "nesterov" or settings.momentum > 0,
        "optimizer.momentum",
        settings.momentum,
        allowed="(0, 1) with optimizer=nesterov",
        cure="Plain SGD is optimizer=momentum optimizer.momentum=0.",
    )
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.name == "nesterov",
        weight_decay=settings.weight_decay,
    )

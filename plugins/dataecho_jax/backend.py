"""The JAX backend: one device; 32 and 64 bit and bf16; exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError, require
from dataecho.pipeline.batch import Batch
from dataecho.plan.keys import KeyStream
from dataecho.training.contracts import MODEL, Arrays, Backend, BackendContext, OptimizerSettings
from dataecho.training.ranks import OneRank, Ranks
from dataecho_jax.devices import check_threads, find_device
from dataecho_jax.model import JaxModel, Tensors
from dataecho_jax.optimizers import Slots, new_slots, scalars, update

#: What the model computes in.
PRECISIONS = {"32": "float32", "bf16": "bfloat16", "64": "float64"}


@dataclass(frozen=True)
class _Placed:
    fields: Tensors
    weights: jax.Array


class _State(NamedTuple):
    """All that a step changes on the device."""

    parameters: Tensors
    buffers: Tensors
    slots: Slots
    loss_sum: jax.Array


class JaxBackend(Backend):
    """``compute_threads``: None, or the number of threads that XLA has on the CPU, which nobody can change.

    Raises :class:`SettingError` for a device, precision or number of threads that is not there.
    """

    def __init__(self, context: BackendContext, *, compute_threads: int | None = None) -> None:
        name, self._device = find_device(context.accelerator)
        num_threads = check_threads(compute_threads)
        precision = context.accelerator.precision
        require(
            precision in PRECISIONS,
            "accelerator.precision",
            precision,
            allowed=", ".join(PRECISIONS),
            cure="Use accelerator.precision=32.",
        )
        self._computes_in = PRECISIONS[precision]
        self._dtype = np.dtype("float64" if precision == "64" else "float32")
        self._identity = {"backend.device": name, "backend.compute_threads": num_threads if name == "cpu" else None}
        model = context.new_model()
        if not isinstance(model, JaxModel):
            raise SettingError(
                "task.models.jax",
                type(model).__name__,
                allowed="a subclass of dataecho_jax.model.JaxModel",
                cure="Give the model `init`, `losses` and `outputs`.",
            )
        self._model, self._optimizer = model, context.optimizer
        with jax.enable_x64(False), jax.default_device(self._device):  # in 64 bit the same numbers as in 32
            drawn = model.init(_key(KeyStream(context.seed, "backend.jax"), 0))
        with self._settings():
            parameters, buffers = ({name: self._weight(np.asarray(v)) for name, v in part.items()} for part in drawn)
            slots = jax.device_put(new_slots(context.optimizer, parameters), self._device)
            self._state = _State(parameters, buffers, slots, self._weight(np.zeros((), self._dtype)))
        self._seed_noise(context.seed)
        self._num_losses, self._num_steps = 0, 0

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    @property
    def versions(self) -> dict[str, str]:
        return {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__}

    @property
    def ranks(self) -> Ranks:
        return OneRank()

    @property
    def keeps_host_arrays(self) -> bool:
        return False

    def put(self, batch: Batch) -> _Placed:
        with self._settings():
            fields = {name: self._field(name, values) for name, values in batch.arrays.items()}
            return _Placed(fields, _copied(batch.weights, self._device))

    def train_step(self, placed: _Placed, *, learning_rate: float) -> None:
        with self._settings():
            key = _key(self._noise, self._num_steps)
            self._num_steps += 1
            numbers = scalars(self._optimizer, learning_rate=learning_rate, step=self._num_steps)
            self._state = _trained(
                self._state,
                placed.fields,
                placed.weights,
                key,
                {name: self._dtype.type(number) for name, number in numbers.items()},
                model=self._model,
                optimizer=self._optimizer,
                computes_in=self._computes_in,
            )
        self._num_losses += 1
        if self._device.platform == "cpu":  # or the loop's clock would count computing as waiting for input
            self.synchronize()

    def take_loss(self) -> float:
        if not self._num_losses:
            return float("nan")
        mean = float(self._state.loss_sum) / self._num_losses
        self._state = self._state._replace(loss_sum=self._weight(np.zeros((), self._dtype)))
        self._num_losses = 0
        return mean

    def eval_step(self, placed: _Placed) -> dict[str, NDArray[Any]]:
        parameters, buffers = self._state.parameters, self._state.buffers
        with self._settings():
            outputs = _outputs(parameters, buffers, placed.fields, model=self._model, computes_in=self._computes_in)
        return {name: np.array(values, dtype=self._dtype) for name, values in outputs.items()}

    def synchronize(self) -> None:
        jax.block_until_ready(self._state)  # type: ignore[no-untyped-call]

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {f"{MODEL}{name}": values for name, values in self.weights().items()}
        for slot, tensors in self._state.slots.items():
            arrays |= {f"optimizer/{name}/{slot}": np.array(values) for name, values in tensors.items()}
        arrays["rank/loss_sum"] = np.array(self._state.loss_sum).reshape(1)
        return arrays, {
            "noise_seed": self._noise_seed,
            "num_losses": self._num_losses,
            "num_steps": self._num_steps,
        }

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.load_weights({name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)})
        slots = {
            slot: {name: self._weight(arrays[f"optimizer/{name}/{slot}"]) for name in tensors}
            for slot, tensors in self._state.slots.items()
        }
        self._state = self._state._replace(slots=slots, loss_sum=self._weight(arrays["rank/loss_sum"].reshape(())))
        self._seed_noise(values["noise_seed"])
        self._num_losses, self._num_steps = values["num_losses"], values["num_steps"]

    def weights(self) -> Arrays:
        return {name: np.array(values) for name, values in {**self._state.parameters, **self._state.buffers}.items()}

    def load_weights(self, weights: Arrays) -> None:
        mine = {name: values.shape for name, values in self.weights().items()}
        theirs = {name: tuple(array.shape) for name, array in weights.items()}
        different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if different:
            name = different[0]
            raise SettingError(
                f"weights {name}",
                f"shape {theirs[name]}" if name in theirs else "missing",
                allowed=f"shape {mine[name]}" if name in mine else "the names of this model's weights",
                cure="Load weights into the model that they were saved from.",
            )
        parameters, buffers = (
            {name: self._weight(weights[name]) for name in part}
            for part in (self._state.parameters, self._state.buffers)
        )
        self._state = self._state._replace(parameters=parameters, buffers=buffers)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Of this thread and for as long as it computes: other backends and the user's own JAX have theirs. "32" means
        32 bit, also where the device would rather multiply in fewer."""
        with jax.enable_x64(self._dtype == np.float64), jax.default_matmul_precision("highest"):
            yield

    def _seed_noise(self, seed: int) -> None:
        self._noise_seed, self._noise = seed, KeyStream(seed, "backend.jax.noise")

    def _weight(self, values: NDArray[Any]) -> jax.Array:
        """A copy of weights on the device, reals in the precision of weights."""
        with self._settings():
            dtype = self._dtype if values.dtype.kind == "f" else values.dtype
            return _copied(values.astype(dtype, copy=False), self._device)

    def _field(self, name: str, values: NDArray[Any]) -> jax.Array:
        """A copy of a batch's field on the device; JAX has 64-bit numbers with 64-bit precision only."""
        dtype = jax.dtypes.canonicalize_dtype(values.dtype)
        if dtype != values.dtype and values.dtype.kind in "iu":
            limits = np.iinfo(dtype)
            require(
                values.min(initial=0) >= limits.min and values.max(initial=0) <= limits.max,
                "accelerator.precision",
                "bf16" if self._computes_in == "bfloat16" else "32",
                allowed=f"64 with field {name!r}, which has numbers of more than 32 bits",
                cure="Use accelerator.precision=64, or smaller numbers.",
            )
        return _copied(values.astype(dtype, copy=False), self._device)


@partial(jax.jit, static_argnames=("model", "optimizer", "computes_in"), donate_argnames="state")
def _trained(
    state: _State,
    fields: Tensors,
    weights: jax.Array,
    key: jax.Array,
    numbers: Tensors,
    *,
    model: JaxModel,
    optimizer: OptimizerSettings,
    computes_in: str,
) -> _State:
    """The state after one step; the old one's memory is used again."""
    dtype = state.loss_sum.dtype

    def mean_loss(parameters: Tensors) -> tuple[jax.Array, Tensors]:
        losses, buffers = model.losses(_cast(parameters, computes_in), state.buffers, _cast(fields, computes_in), key)
        return jnp.dot(losses.astype(dtype), weights.astype(dtype)) / weights.sum().astype(dtype), buffers

    (loss, buffers), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.parameters)
    parameters, slots = update(optimizer, state.parameters, gradients, state.slots, numbers)
    # A statistic of bf16 activations stays a 32-bit one.
    buffers = {name: values.astype(state.buffers[name].dtype) for name, values in buffers.items()}
    return _State(parameters, buffers, slots, state.loss_sum + loss)


@partial(jax.jit, static_argnames=("model", "computes_in"))
def _outputs(parameters: Tensors, buffers: Tensors, fields: Tensors, *, model: JaxModel, computes_in: str) -> Tensors:
    return model.outputs(_cast(parameters, computes_in), buffers, _cast(fields, computes_in))


def _cast(tensors: Tensors, dtype: str) -> Tensors:
    return {
        name: values.astype(dtype) if jnp.issubdtype(values.dtype, jnp.floating) else values
        for name, values in tensors.items()
    }


def _copied(values: NDArray[Any], device: jax.Device) -> jax.Array:
    # JAX may read its argument later, and on a CPU use it as its own memory, so it gets a copy.
    return jax.device_put(np.array(values), device)


def _key(stream: KeyStream, number: int) -> jax.Array:
    """A key of JAX from a 64-bit key: what is drawn is a function of seed and step and needs no state."""
    bits = stream.key(number)
    return jax.random.wrap_key_data(jnp.array([bits >> 32, bits & 0xFFFFFFFF], np.uint32), impl="threefry2x32")

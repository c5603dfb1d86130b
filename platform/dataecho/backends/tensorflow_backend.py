"""The TensorFlow backend: CPU, CUDA, MPS and TPU; 64 and 32 bit and bf16; one device or several; exact resume."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.backends.same_shapes import require_same_shapes
from dataecho.backends.tensorflow_devices import (
    device_name,
    new_strategy,
    num_threads,
    set_deterministic,
    set_threads,
)
from dataecho.backends.tensorflow_model import TensorflowModel
from dataecho.backends.tensorflow_optimizers import Update
from dataecho.backends.tensorflow_ranks import lost_ranks_detected, ranks_of
from dataecho.backends.tensorflow_start import keras, tf
from dataecho.backends.tensorflow_weights import named_weights
from dataecho.errors import SettingError, require
from dataecho.pipeline.batch import Batch
from dataecho.plan.keys import KeyStream
from dataecho.training.contracts import MODEL, Arrays, Backend, BackendContext
from dataecho.training.ranks import Ranks

PRECISIONS = {"32": "float32", "bf16": "mixed_bfloat16", "64": "float64"}
_NOISE = "backend.tensorflow.noise"

# A tensor, or one per device: arguments and results of `strategy.run`.
_Tensor = Any
_Fields = dict[str, _Tensor]


#: Name, shape and type of every field of a batch.
_Layout = tuple[tuple[str, tuple[int, ...], np.dtype], ...]


@dataclass(frozen=True)
class _Placed:
    fields: _Fields
    weights: _Tensor
    layout: _Layout


class _Graph:
    """A Python function as a graph, traced once for every layout of the batches that it is called with.

    A ``tf.function`` looks for the trace that fits at every call, and a trace converts and checks every argument.
    ``directly`` calls the operation that runs the graph without either, which gives the same bits. A step of
    ``task=digits`` on one CPU thread takes 1.93 ms so, 2.18 ms by its trace and 2.46 ms by its ``tf.function`` (medians
    of 40 rounds of 40 steps, in turns): a fifth of the step for the seven lines of :func:`_run`. Used with one CPU
    device only, where it was tried.
    """

    def __init__(self, python_function: Callable[..., Any], *, directly: bool) -> None:
        self._function, self._directly = _function(python_function), directly
        self._traced: dict[_Layout, Callable[..., Any]] = {}

    def __call__(self, placed: _Placed, *tensors: _Tensor) -> Any:
        arguments = (placed.fields, placed.weights, *tensors)
        if placed.layout not in self._traced:
            trace = self._function.get_concrete_function(*arguments)
            self._traced[placed.layout] = partial(_run, trace) if self._directly else trace
        return self._traced[placed.layout](*arguments)


def _run(trace: Any, *arguments: Any) -> Any:
    outputs = tf.raw_ops.StatefulPartitionedCall(
        args=[*tf.nest.flatten(arguments), *trace.captured_inputs],
        Tout=[output.dtype for output in trace.outputs],
        f=trace,
    )
    return tf.nest.pack_sequence_as(trace.structured_outputs, outputs)


class TensorflowBackend(Backend):
    """``jit_compile``: compile loss and gradients with XLA; ``deterministic``: only deterministic algorithms;
    ``compute_threads``: CPU threads of this process, None for TensorFlow's default; ``timeout``: seconds that the
    processes in ``TF_CONFIG`` wait for each other.

    With ``accelerator.devices`` above 1, every device has the whole model and an equal share of each batch, in
    consecutive rows. Raises :class:`SettingError` for a device or precision that is not available.
    """

    def __init__(
        self,
        context: BackendContext,
        *,
        jit_compile: bool = False,
        deterministic: bool = False,
        compute_threads: int | None = None,
        timeout: float = 600.0,
    ) -> None:
        require(timeout > 0, "backend.timeout", timeout, allowed="seconds > 0", cure="600 is the default.")
        accelerator = context.accelerator
        device = device_name(accelerator.name)
        _check(accelerator.precision, device)
        set_threads(compute_threads)
        set_deterministic(deterministic)
        self._strategy = new_strategy(device, accelerator, timeout=timeout)
        self._ranks = ranks_of(self._strategy)
        self._devices = list(self._strategy.extended.worker_devices)
        self._dtype = tf.float64 if accelerator.precision == "64" else tf.float32
        with self._strategy.scope(), _policy(PRECISIONS[accelerator.precision]), _seeded(context.seed):
            self._model = _checked(context.new_model())
        self._weights = named_weights(self._model, self._model.special_weights())
        trainable = {id(variable) for variable in self._model.trainable_variables}
        self._trained = {
            name: weight.variable for name, weight in self._weights.items() if id(weight.variable) in trainable
        }
        self._statistics = {
            name: weight.variable for name, weight in self._weights.items() if name not in self._trained
        }
        self._generators = [variable for variable in self._model.variables if _is_generator(variable)]
        self._update = Update(context.optimizer)
        with self._strategy.scope():
            self._slots = {
                name: {
                    slot: tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False, name=slot)
                    for slot in self._update.slots
                }
                for name, variable in self._trained.items()
            }
        self._identity = {
            "backend.device": device,
            "backend.compute_threads": num_threads() if device == "cpu" else None,
        }
        self._gradients = (
            _function(self._loss_and_gradients, jit_compile=True) if jit_compile else (self._loss_and_gradients)
        )
        directly = device == "cpu" and self._strategy.num_replicas_in_sync == 1
        self._train = _Graph(self._train_everywhere, directly=directly)
        self._evaluate = _Graph(self._evaluate_everywhere, directly=directly)
        self._loss_sum = _zero()
        self._num_losses = 0
        self._noise_seed, self._num_steps = context.seed, 0
        self._noise = KeyStream(self._noise_seed, _NOISE)
        self._no_seeds = tf.zeros((self._strategy.num_replicas_in_sync, 0, 2), tf.int64)

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    @property
    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__, "keras": keras.__version__}

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    @property
    def keeps_host_arrays(self) -> bool:
        return False  # TensorFlow copies into its own memory, also on the CPU

    def put(self, batch: Batch) -> _Placed:
        fields = {name: self._place(values) for name, values in batch.arrays.items()}
        layout = tuple((name, values.shape, values.dtype) for name, values in batch.arrays.items())
        return _Placed(fields, self._place(batch.weights), layout)

    def train_step(self, placed: _Placed, *, learning_rate: float) -> None:
        self._num_steps += 1
        scalars = np.array([learning_rate, self._num_steps], dtype=np.float64)
        with lost_ranks_detected(self._ranks):
            self._loss_sum = self._train(placed, tf.constant(scalars), self._seeds(), self._loss_sum)
        self._num_losses += 1

    def take_loss(self) -> float:
        if not self._num_losses:
            return float("nan")
        mean = float(self._loss_sum) / self._num_losses
        self._loss_sum = _zero()
        self._num_losses = 0
        return mean

    def eval_step(self, placed: _Placed) -> dict[str, NDArray[Any]]:
        outputs = self._evaluate(placed)
        return {name: _all_rows(self._strategy, values) for name, values in outputs.items()}

    def synchronize(self) -> None:
        if self._identity["backend.device"] != "cpu":
            tf.test.experimental.sync_devices()

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {f"{MODEL}{name}": values for name, values in self.weights().items()}
        arrays["rank/loss_sum"] = np.array([float(self._loss_sum)])
        for name, slots in self._slots.items():
            for slot, variable in slots.items():
                arrays[f"optimizer/{name}/{slot}"] = self._weights[name].to_neutral(variable.numpy())
        values = {"num_losses": self._num_losses, "num_steps": self._num_steps, "noise_seed": self._noise_seed}
        return arrays, values

    def load_state(self, arrays: Arrays, values: dict[str, Any]) -> None:
        self.load_weights({name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)})
        for name, slots in self._slots.items():
            for slot, variable in slots.items():
                variable.assign(self._weights[name].from_neutral(arrays[f"optimizer/{name}/{slot}"]))
        self._loss_sum = tf.constant(arrays["rank/loss_sum"][0], tf.float64)
        self._num_losses, self._num_steps = values["num_losses"], values["num_steps"]
        self._noise_seed = values["noise_seed"]
        self._noise = KeyStream(self._noise_seed, _NOISE)

    def weights(self) -> Arrays:
        return {name: weight.to_neutral(weight.variable.numpy()) for name, weight in self._weights.items()}

    def load_weights(self, weights: Arrays) -> None:
        require_same_shapes(
            {name: tuple(array.shape) for name, array in weights.items()},
            {name: weight.neutral_shape for name, weight in self._weights.items()},
        )
        for name, weight in self._weights.items():
            weight.variable.assign(weight.from_neutral(weights[name]))

    # ---- in TensorFlow's graphs

    def _train_everywhere(
        self, fields: _Fields, weights: _Tensor, scalars: tf.Tensor, seeds: tf.Tensor, loss_sum: tf.Tensor
    ) -> tf.Tensor:
        """One step on all devices; returns ``loss_sum`` plus the loss of this step."""
        loss, gradients, statistics = self._strategy.run(self._one_of_all, args=(fields, weights, seeds))
        rate, num_steps = tf.unstack(scalars)
        for name, gradient in gradients.items():
            slots = [self._slots[name][slot] for slot in self._update.slots]
            self._everywhere(self._trained[name], self._updated, gradient, rate, num_steps, *slots)
        for name, values in statistics.items():
            self._everywhere(self._statistics[name], lambda variable, value: variable.assign(value), values)
        return loss_sum + tf.cast(self._strategy.experimental_local_results(loss)[0], loss_sum.dtype)

    def _one_of_all(
        self, fields: _Fields, weights: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """On each device: the mean loss, its gradients and the running statistics, over the rows of all devices."""
        context = tf.distribute.get_replica_context()
        summed, gradients, statistics = self._gradients(fields, weights, seeds[context.replica_id_in_sync_group])
        # Divide before the sum: TensorFlow would merge a sum of sums into a sum of three terms, whose order, and last
        # bit, depends on which device finishes first.
        count = context.num_replicas_in_sync
        averaged = {name: value / count for name, value in statistics.items() if value.dtype == self._dtype}
        summed, gradients, averaged = context.all_reduce(tf.distribute.ReduceOp.SUM, (summed, gradients, averaged))
        loss, total = tf.unstack(summed)
        gradients = {name: gradient / total for name, gradient in gradients.items()}
        return loss / total, gradients, {**statistics, **averaged}

    def _loss_and_gradients(
        self, fields: _Fields, weights: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """For the rows of one device: [sum of weight times loss, sum of weights], the gradients of the first, and the
        running statistics after the step. Changes nothing."""
        weights = tf.cast(weights, self._dtype)
        with keras.StatelessScope(list(zip(self._generators, tf.unstack(seeds), strict=True))) as scope:
            with tf.GradientTape() as tape:
                losses = tf.cast(self._model.losses(self._cast(fields), training=True), self._dtype)
                loss = tf.tensordot(losses, weights, 1)
        gradients = tape.gradient(loss, {name: variable.value for name, variable in self._trained.items()})
        statistics = {name: scope.get_current_value(variable) for name, variable in self._statistics.items()}
        return (
            tf.stack([loss, tf.reduce_sum(weights)]),
            # The gradient of an embedding is a list of rows; a weight without a gradient is not updated.
            {name: tf.convert_to_tensor(values) for name, values in gradients.items() if values is not None},
            {name: values for name, values in statistics.items() if values is not None},
        )

    def _updated(
        self, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, num_steps: tf.Tensor, *slots: tf.Variable
    ) -> None:
        by_name = dict(zip(self._update.slots, slots, strict=True))
        self._update.apply(variable, gradient, by_name, rate=rate, num_steps=num_steps)

    def _everywhere(self, variable: keras.Variable, change: Callable[..., Any], *values: _Tensor) -> None:
        """Apply ``change`` to the copy of ``variable`` on each device."""
        self._strategy.extended.update(variable.value, change, args=values)

    def _evaluate_everywhere(self, fields: _Fields, weights: _Tensor) -> dict[str, _Tensor]:
        return self._strategy.run(self._outputs, args=(fields,))

    def _outputs(self, fields: _Fields) -> dict[str, tf.Tensor]:
        with keras.StatelessScope():  # layers must change no variable
            outputs = self._model.outputs(self._cast(fields))
        return self._cast(outputs)

    def _cast(self, fields: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Cast floating-point fields to the precision of the weights."""
        return {
            name: tf.cast(values, self._dtype) if values.dtype.is_floating else values
            for name, values in fields.items()
        }

    # ---- between host and devices

    def _place(self, values: NDArray[Any]) -> _Tensor:
        """Distribute rows over the devices, in order and in equal shares."""
        count = len(self._devices)
        require(
            len(values) % count == 0,
            "accelerator.devices",
            count,
            allowed=f"divisors of {len(values)}, the rows of a batch",
            cure="Use another number of devices, or another task.batch_size and task.eval_batch_size.",
        )
        size = len(values) // count

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            number = context.replica_id_in_sync_group % count
            with tf.device(self._devices[number]):
                return tf.constant(values[number * size : (number + 1) * size])

        return self._strategy.experimental_distribute_values_from_function(part)

    def _seeds(self) -> tf.Tensor:
        """Seeds of dropout, [devices, layers, 2]: a function of seed, step, device and layer, so that no state is
        needed and no other run interferes."""
        devices, layers = self._strategy.num_replicas_in_sync, len(self._generators)
        if not layers:
            return self._no_seeds
        keys = self._noise.keys(self._num_steps, np.arange(devices)[:, None], np.arange(layers))
        return tf.constant(keys.view(np.uint32).reshape(devices, layers, 2).astype(np.int64))


def _checked(model: Any) -> TensorflowModel:
    if not isinstance(model, TensorflowModel):
        raise SettingError(
            "task.models.tensorflow",
            type(model).__name__,
            allowed="a subclass of dataecho.backends.tensorflow_model.TensorflowModel",
            cure="Give the model `losses` and `outputs`.",
        )
    for variable in model.trainable_variables:
        require(
            variable.regularizer is None,
            "task.models.tensorflow",
            type(model).__name__,
            allowed="a model without regularizers",
            cure=f"{variable.path} has one: use optimizer.weight_decay, or add it to `losses`.",
        )
    return model


def _check(precision: str, device: str) -> None:
    require(
        precision in PRECISIONS,
        "accelerator.precision",
        precision,
        allowed=", ".join(PRECISIONS),
        cure="Use accelerator.precision=32.",
    )
    require(
        precision != "64" or device != "mps",
        "accelerator.precision",
        precision,
        allowed="32, bf16 with accelerator=mps, which has no 64-bit numbers",
        cure="Use accelerator.precision=32, or accelerator=cpu.",
    )


def _is_generator(variable: keras.Variable) -> bool:
    return variable.name == "seed_generator_state"


def _function(python_function: Callable[..., Any], *, jit_compile: bool = False) -> Any:
    # TensorFlow counts traces by function and warns of the fifth: a partial is a new function for each backend.
    return tf.function(partial(python_function), jit_compile=jit_compile or None, autograph=False)


def _zero() -> tf.Tensor:
    return tf.constant(0.0, tf.float64)


def _all_rows(strategy: tf.distribute.Strategy, values: _Tensor) -> NDArray[Any]:
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(values)])


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Inside, new layers compute and keep their weights with the dtype policy ``name``."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Keras draws missing seeds of initialisers from Python's generator: inside, they are a function of ``seed``.
    Afterwards the generator has its earlier state."""
    before = random.getstate()
    random.seed(KeyStream(seed, "backend.tensorflow").key(0))
    try:
        yield
    finally:
        random.setstate(before)

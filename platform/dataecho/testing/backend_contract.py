"""The contract suite of backends. Subclass :class:`BackendContract` in a test file; pytest does the rest.

class TestMyBackend(BackendContract):
    @pytest.fixture
    def new_backend(self):
        return MyBackend

    @pytest.fixture
    def linear_model(self):
        return MyLinear

    @pytest.fixture
    def noisy_model(self):
        return MyNoisy

    @pytest.fixture
    def fetch(self):
        return lambda placed: (to_numpy(placed.fields), to_numpy(placed.weights))
"""

from __future__ import annotations

import abc
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from dataecho.errors import SettingError
from dataecho.pipeline.batch import Batch, new_arrays
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource
from dataecho.training.contracts import (
    MODEL,
    AcceleratorSettings,
    Arrays,
    Backend,
    BackendContext,
    OptimizerSettings,
)

NewBackend = Callable[[BackendContext], Backend]
NewModel = Callable[[], Any]
Fetch = Callable[[Any], tuple[Arrays, NDArray[Any]]]
Make = Callable[..., Backend]

NESTEROV = OptimizerSettings(name="nesterov", learning_rate=9.0)
OPTIMIZERS = {
    "nesterov": NESTEROV,
    "nesterov-decay": OptimizerSettings(name="nesterov", learning_rate=9.0, momentum=0.7, weight_decay=0.1),
    "momentum": OptimizerSettings(name="momentum", learning_rate=9.0),
    "momentum-decay": OptimizerSettings(name="momentum", learning_rate=9.0, momentum=0.7, weight_decay=0.1),
    "plain": OptimizerSettings(name="momentum", learning_rate=9.0, momentum=0.0),
    "adamw": OptimizerSettings(name="adamw", learning_rate=9.0),
    "adamw-decay": OptimizerSettings(
        name="adamw", learning_rate=9.0, momentum=0.7, beta_2=0.9, epsilon=0.1, weight_decay=0.1
    ),
}
#: Of every step; never 9.0, for the rate that counts is the one given to the step.
RATES = (0.05, 0.02, 0.08, 0.01, 0.05)

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


class BackendContract(abc.ABC):
    """A backend trains by the stated formulas on rows of weight 1 only, evaluates without a trace, and continues from
    its state as if it had never stopped."""

    @pytest.fixture
    @abc.abstractmethod
    def new_backend(self) -> NewBackend:
        """A function (the class itself will do) that makes a backend of a context."""

    @pytest.fixture
    @abc.abstractmethod
    def linear_model(self) -> NewModel:
        """A function that makes a model of fields ``x`` [b, 3] and ``y`` [b], both float32, with exactly two weights,
        one of 3 numbers and one of 1: prediction = x . weight + bias, loss of a row = (prediction - y)^2, outputs
        ``{"loss": [b]}``. It may be drawn at random."""

    @pytest.fixture
    @abc.abstractmethod
    def noisy_model(self) -> NewModel:
        """The same with other weights, drawn at random, and with dropout while it trains; a running statistic, such as
        batch normalisation has, if the framework knows such a thing."""

    @pytest.fixture
    @abc.abstractmethod
    def fetch(self) -> Fetch:
        """A function from what :meth:`Backend.put` returns to the fields and the weights on it, as numpy arrays."""

    @pytest.fixture
    def accelerator(self) -> AcceleratorSettings:
        """Where to compute, in 32 bit. Parametrise it over the devices that are there."""
        return AcceleratorSettings(name="cpu")

    @pytest.fixture
    def make(self, new_backend: NewBackend, accelerator: AcceleratorSettings) -> Make:
        """``make(new_model, optimizer=..., seed=...)``: a backend."""

        def make(new_model: NewModel, *, optimizer: OptimizerSettings = NESTEROV, seed: int = 0) -> Backend:
            context = BackendContext(new_model=new_model, optimizer=optimizer, accelerator=accelerator, seed=seed)
            return new_backend(context)

        return make

    # ---- batches

    def test_put_keeps_values_types_and_weights(self, make: Make, linear_model: NewModel, fetch: Fetch) -> None:
        backend = make(linear_model)
        arrays = {
            "bytes": np.arange(250, 256, dtype=np.uint8).reshape(6, 1),
            "counts": np.arange(-3, 3, dtype=np.int32),
            "flags": np.arange(6) % 2 == 0,
            "reals": np.linspace(-1e-30, 1e30, 24, dtype=np.float32).reshape(6, 2, 2),
        }
        batch = _batch({**arrays, "labels": np.arange(6, dtype=np.int64)}, size=8)
        fields, weights = fetch(backend.put(batch))
        assert fields.keys() == batch.arrays.keys()
        for name in arrays:
            assert fields[name].dtype == arrays[name].dtype, name
        assert fields["labels"].dtype.kind == "i"  # a framework without 64-bit numbers may narrow them
        for name, values in fields.items():
            np.testing.assert_array_equal(values, batch[name], err_msg=name)
        assert weights.dtype == np.float32
        assert weights.tolist() == [1, 1, 1, 1, 1, 1, 0, 0]

    def test_views_train_as_copies_do(self, make: Make, linear_model: NewModel, fetch: Fetch) -> None:
        copies = _linear_batch()
        wide = {name: np.repeat(values[:, None], 3, axis=1) for name, values in copies.arrays.items()}
        views = Batch({name: values[:, 1] for name, values in wide.items()}, copies.weights, copies.planned)
        assert not any(values.flags.c_contiguous for values in views.arrays.values())
        fields, _ = fetch(make(linear_model).put(views))
        for name, values in fields.items():
            assert values.flags.c_contiguous, f"{name}: the last bits of a result can depend on where its rows lie"
        _assert_same(_one_step(make(linear_model), views), _one_step(make(linear_model), copies))

    def test_it_says_truly_whether_it_keeps_the_host_arrays(self, make: Make, linear_model: NewModel) -> None:
        expected = _one_step(make(linear_model), _linear_batch())
        for name in ("x", "y"):
            backend, batch = make(linear_model), _aligned(_linear_batch())
            placed = backend.put(batch)
            batch[name][...] = 0
            backend.train_step(placed, learning_rate=0.1)
            unchanged = _same(backend.weights(), expected)
            # To say yes without need is wrong too: the feed would hold back its arrays for nothing.
            assert unchanged == (not backend.keeps_host_arrays), name
        backend, batch = make(linear_model), _linear_batch()
        placed = backend.put(batch)
        batch.weights[...] = np.arange(len(batch)) == 0
        backend.train_step(placed, learning_rate=0.1)
        assert backend.keeps_host_arrays or _same(backend.weights(), expected)

    def test_the_host_arrays_are_free_after_a_step_and_synchronize(self, make: Make, linear_model: NewModel) -> None:
        expected = _one_step(make(linear_model), _linear_batch(num_rows=4096))
        backend, batch = make(linear_model), _linear_batch(num_rows=4096)
        backend.train_step(backend.put(batch), learning_rate=0.1)
        backend.synchronize()
        for values in (*batch.arrays.values(), batch.weights):
            values[...] = np.nan
        _assert_same(backend.weights(), expected)

    # ---- steps

    @every_optimizer
    def test_steps_lower_the_loss_on_a_fixed_batch(
        self, make: Make, linear_model: NewModel, optimizer: OptimizerSettings
    ) -> None:
        backend, batch = make(linear_model, optimizer=optimizer), _linear_batch()
        # From weights of 0: whether 20 steps suffice must not depend on how the model was drawn.
        backend.load_weights({name: np.zeros_like(values) for name, values in backend.weights().items()})
        placed = backend.put(batch)
        losses = []
        for _ in range(20):
            backend.train_step(placed, learning_rate=0.02)
            losses.append(backend.take_loss())
        assert losses[-1] < 0.8 * losses[0]

    @every_optimizer
    def test_every_step_is_the_formula_computed_in_float64(
        self, make: Make, linear_model: NewModel, optimizer: OptimizerSettings
    ) -> None:
        backend = make(linear_model, optimizer=optimizer)
        weights, bias = _linear_names(backend)
        before = backend.weights()
        reference = _Reference(optimizer, np.concatenate([before[weights].ravel(), before[bias].ravel()]))
        for number, rate in enumerate(RATES):
            batch = _linear_batch(seed=number, num_rows=6 + number, size=10)  # the last one is full
            backend.train_step(backend.put(batch), learning_rate=rate)
            assert backend.take_loss() == pytest.approx(reference.step(batch, rate), rel=1e-5)
            after = backend.weights()
            computed = np.concatenate([after[weights].ravel(), after[bias].ravel()])
            np.testing.assert_allclose(computed, reference.parameters, rtol=2e-5, atol=2e-6, err_msg=f"step {number}")

    @every_optimizer
    def test_a_learning_rate_of_0_changes_no_weight(
        self, make: Make, linear_model: NewModel, optimizer: OptimizerSettings
    ) -> None:
        backend, batch = make(linear_model, optimizer=optimizer), _linear_batch()
        for rate in (0.1, 0.0):
            before = backend.weights()
            backend.train_step(backend.put(batch), learning_rate=rate)
            assert _same(backend.weights(), before) == (rate == 0)

    def test_rows_of_weight_0_change_nothing(self, make: Make, linear_model: NewModel) -> None:
        padded, wild = _linear_batch(num_rows=5, size=8), _linear_batch(num_rows=5, size=8)
        assert padded.weights.tolist() == wild.weights.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
        wild["x"][5:], wild["y"][5:] = 1e3, -1e3
        expected = _one_step(make(linear_model), padded)
        _assert_same(_one_step(make(linear_model), wild), expected)
        unpadded = _one_step(make(linear_model), _linear_batch(num_rows=5))
        for name, values in expected.items():
            np.testing.assert_allclose(unpadded[name], values, rtol=1e-5, atol=1e-6)

    def test_batches_that_wait_on_the_device_count_as_they_were_made(self, make: Make, linear_model: NewModel) -> None:
        shapes = [(6, 6), (4, 4), (5, 6), (6, 6), (4, 6), (4, 4)]  # rows that count, and all
        given = [_linear_batch(seed=seed, num_rows=rows, size=size) for seed, (rows, size) in enumerate(shapes)]
        backend, at_once = make(linear_model), make(linear_model)
        waiting = [backend.put(batch) for batch in given]
        for placed, batch in zip(waiting, given, strict=True):
            backend.train_step(placed, learning_rate=0.1)
            _assert_same(backend.weights(), _one_step(at_once, batch))

    # ---- losses

    def test_take_loss_is_the_mean_since_the_last_call_and_resets(self, make: Make, linear_model: NewModel) -> None:
        backend = make(linear_model)
        assert math.isnan(backend.take_loss())
        losses = []
        for number in range(3):
            backend.train_step(backend.put(_linear_batch(seed=number)), learning_rate=0.0)
            losses.append(backend.take_loss())
        assert len(set(losses)) == 3
        for number in range(3):
            backend.train_step(backend.put(_linear_batch(seed=number)), learning_rate=0.0)
        assert backend.take_loss() == pytest.approx(sum(losses) / 3, rel=1e-6)
        assert math.isnan(backend.take_loss())

    # ---- evaluation

    def test_evaluation_gives_one_row_for_every_row(self, make: Make, linear_model: NewModel) -> None:
        backend, batch = make(linear_model), _linear_batch(num_rows=5, size=8)
        names = _linear_names(backend)
        outputs = backend.eval_step(backend.put(batch))
        values = np.concatenate([backend.weights()[name].ravel() for name in names]).astype(np.float64)
        expected = (_inputs(batch) @ values - batch["y"]) ** 2
        np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-5)
        assert all(isinstance(rows, np.ndarray) and len(rows) == 8 for rows in outputs.values())

    def test_evaluation_leaves_no_trace(self, make: Make, noisy_model: NewModel) -> None:
        evaluated = make(noisy_model)
        start = _stored(evaluated)
        for number, rate in enumerate(RATES):
            batch = _linear_batch(seed=number)
            evaluated.train_step(evaluated.put(batch), learning_rate=rate)
            before = _stored(evaluated)
            first, second = (evaluated.eval_step(evaluated.put(_linear_batch(seed=9))) for _ in range(2))
            assert _same(first, second)  # hence no dropout
            _assert_same_state(_stored(evaluated), before)
        seen, loss = _seen(evaluated), evaluated.take_loss()
        other = make(noisy_model)
        other.load_state(*start)
        _assert_continues(other, first_step=0, expected={len(RATES) - 1: seen}, loss=loss)

    # ---- randomness

    def test_training_has_noise(self, make: Make, noisy_model: NewModel) -> None:
        backend = make(noisy_model)
        losses = []
        for _ in range(8):
            backend.train_step(backend.put(_linear_batch()), learning_rate=0.0)
            losses.append(backend.take_loss())
        assert len(set(losses)) > 1, "without dropout the tests of resumption prove less than they say"

    def test_a_seed_decides_on_the_weights_and_on_nothing_else_does(self, make: Make, noisy_model: NewModel) -> None:
        first = {seed: make(noisy_model, seed=seed).weights() for seed in (0, 1, 2**40)}
        busy = make(noisy_model, seed=5)
        busy.train_step(busy.put(_linear_batch()), learning_rate=0.1)
        random.random()
        np.random.random()
        for seed, weights in first.items():
            _assert_same(make(noisy_model, seed=seed).weights(), weights)
            assert not any(_same(weights, others) for other, others in first.items() if other != seed)

    def test_a_seed_decides_on_the_noise(self, make: Make, noisy_model: NewModel) -> None:
        weights, runs = make(noisy_model).weights(), {}
        for attempt, seed in [(0, 0), (1, 0), (0, 1)]:
            backend = make(noisy_model, seed=seed)
            backend.load_weights(weights)
            for rate in RATES:
                backend.train_step(backend.put(_linear_batch()), learning_rate=rate)
            runs[attempt, seed] = backend.weights()
        _assert_same(runs[0, 0], runs[1, 0])
        assert not _same(runs[0, 0], runs[0, 1])

    # ---- state

    @every_optimizer
    def test_a_state_resumes_bit_exactly_at_every_step(
        self, make: Make, noisy_model: NewModel, optimizer: OptimizerSettings
    ) -> None:
        unbroken, states, seen = make(noisy_model, optimizer=optimizer, seed=1), [], {}
        for number, rate in enumerate(RATES):
            states.append(unbroken.state())
            unbroken.train_step(unbroken.put(_linear_batch(seed=number)), learning_rate=rate)
            seen[number] = _seen(unbroken)
        loss = unbroken.take_loss()
        for number, state in enumerate(states):
            resumed = make(noisy_model, optimizer=optimizer, seed=2)
            for _ in range(2):  # all that it did before is forgotten
                resumed.train_step(resumed.put(_linear_batch(seed=9)), learning_rate=0.1)
            stored = _round_trip(state)
            resumed.load_state(*stored)
            _assert_same_state(resumed.state(), stored)
            _assert_continues(resumed, first_step=number, expected=seen, loss=loss)
            _assert_same_state(stored, _round_trip(state))  # what was given to it was not trained on

    @every_optimizer
    def test_a_state_survives_safetensors_and_json(
        self, make: Make, noisy_model: NewModel, optimizer: OptimizerSettings
    ) -> None:
        backend = make(noisy_model, optimizer=optimizer)
        for _ in range(3):
            arrays, values = backend.state()
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
            _assert_same_state(_round_trip((arrays, values)), (arrays, values))
            backend.train_step(backend.put(_linear_batch()), learning_rate=0.1)

    # ---- weights

    def test_the_weights_in_a_state_are_all_the_weights(self, make: Make, noisy_model: NewModel) -> None:
        backend = make(noisy_model)
        for _ in range(2):
            arrays, _ = backend.state()
            inside = {name.removeprefix(MODEL): values for name, values in arrays.items() if name.startswith(MODEL)}
            weights = backend.weights()
            assert weights and not _differences(inside, weights), f"mode=export takes what begins with {MODEL!r}"
            backend.train_step(backend.put(_linear_batch()), learning_rate=0.1)

    def test_weights_are_copies_both_ways(self, make: Make, noisy_model: NewModel) -> None:
        source, target = make(noisy_model, seed=0), make(noisy_model, seed=1)
        source.train_step(source.put(_linear_batch()), learning_rate=0.1)
        weights = source.weights()
        assert not _same(weights, target.weights())
        target.load_weights(weights)
        _assert_same(_seen(target), _seen(source))
        for array in weights.values():
            array[...] = 7
        _assert_same(target.weights(), source.weights())
        assert not _same(target.weights(), weights)

    def test_weights_of_another_shape_are_refused_with_both_shapes(self, make: Make, noisy_model: NewModel) -> None:
        backend = make(noisy_model)
        before = backend.weights()
        for name, array in before.items():
            wrong = (*array.shape, 2)
            self._assert_refused(backend, {**before, name: np.zeros(wrong, array.dtype)}, name, array.shape, wrong)

    def test_missing_weights_are_refused_with_name_and_shape(self, make: Make, noisy_model: NewModel) -> None:
        backend = make(noisy_model)
        before = backend.weights()
        for name, array in before.items():
            some = {other: values for other, values in before.items() if other != name}
            self._assert_refused(backend, some, name, "missing", array.shape)

    def test_unknown_weights_are_refused_with_name_and_shape(self, make: Make, noisy_model: NewModel) -> None:
        backend = make(noisy_model)
        more = {**backend.weights(), "nobody.weight": np.zeros((4, 5), np.float32)}
        self._assert_refused(backend, more, "nobody.weight", (4, 5))

    def _assert_refused(self, backend: Backend, weights: Arrays, *told: Any) -> None:
        before = backend.weights()
        others = {name: array + 1 if name in before else array for name, array in weights.items()}
        with pytest.raises(SettingError) as caught:
            backend.load_weights(others)
        for what in told:
            assert str(what) in str(caught.value)
        # A refusal changes nothing, not even the weights that fit.
        _assert_same(backend.weights(), before)

    # ---- identity

    def test_the_identity_states_device_and_compute_threads(
        self, make: Make, linear_model: NewModel, accelerator: AcceleratorSettings
    ) -> None:
        identity = make(linear_model).identity
        assert identity["backend.device"] == accelerator.name
        threads = identity["backend.compute_threads"]  # None where they change no result
        assert threads is None or (isinstance(threads, int) and threads >= 1)
        assert threads is not None or accelerator.name != "cpu"
        assert make(linear_model).shares_cores == (accelerator.name == "cpu")
        assert json.loads(json.dumps(identity)) == identity == make(linear_model, seed=1).identity

    def test_nobody_can_change_the_identity(self, make: Make, linear_model: NewModel) -> None:
        backend = make(linear_model)
        backend.identity.clear()
        assert "backend.device" in backend.identity

    def test_the_versions_are_named(self, make: Make, linear_model: NewModel) -> None:
        versions = make(linear_model).versions
        assert versions
        assert all(isinstance(name, str) and name and isinstance(text, str) and text for name, text in versions.items())


class _Reference:
    """Linear regression in float64 with the update formulas that every backend shares.

    Momentum (Polyak) and Nesterov as Sutskever et al. 2013 give them, rewritten so that the rate stays outside of the
    velocity (with a changing rate this is another formula than with the rate inside); weight decay is added to the
    gradient. AdamW: Loshchilov and Hutter 2019, algorithm 2, the decay multiplied by the rate. Biases decay too.
    """

    def __init__(self, settings: OptimizerSettings, parameters: NDArray[Any]) -> None:
        self.parameters = parameters.astype(np.float64)
        self._settings = settings
        self._first, self._second = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        self._num_steps = 0

    def step(self, batch: Batch, rate: float) -> float:
        """Train; returns the loss before."""
        inputs, weights = _inputs(batch), batch.weights.astype(np.float64) / batch.weights.sum()
        error = inputs @ self.parameters - batch["y"]
        gradient = inputs.T @ (2 * error * weights)
        self._num_steps += 1
        self._update(gradient, rate)
        return float(weights @ error**2)

    def _update(self, gradient: NDArray[Any], rate: float) -> None:
        settings, beta = self._settings, self._settings.momentum
        if settings.name == "adamw":
            self.parameters = self.parameters * (1 - rate * settings.weight_decay)
            self._first = beta * self._first + (1 - beta) * gradient
            self._second = settings.beta_2 * self._second + (1 - settings.beta_2) * gradient**2
            first = self._first / (1 - beta**self._num_steps)
            second = self._second / (1 - settings.beta_2**self._num_steps)
            self.parameters = self.parameters - rate * first / (np.sqrt(second) + settings.epsilon)
            return
        gradient = gradient + settings.weight_decay * self.parameters
        self._first = beta * self._first + gradient
        ahead = gradient + beta * self._first
        self.parameters = self.parameters - rate * (ahead if settings.name == "nesterov" else self._first)


def _batch(arrays: Arrays, *, size: int) -> Batch:
    """One batch of ``size`` rows, padded as evaluation pads."""
    with once_through(ArraySource(arrays), (), batch_size=size) as batches:
        return next(batches)


def _linear_batch(*, seed: int = 0, num_rows: int = 6, size: int | None = None) -> Batch:
    draws = np.random.default_rng(seed)
    inputs = draws.normal(size=(num_rows, 3)).astype(np.float32)
    wanted = (inputs @ np.array([1.0, -2.0, 0.5]) + 3 + draws.normal(size=num_rows)).astype(np.float32)
    return _batch({"x": inputs, "y": wanted}, size=size or num_rows)


def _aligned(batch: Batch) -> Batch:
    """The same where a framework may take the arrays as they are."""
    arrays = new_arrays({name: (values.shape[1:], values.dtype) for name, values in batch.arrays.items()}, len(batch))
    for name, values in arrays.items():
        values[...] = batch[name]
    return Batch(arrays, batch.weights, batch.planned)


def _inputs(batch: Batch) -> NDArray[np.float64]:
    return np.concatenate([batch["x"], np.ones((len(batch), 1))], axis=1).astype(np.float64)


def _linear_names(backend: Backend) -> tuple[str, str]:
    """Names of the linear model's two weights: of the three factors, and of the bias."""
    sizes = {array.size: name for name, array in backend.weights().items()}
    assert sorted(array.size for array in backend.weights().values()) == [1, 3], "not the linear model asked for"
    return sizes[3], sizes[1]


def _one_step(backend: Backend, batch: Batch) -> Arrays:
    backend.train_step(backend.put(batch), learning_rate=0.1)
    return backend.weights()


def _seen(backend: Backend) -> Arrays:
    """The weights, and what they do: a running statistic shows in evaluation only."""
    outputs = backend.eval_step(backend.put(_linear_batch(seed=8)))
    return {**backend.weights(), **{f"output/{name}": values.copy() for name, values in outputs.items()}}


def _assert_continues(backend: Backend, *, first_step: int, expected: Mapping[int, Arrays], loss: float) -> None:
    """Train from ``first_step`` to the end; every step in ``expected`` must have its result, and all together the
    loss."""
    for number in range(first_step, len(RATES)):
        backend.train_step(backend.put(_linear_batch(seed=number)), learning_rate=RATES[number])
        if number in expected:
            _assert_same(_seen(backend), expected[number], where=f"step {number}")
    assert backend.take_loss() == loss


def _stored(backend: Backend) -> tuple[Arrays, dict[str, Any]]:
    return _round_trip(backend.state())


def _round_trip(state: tuple[Arrays, dict[str, Any]]) -> tuple[Arrays, dict[str, Any]]:
    """Write and read a state in the formats of a checkpoint."""
    arrays, values = state
    return load_arrays(dump_arrays(arrays)), json.loads(json.dumps(values))


def _assert_same_state(state: tuple[Arrays, dict[str, Any]], expected: tuple[Arrays, dict[str, Any]]) -> None:
    _assert_same(state[0], expected[0])
    assert state[1] == expected[1]


def _assert_same(arrays: Arrays, expected: Arrays, *, where: str = "") -> None:
    differences = _differences(arrays, expected)
    assert not differences, "; ".join([*filter(None, [where]), *differences])


def _same(arrays: Arrays, others: Arrays) -> bool:
    """Whether names, types, shapes and every bit are equal."""
    return not _differences(arrays, others)


def _differences(arrays: Arrays, expected: Arrays) -> list[str]:
    """One sentence for every array that is missing, unknown, or differs in type, shape or any bit."""
    found = []
    for name in sorted(arrays.keys() | expected.keys()):
        if name not in expected:
            found.append(f"{name} is not expected")
        elif name not in arrays:
            found.append(f"{name} is missing")
        elif difference := _difference(arrays[name], expected[name]):
            found.append(f"{name} {difference}")
    return found


def _difference(array: NDArray[Any], expected: NDArray[Any]) -> str:
    if (array.dtype, array.shape) != (expected.dtype, expected.shape):
        return f"is {array.dtype} {list(array.shape)}, expected {expected.dtype} {list(expected.shape)}"
    if array.tobytes() == expected.tobytes():
        return ""
    rows = [np.frombuffer(values.tobytes(), np.uint8).reshape(array.size, -1) for values in (array, expected)]
    unequal = np.flatnonzero((rows[0] != rows[1]).any(axis=1))
    first = int(unequal[0])
    return (
        f"differs in {len(unequal)} of {array.size} values, first at {first} (flattened): "
        f"{array.flat[first]!r}, expected {expected.flat[first]!r}"
    )

"""Both frameworks take the same steps: the same numpy weights, the same batches of one feed, every step compared."""

import itertools

import numpy as np
import pytest

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.torch_backend import TorchBackend
from dataecho.build import build
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.feed import Feed
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings, Task
from tests.support import config

BACKENDS = {"torch": TorchBackend, "tensorflow": TensorflowBackend}
NUM_STEPS, BATCH_SIZE = 10, 16
RATES = {"nesterov": 0.05, "momentum": 0.05, "adamw": 0.001}
GHOSTS = [f"task.models.{name}.virtual_batch_size=4" for name in BACKENDS]
SCENES = (
    "task.train.num_examples=64",
    "task.eval.num_examples=16",
    "task.train.pixels=48",
    "task.eval.pixels=48",
    "task.image_size=32",
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    cache = tmp_path_factory.mktemp("scenes")
    places = (f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}")
    overrides = {
        "digits": ["task=digits"],
        "images": ["task=images", *SCENES, *places],
        "ghosts": ["task=images", *SCENES, *places, *GHOSTS],
    }
    return {name: build(config(*own)["task"], Task, key="task") for name, own in overrides.items()}


def batches(task):
    """The first ten: every decoded example comes twice, augmented anew."""
    stages = task.stages()
    with Feed(
        task.train_source(),
        stages,
        batch_size=BATCH_SIZE,
        shuffle_buffer=32,
        seed=0,
        echo_after=EchoPoint.resolve("before_augmentation", stages).stage,
        factor=2.0,
    ) as feed:
        return list(itertools.islice(feed, NUM_STEPS))


def backend(task, name, *, optimizer, precision):
    context = BackendContext(
        new_model=lambda: build(task.models[name], object, key=f"task.models.{name}"),
        optimizer=OptimizerSettings(name=optimizer, learning_rate=1.0, weight_decay=0.01),
        accelerator=AcceleratorSettings(name="cpu", precision=precision),
        seed=1 if name == "torch" else 2,
    )
    return BACKENDS[name](context)


def pair(task, *, optimizer, precision):
    """Both, with PyTorch's initial weights and something in the last layer, too."""
    both = [backend(task, name, optimizer=optimizer, precision=precision) for name in BACKENDS]
    draws = np.random.default_rng(0)
    weights = {
        name: values if values.any() else draws.normal(size=values.shape, scale=0.05).astype(values.dtype)
        for name, values in both[0].weights().items()
    }
    for one in both:
        one.load_weights(weights)
    return both


def steps(one, given, *, rate):
    for batch in given:
        one.train_step(one.put(batch), learning_rate=rate)
        yield one.take_loss(), one.weights()


CASES = [("digits", "nesterov"), ("digits", "momentum"), ("digits", "adamw"), ("images", "nesterov")]
CASES += [("ghosts", "nesterov")]


@pytest.mark.parametrize(("name", "optimizer"), CASES, ids=["-".join(case) for case in CASES])
def test_ten_steps_are_the_same_in_64_bit(tasks, name, optimizer):
    given = batches(tasks[name])
    assert len(np.unique([batch["image"] for batch in given], axis=0)) == NUM_STEPS
    both = pair(tasks[name], optimizer=optimizer, precision="64")
    start = both[0].weights()
    found = [steps(one, given, rate=RATES[optimizer]) for one in both]
    for number, ((loss, weights), (other_loss, others)) in enumerate(zip(*found, strict=True)):
        assert other_loss == pytest.approx(loss, rel=1e-8), f"step {number}"
        assert others.keys() == weights.keys()
        for weight, values in weights.items():
            assert values.dtype == others[weight].dtype == np.float64
            assert not np.array_equal(values, start[weight])
            size = np.abs(values).max()
            np.testing.assert_allclose(others[weight], values, rtol=0, atol=1e-7 * size, err_msg=f"{weight} {number}")
    outputs = [one.eval_step(one.put(given[0])) for one in both]
    for output, values in outputs[0].items():
        np.testing.assert_allclose(outputs[1][output], values, rtol=1e-8, err_msg=output)


@pytest.mark.parametrize("name", ["digits", "images"])
def test_ten_steps_are_nearly_the_same_in_32_bit(tasks, name):
    given = batches(tasks[name])
    found = [
        [loss for loss, _ in steps(one, given, rate=RATES["nesterov"])]
        for one in pair(tasks[name], optimizer="nesterov", precision="32")
    ]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][-1] == pytest.approx(found[0][-1], rel=1e-3)


@pytest.mark.parametrize("name", ["digits", "images"])
def test_initial_weights_are_drawn_alike(tasks, name):
    # Not the same numbers, but of the same size: a rate that serves one framework serves the other.
    drawn = [backend(tasks[name], framework, optimizer="nesterov", precision="32").weights() for framework in BACKENDS]
    assert drawn[0].keys() == drawn[1].keys()
    for weight, values in drawn[0].items():
        others = drawn[1][weight]
        assert others.shape == values.shape and others.dtype == values.dtype
        if len(np.unique(values)) == 1:  # ones or zeros
            np.testing.assert_array_equal(others, values)
        elif values.size > 1000:
            assert others.std() == pytest.approx(values.std(), rel=0.1)
            most, others_most = (np.quantile(np.abs(array), 0.95) for array in (values, others))
            assert others_most == pytest.approx(most, rel=0.1)  # uniform is not normal
        else:
            assert others.std() == pytest.approx(values.std(), rel=0.5)

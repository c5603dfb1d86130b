"""The Transformer of the language tasks takes the same steps in both frameworks, every step compared."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import torch

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.backends.torch_backend import TorchBackend
from dataecho.build import build
from dataecho.pipeline.feed import Feed
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings, Task
from tests.support import config

BACKENDS = {"torch": TorchBackend, "tensorflow": TensorflowBackend}
NUM_STEPS, BATCH_SIZE = 10, 16
RATES = {"nesterov": 0.05, "adamw": 0.001}
SMALL = {
    "commoncrawl_transformer": ("task.train.num_pages=40", "task.train.num_eval_pages=8"),
    "lm1b_transformer": ("task.train.num_sentences=400", "task.train.num_eval_sentences=60"),
}
MODEL = ("task.models.torch.width=16", "task.models.torch.hidden=24", "task.sequence_length=12")


@pytest.fixture(scope="module", params=sorted(SMALL))
def task(request, tmp_path_factory):
    cache = tmp_path_factory.mktemp("miniature")
    name = request.param
    node = config(f"task={name}", *SMALL[name], *MODEL, f"task.train.cache_dir={cache}")
    return build(node["task"], Task, key="task")


def batches(task):
    source, stages = task.train_source(), task.stages()
    with Feed(
        source, stages, batch_size=BATCH_SIZE, shuffle_buffer=32, seed=0, echo_after="tokenize", factor=2.0
    ) as feed:
        return list(itertools.islice(feed, NUM_STEPS))


def pair(task, *, optimizer="nesterov", precision="64", **model):
    """Both, with the same weights; biases and gains that begin alike are moved."""
    both = []
    for name, backend in BACKENDS.items():
        node = {**task.models[name], **model}
        context = BackendContext(
            new_model=lambda node=node: build(node, object, key="model"),
            optimizer=OptimizerSettings(name=optimizer, learning_rate=1.0, weight_decay=0.01),
            accelerator=AcceleratorSettings(name="cpu", precision=precision),
            seed=1,
        )
        both.append(backend(context))
    draws = np.random.default_rng(0)
    weights = {
        name: values
        if len(np.unique(values)) > 1
        else (values + draws.normal(size=values.shape, scale=0.05)).astype(values.dtype)
        for name, values in both[0].weights().items()
    }
    for one in both:
        one.load_weights(weights)
    return both


def steps(one, given, *, rate):
    for batch in given:
        one.train_step(one.put(batch), learning_rate=rate)
        yield one.take_loss(), one.weights()


@pytest.mark.parametrize("optimizer", RATES)
def test_ten_steps_are_the_same_in_64_bit(task, optimizer):
    given = batches(task)
    both = pair(task, optimizer=optimizer)
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
    np.testing.assert_allclose(outputs[1]["loss"], outputs[0]["loss"], rtol=1e-8)
    np.testing.assert_array_equal(outputs[1]["candidates"], outputs[0]["candidates"])
    np.testing.assert_allclose(outputs[1]["scores"], outputs[0]["scores"], rtol=1e-8)


def test_ten_steps_are_nearly_the_same_in_32_bit(task):
    given = batches(task)
    found = [[loss for loss, _ in steps(one, given, rate=0.05)] for one in pair(task, precision="32")]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][-1] == pytest.approx(found[0][-1], rel=1e-3)


def test_initial_weights_are_drawn_alike(task):
    drawn = []
    for name, backend in BACKENDS.items():
        context = BackendContext(
            new_model=lambda name=name: build({**task.models[name], "width": 64}, object, key="model"),
            optimizer=OptimizerSettings(name="nesterov", learning_rate=1.0),
            accelerator=AcceleratorSettings(name="cpu"),
            seed=1,
        )
        drawn.append(backend(context).weights())
    assert drawn[0].keys() == drawn[1].keys()
    for weight, values in drawn[0].items():
        others = drawn[1][weight]
        assert others.shape == values.shape and others.dtype == values.dtype
        if len(np.unique(values)) == 1:
            np.testing.assert_array_equal(others, values)
        else:
            assert others.std() == pytest.approx(values.std(), rel=0.1), weight
            most = [np.quantile(np.abs(array), 0.95) for array in (values, others)]
            assert most[1] == pytest.approx(most[0], rel=0.1), weight


@pytest.mark.parametrize("framework", BACKENDS)
def test_no_token_is_predicted_from_itself_or_a_later_one(task, framework):
    model = build(task.models[framework], object, key="model")
    tokens = np.arange(24, dtype=np.int64).reshape(2, 12)
    changed = tokens.copy()
    changed[:, 7] += 100
    before, after = (logits(model, framework, given) for given in (tokens, changed))
    moved = np.abs(after - before).max(axis=(0, 2)) > 1e-4
    assert moved.tolist() == [False] * 7 + [True] * 5  # the one at 7 itself is known to what predicts the next


def logits(model, framework, tokens):
    if framework == "torch":
        return model._logits(torch.from_numpy(tokens)).detach().numpy()
    return model._logits(tf.constant(tokens), training=False).numpy()


def test_dropout_works_on_training_and_not_on_evaluation(task):
    batch = batches(task)[0]
    for one in pair(task, dropout=0.5):
        first = one.eval_step(one.put(batch))["loss"]
        np.testing.assert_array_equal(one.eval_step(one.put(batch))["loss"], first)
        losses = []
        for _ in range(2):
            one.train_step(one.put(batch), learning_rate=0.0)
            losses.append(one.take_loss())
        assert losses[0] != losses[1]

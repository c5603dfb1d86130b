"""Both frameworks train the detector alike: the same numpy weights, the same batches, every step compared."""

import numpy as np
import pytest

from dataecho.build import build
from dataecho.training.contracts import Task
from tests.backends.test_agreement import BACKENDS, NUM_STEPS, backend, batches, pair, steps
from tests.support import config

SMALL = ("task=coco_ssd", "task.train.num_examples=64", "task.eval.num_examples=16", "task.num_classes=10")
SMALL += ("task.models.torch.widths=[4,6]", "task.models.torch.extras=[[4,6],[4,6]]", "task.flip=true")
SMALL += ("task.models.torch.num_candidates=20", "task.default_boxes.image_size=48")
SMALL += (
    "task.default_boxes.maps=[6,3,1]",
    "task.default_boxes.steps=[8,16,48]",
    "task.default_boxes.sizes=[10,18,27,40]",
)
CASES = {
    "one-batch": (*SMALL, "task.models.torch.virtual_batch_size=null"),
    "ghosts": (*SMALL, "task.models.torch.virtual_batch_size=8", "task.models.torch.num_blocks=[1,2]"),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    cache = tmp_path_factory.mktemp("data")
    places = (f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}")
    return {name: build(config(*own, *places)["task"], Task, key="task") for name, own in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_are_the_same_in_64_bit(tasks, name):
    given = batches(tasks[name])
    both = pair(tasks[name], optimizer="momentum", precision="64")
    start = both[0].weights()
    assert both[1].weights().keys() == start.keys()
    found = [steps(one, given, rate=0.003) for one in both]
    for number, ((loss, weights), (other_loss, others)) in enumerate(zip(*found, strict=True)):
        assert other_loss == pytest.approx(loss, rel=1e-8), f"step {number}"
        for weight, values in weights.items():
            assert not np.array_equal(values, start[weight]), weight
            size = np.abs(values).max()
            np.testing.assert_allclose(others[weight], values, rtol=0, atol=1e-7 * size, err_msg=f"{weight} {number}")
    outputs = [one.eval_step(one.put(given[0])) for one in both]
    assert outputs[0].keys() == outputs[1].keys()
    for output, values in outputs[0].items():
        assert values.shape == outputs[1][output].shape
        np.testing.assert_allclose(outputs[1][output], values, rtol=1e-7, atol=1e-8, err_msg=output)


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_are_nearly_the_same_in_32_bit(tasks, name):
    given = batches(tasks[name])
    found = [
        [loss for loss, _ in steps(one, given, rate=0.003)]
        for one in pair(tasks[name], optimizer="momentum", precision="32")
    ]
    assert len(found[0]) == NUM_STEPS
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][-1] == pytest.approx(found[0][-1], rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_initial_weights_are_drawn_alike(tasks, name):
    drawn = [backend(tasks[name], framework, optimizer="momentum", precision="32").weights() for framework in BACKENDS]
    for weight, values in drawn[0].items():
        others = drawn[1][weight]
        assert others.shape == values.shape and others.dtype == values.dtype
        if len(np.unique(values)) == 1:  # ones or zeros
            np.testing.assert_array_equal(others, values, err_msg=weight)
        elif values.size > 200:  # fewer say little
            assert others.std() == pytest.approx(values.std(), rel=0.3), weight

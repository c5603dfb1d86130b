"""No sum of three terms depends on which of them is ready first.

TensorFlow's ``AddN`` adds in place: it begins with the first term whose memory nobody else needs any more. Of three
terms that is another order, and another last bit, where it is a matter of time whether somebody does.
"""

from collections import Counter

import pytest
from tensorflow.python.eager import context as tensorflow_context

import tests.backends.two_cpus  # noqa: F401
from dataecho.backends.tensorflow_backend import TensorflowBackend
from dataecho.build import build
from dataecho.pipeline.feed import once_through
from dataecho.testing.backend_contract import OPTIMIZERS
from dataecho.training.contracts import AcceleratorSettings, BackendContext, Task
from tests.backends.narrow_models import SMALL
from tests.backends.test_tensorflow_backend import Ghosts, Noisy, linear_batch
from tests.support import PROJECT, config

NUM_DEVICES, NUM_ROWS = 2, 16
NAMES = sorted(path.stem for path in (PROJECT / "conf" / "task").glob("*.yaml"))
TEXT = ("lm1b_transformer", "commoncrawl_transformer")
PASSED_ON = {"Identity", "Reshape"}  # the same memory under another name
KEPT = {"Const", "Placeholder", "ReadVariableOp", "_Arg"}  # somebody always needs it


def graphs(new_model, batch, optimizer):
    """What TensorFlow makes of a training step and of an evaluation."""
    accelerator = AcceleratorSettings(name="cpu", devices=NUM_DEVICES)
    made = TensorflowBackend(
        BackendContext(new_model=new_model, optimizer=OPTIMIZERS[optimizer], accelerator=accelerator, seed=0)
    )
    placed = made.put(batch)
    context = tensorflow_context.context()
    context.enable_run_metadata()
    try:
        made.train_step(placed, learning_rate=0.01)
        made.eval_step(placed)
        found = context.export_run_metadata().function_graphs
    finally:
        context.disable_run_metadata()
    return [graph.post_optimization_graph for graph in found]


def uncertain_sums(graph):
    """Sums of three or more terms of which neither the first nor the second is surely the sum's own: a + b is b + a,
    but a + b + c is not c + b + a."""
    nodes = {node.name: node for node in graph.node}
    inputs = {node.name: [_output(text) for text in node.input if text[0] != "^"] for node in graph.node}
    times_used = Counter(output for outputs in inputs.values() for output in outputs)

    def belongs_to(output, node):
        giver = nodes[output[0]]
        if times_used[output] > 1 or giver.device != node.device or giver.op in KEPT:
            return False
        return giver.op not in PASSED_ON or belongs_to(inputs[giver.name][0], giver)

    return [
        (node.name, [nodes[output[0]].op for output in inputs[node.name]])
        for node in graph.node
        if node.op in ("AddN", "_MklAddN") and len(inputs[node.name]) >= 3
        if not any(belongs_to(output, node) for output in inputs[node.name][:2])
    ]


def _output(text):
    """The node and the number of an output."""
    name, _, number = text.partition(":")
    return name, number or "0"


def _assert_certain(found):
    sums = [node for graph in found for node in graph.node if node.op in ("AddN", "AddV2", "_MklAddN")]
    assert len(sums) > 3  # the graphs are there
    assert [one for graph in found for one in uncertain_sums(graph)] == []


@pytest.mark.parametrize("optimizer", ["nesterov-decay", "adamw-decay"])
@pytest.mark.parametrize("model", [Noisy, Ghosts])
def test_running_statistics_of_two_devices_do_not_depend_on_time(model, optimizer):
    _assert_certain(graphs(model, linear_batch(num_rows=8), optimizer))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_sum_of_a_shipped_model_depends_on_time(tmp_path, name):
    own = SMALL.get(name, ())
    if name in TEXT:
        own = ("task.models.torch.dropout=0.1", "task.models.torch.width=16", f"task.train.cache_dir={tmp_path}")
    elif name != "digits":
        own = (*own, f"task.train.cache_dir={tmp_path}", f"task.eval.cache_dir={tmp_path}")
    if name not in (*TEXT, "digits"):
        own = (*own, "task.models.tensorflow.virtual_batch_size=4")
    task = build(config(f"task={name}", *own)["task"], Task, key="task")
    with once_through(task.eval_source(), task.eval_stages(), batch_size=NUM_ROWS) as batches:
        batch = next(batches)
    new_model = lambda: build(task.models["tensorflow"], object, key="task.models.tensorflow")  # noqa: E731
    _assert_certain(graphs(new_model, batch, "nesterov-decay"))

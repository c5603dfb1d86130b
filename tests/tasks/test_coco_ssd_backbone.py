"""A detector begins with a residual network that was trained to classify."""

import logging

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

from dataecho.build import build
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from dataecho.training.checkpoint import find_checkpoint
from dataecho.training.contracts import Task
from dataecho.training.weights import checkpoint_weights
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=null", "task=coco_ssd")
WIDTHS = (8, 12)
SMALL = (
    "task.train.num_examples=32",
    "task.eval.num_examples=8",
    f"task.models.torch.widths={list(WIDTHS)}",
    "task.models.torch.num_blocks=[2,1]",
    "task.models.torch.extras=[[4,8],[4,8]]",
)


class BasicBlock(nn.Module):
    """As torchvision names and computes it."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, inputs):
        hidden = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(inputs)))))
        return functional.relu(hidden + (inputs if self.downsample is None else self.downsample(inputs)))


class Classifier(nn.Module):
    """Groups of blocks as torchvision's ResNet has them, one more than the detector, and a classifier."""

    def __init__(self):
        super().__init__()
        first, second = WIDTHS
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = nn.Sequential(BasicBlock(first, first, 1), BasicBlock(first, first, 1))
        self.layer2 = nn.Sequential(BasicBlock(first, second, 2))
        self.layer3 = nn.Sequential(BasicBlock(second, 16, 2))
        self.fc = nn.Linear(16, 10)

    def features(self, images):
        hidden = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        return self.layer2(self.layer1(hidden))


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = Classifier().eval()
    for name, values in model.state_dict().items():
        if values.is_floating_point():
            values.uniform_(0.5, 1.5) if "running_var" in name else values.normal_(std=0.3)
    return model


@pytest.fixture
def file(classifier, tmp_path):
    save_file({name: values.numpy() for name, values in classifier.state_dict().items()}, tmp_path / "r.safetensors")
    return tmp_path / "r.safetensors"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    return (f"task.train.cache_dir={folder}", f"task.eval.cache_dir={folder}")


def arrays(model):
    return {name: values.numpy() for name, values in model.state_dict().items()}


def test_the_trunk_computes_what_the_classifier_did(classifier, cache, caplog):
    task = build(config(*QUIET, *SMALL, *cache)["task"], Task, key="task")
    detector = build(task.models["torch"], object, key="task.models.torch").eval()
    own = arrays(detector)
    with caplog.at_level(logging.INFO):
        started = task.starting_weights(arrays(classifier), own)
    assert "arrays of the backbone are given, the other" in caplog.text
    detector.load_state_dict({name: torch.from_numpy(values) for name, values in started.items()}, strict=True)
    images = torch.randint(256, (2, 96, 96, 3), dtype=torch.uint8)
    standardised = detector.standardised(images)
    with torch.no_grad():
        hidden = functional.relu(detector.normalisation(detector.convolution(standardised)))
        hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
        for block in detector.blocks:
            hidden = block(hidden)
        torch.testing.assert_close(hidden, classifier.features(standardised))
    for name, values in own.items():
        if name.startswith(("extras.", "offset_heads.", "class_heads.")):
            np.testing.assert_array_equal(started[name], values, err_msg=name)


def test_the_trunk_of_a_detector_and_whole_detectors_are_taken_too(cache):
    task = build(config(*QUIET, *SMALL, *cache)["task"], Task, key="task")
    own = arrays(build(task.models["torch"], object, key="task.models.torch"))
    trunk = {n: v + 1 for n, v in own.items() if n.startswith(("convolution.", "normalisation.", "blocks."))}
    started = task.starting_weights(trunk, own)
    assert started.keys() == own.keys()
    for name, values in own.items():
        np.testing.assert_array_equal(started[name], trunk.get(name, values))
    whole = {name: values + 1 for name, values in own.items()}
    assert task.starting_weights(whole, own) is whole


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_a_run_begins_with_it(classifier, file, cache, tmp_path, backend):
    steps = ("budget=steps", "budget.steps=1", "optimizer.learning_rate=1e-12", f"backend={backend}")
    settings = config(*QUIET, *SMALL, *cache, *steps, f"weights={file}", f"run_dir={tmp_path / 'run'}")
    run_mode(settings, folder=None, project=PROJECT)
    found = checkpoint_weights(find_checkpoint(tmp_path / "run", best=False))
    given = arrays(classifier)
    for name, theirs in (
        ("convolution.weight", "conv1.weight"),
        ("blocks.1.convolution_2.weight", "layer1.1.conv2.weight"),
        ("blocks.2.shortcut_convolution.weight", "layer2.0.downsample.0.weight"),
        ("blocks.2.normalisation_2.bias", "layer2.0.bn2.bias"),
    ):
        np.testing.assert_allclose(found[name], given[theirs], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("layer1.1.bn2.bias"), r"weights blocks.1.normalisation_2.bias=missing"),
        (lambda given: given.update({"layer1.0.conv3.weight": np.ones((2, 2), np.float32)}), r"blocks.0.conv3.weight"),
        (lambda given: given.update({"conv1.weight": np.ones((9, 3, 7, 7), np.float32)}), r"convolution.weight=shape"),
    ],
    ids=["missing", "bottlenecks", "wider"],
)
def test_another_network_is_refused_by_name(classifier, cache, tmp_path, change, message):
    given = arrays(classifier)
    change(given)
    save_file(given, tmp_path / "other.safetensors")
    settings = config(*QUIET, *SMALL, *cache, f"weights={tmp_path}/other.safetensors", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(SettingError, match=message):
        run_mode(settings, folder=None, project=PROJECT)
    assert not (tmp_path / "run").exists()

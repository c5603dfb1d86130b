"""Every workload at the paper's size: its configuration composes, and its model takes two steps in both frameworks, on
inputs of full size that are made up in the published format. Only batch and buffer are small."""

import itertools
import json

import cv2
import numpy as np
import pytest

import tests.backends.two_cpus  # noqa: F401
from dataecho.modes import run_mode
from dataecho.training.checkpoint import find_checkpoint
from dataecho.training.weights import checkpoint_weights
from dataecho_tasks.shared.images.scenes import write_scenes
from dataecho_tasks.shared.text.train_tokenizer import save, trained
from tests.support import PROJECT, config
from tests.tasks.test_cifar10_resnet32 import write_files, write_official
from tests.tasks.test_commoncrawl_transformer import write_wet

NUM_STEPS, BATCH_SIZE = 2, 2
QUIET = ("tracking=none", "display=none", "accelerator=cpu", "checkpoints.keep=1")


def words(number):
    draws = np.random.default_rng(0).integers(26, size=(number, 4))
    return ["".join(chr(ord("a") + letter) for letter in word) for word in draws.tolist()]


@pytest.fixture(scope="module")
def lines():
    found = words(40_000)
    return [" ".join(found[start : start + 20]) for start in range(0, len(found), 20)]


@pytest.fixture(scope="module")
def vocabulary(lines, tmp_path_factory):
    """A vocabulary of full size, in which a made-up line is about as many tokens as it has words."""
    return save(trained(map(str.encode, lines), num_tokens=32_000), tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def lm1b(tmp_path, lines, vocabulary):
    for below, name, numbers, total in (
        ("training-monolingual.tokenized.shuffled", "news.en", range(1, 100), 100),
        ("heldout-monolingual.tokenized.shuffled", "news.en.heldout", range(50), 50),
    ):
        (tmp_path / below).mkdir()
        for number in numbers:
            text = "\n".join(lines[number * 20 : (number + 1) * 20])
            (tmp_path / below / f"{name}-{number:05d}-of-{total:05d}").write_text(text + "\n")
    return (
        "task=lm1b_transformer", "task/lm1b_transformer_data=full", f"task.train.folder={tmp_path}",
        f"task.tokenizer.path={vocabulary}",
    )  # fmt: skip


@pytest.fixture
def commoncrawl(tmp_path, lines, vocabulary):
    for number, split in enumerate(("train", "eval")):
        pages = [("eng", "\n".join(lines[start : start + 5])) for start in range(number * 100, number * 100 + 100, 5)]
        write_wet(tmp_path / split / "CC-MAIN-00000.warc.wet.gz", *pages)
    return (
        "task=commoncrawl_transformer", "task/commoncrawl_transformer_data=full",
        f"task.train.urls='{tmp_path}/train/*.warc.wet.gz'", f"task.eval.urls='{tmp_path}/eval/*.warc.wet.gz'",
        f"task.tokenizer.path={vocabulary}",
    )  # fmt: skip


@pytest.fixture
def cifar10(tmp_path):
    folder = write_official(tmp_path / "cifar-10-batches-bin")
    few = write_files(tmp_path / "few")  # all 10,000 held-out images would take a minute
    held_out = f"{{_target_:dataecho_tasks.cifar10_resnet32.binary.CifarBinarySource,urls:'{few}'}}"
    return (
        "task=cifar10_resnet32", "task/cifar10_resnet32_data=official", f"task.train.folder={folder}",
        "~task.eval", f"+task.eval={held_out}",
    )  # fmt: skip


@pytest.fixture
def imagenet(tmp_path):
    for split, number in (("train", 16), ("eval", 2)):
        write_scenes(tmp_path / split, num_examples=number, pixels=400, split=split, layout="folder")
    return (
        "task=imagenet_resnet50", "task/imagenet_resnet50_data=folder", f"task.train.url={tmp_path}/train",
        f"task.eval.url={tmp_path}/eval", f"task.train.classes={[str(number) for number in range(1000)]}",
        "task.models.torch.virtual_batch_size=2",
    )  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Photographs of COCO's size with four objects each, of 80 classes with gaps between their numbers."""
    draws = np.random.default_rng(0)
    for split, number in (("train", 8), ("eval", 2)):
        images, objects = [], []
        (tmp_path / split).mkdir()
        for k in range(number):
            images.append({"id": k, "file_name": f"{split}-{k}.jpg", "width": 640, "height": 480})
            pixels = draws.integers(256, size=(480, 640, 3), dtype=np.uint8)
            (tmp_path / split / images[-1]["file_name"]).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
            objects += [
                {"image_id": k, "category_id": 1 + 7 * (4 * k + j), "bbox": [60 * j, 50, 200, 300]} for j in range(4)
            ]
        categories = [{"id": 1 + 7 * label, "name": str(label)} for label in range(80)]
        facts = {"images": images, "annotations": objects, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(facts))
    nodes = [
        f"+task.{split}={{_target_: dataecho_tasks.coco_ssd.source.CocoSource, annotations: {tmp_path}/{split}.json, "
        f"images: {tmp_path}/{split}, split: {split}}}"
        for split in ("train", "eval")
    ]
    return (
        "task=coco_ssd", "task/coco_ssd_data=official", "~task.train", "~task.eval", *nodes,
        "task.models.torch.virtual_batch_size=2",
    )  # fmt: skip


LANGUAGE = {"target": 3.9, "batch_size": 1024, "shuffle_buffer": 1_000_000, "sequence_length": 32}
CIFAR10 = {"target": 0.91, "batch_size": 128, "shuffle_buffer": 10_000, "flip": True}
IMAGENET = {"target": 0.75, "batch_size": 1024, "shuffle_buffer": 100_000, "flip": True}
IMAGENET |= {"image_size": 224, "num_classes": 1000}
COCO = {"target": 0.24, "batch_size": 256, "shuffle_buffer": 10_000, "flip": True, "num_classes": 80}

#: Facts of the task, the paper's budget in steps, where its schedule ends, weight decay (ours), and how many weights
#: are trained. Published: 0.46 million (He et al. 2016, table 6) and 25,557,032; those of the Transformers and of the
#: detector are ours.
WORKLOADS = {
    "lm1b": (LANGUAGE, 20_000, None, 0.0, 35_315_712),
    "commoncrawl": (LANGUAGE, 60_000, None, 0.0, 35_315_712),
    "cifar10": (CIFAR10, 150_000, 0.01, 0.0001, 464_154),
    "imagenet": (IMAGENET, 110_000, 0.001, 0.0001, 25_557_032),
    "coco": (COCO, 30_000, None, 0.0005, 19_975_222),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_settings_are_the_papers(name, request):
    facts, num_steps, final_fraction, weight_decay, _ = WORKLOADS[name]
    node = config(*QUIET, *request.getfixturevalue(name))
    assert {key: node["task"][key] for key in facts} == facts
    assert node["task"]["budget"] == num_steps * facts["batch_size"]
    optimizer = node["optimizer"]
    kind = "momentum" if name == "coco" else "nesterov"
    assert (optimizer["name"], optimizer["momentum"], optimizer["weight_decay"]) == (kind, 0.9, weight_decay)
    assert node["schedule"].get("final_fraction") == final_fraction


#: Every workload and, as two of them have the same, every model in both frameworks.
RUNS = [
    ("lm1b", "torch"),
    ("commoncrawl", "tensorflow"),
    *itertools.product(("cifar10", "imagenet", "coco"), ("torch", "tensorflow")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_the_model_takes_two_steps_on_inputs_of_full_size(name, backend, request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    overrides = [f"task.batch_size={BATCH_SIZE}", "task.shuffle_buffer=8", "task.eval_batch_size=2"]
    overrides += ["budget=steps", f"budget.steps={NUM_STEPS}", f"backend={backend}", f"run_dir={tmp_path / 'run'}"]
    node = config(*QUIET, *request.getfixturevalue(name), *overrides)
    run_mode(node, folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == NUM_STEPS and summary["fresh_examples"] == NUM_STEPS * BATCH_SIZE
    assert np.isfinite(summary[summary["metric"]])
    weights = checkpoint_weights(find_checkpoint(tmp_path / "run", best=False))
    assert sum(values.size for key, values in weights.items() if "running_" not in key) == WORKLOADS[name][-1]

"""ResNet-32 on CIFAR-10: the contract, the reader of the binary files, the miniature, the network."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import fsspec
import numpy as np
import pytest

from dataecho.build import build
from dataecho.compose import compose_workload
from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.plan.keys import KeyStream
from dataecho.testing.source_contract import SourceContract, all_positions, fingerprints
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import Task
from dataecho_tasks.cifar10_resnet32.binary import FILES, CifarBinarySource, as_record, cifar10
from dataecho_tasks.cifar10_resnet32.miniature import miniature, write_miniature
from dataecho_tasks.cifar10_resnet32.torch_model import CifarResnet
from dataecho_tasks.shared.images.drawing import Scenes
from dataecho_tasks.shared.images.pixels import padded_crop
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "task=cifar10_resnet32")
COLOURS = {"mean": [125.3, 123.0, 113.9], "deviation": [63.0, 62.1, 66.7]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cifar10"))


def small(cache, *overrides):
    """The overrides that make the task as it is shipped small."""
    sizes = ("task.train.num_examples=160", "task.eval.num_examples=64", "task.shuffle_buffer=128")
    return (*QUIET, *sizes, f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}", *overrides)


def cifar(cache, *overrides):
    return build(config(*small(cache, *overrides))["task"], Task, key="task")


class TestCifar10Resnet32(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return cifar(cache, "task.flip=true")

    @pytest.fixture
    def outputs(self):
        return {"loss": 0.1, "correct": 1.0, "predicted": 1}, {"loss": 3.0, "correct": 0.0, "predicted": 2}


# ---- the reader


def pictures(number, *, seed=0):
    return np.random.default_rng(seed).integers(256, size=(number, 32, 32, 3), dtype=np.uint8)


def write_files(folder, *, lengths=(5, 3), changed=False):
    """``part_1.bin`` and so on; a picture that is changed comes with another name, as a published file would."""
    folder.mkdir(parents=True)
    for number, length in enumerate(lengths, start=1):
        images = pictures(length, seed=number)
        if changed and number == 1:
            images[2, 3, 4, 1] ^= 1
        records = [as_record(image, k % 10) for k, image in enumerate(images)]
        (folder / f"part_{number}.bin").write_bytes(b"".join(records))
    return f"{folder}/part_{{1..{len(lengths)}}}.bin"


class TestLocalFiles(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        urls = write_files(tmp_path / "data")
        return lambda: CifarBinarySource(urls)

    @pytest.fixture
    def changed_source(self, tmp_path):
        return CifarBinarySource(write_files(tmp_path / "changed", changed=True))


class TestFarFiles(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
        write_files(tmp_path / "data")
        for name in ("part_1.bin", "part_2.bin"):
            fsspec.filesystem("memory").pipe_file(f"/cifar/{name}", (tmp_path / "data" / name).read_bytes())
        return lambda: CifarBinarySource("memory://cifar/part_{1..2}.bin")

    @pytest.fixture
    def changed_source(self, tmp_path):
        return CifarBinarySource(write_files(tmp_path / "changed", changed=True))


def test_a_record_is_the_class_then_the_red_the_green_and_the_blue_rows(tmp_path):
    planes = np.zeros((3, 32, 32), dtype=np.uint8)
    planes[0, 1, 2], planes[1, 1, 2], planes[2, 31, 0] = 10, 20, 30
    (tmp_path / "one.bin").write_bytes(bytes([7]) + planes.tobytes())
    (record,) = CifarBinarySource(str(tmp_path / "one.bin")).read(np.array([0]), np.array([0]))
    assert record["label"] == 7 and record["label"].dtype == np.int64
    assert record["image"].shape == (32, 32, 3) and record["image"].flags.c_contiguous
    assert record["image"][1, 2].tolist() == [10, 20, 0] and record["image"][31, 0].tolist() == [0, 0, 30]
    assert as_record(record["image"], 7) == (tmp_path / "one.bin").read_bytes()


def write_official(folder):
    """Files of the published names and lengths, black pictures of class 0."""
    folder.mkdir()
    for names in FILES.values():
        for name in names:
            (folder / name).write_bytes(bytes(30_730_000))
    return str(folder)


def test_the_published_files_are_found_and_have_their_lengths(tmp_path):
    folder = write_official(tmp_path / "cifar-10-batches-bin")
    train, held_out = cifar10(folder, split="train"), cifar10(folder + "/", split="eval")
    assert [train.num_examples(shard) for shard in range(train.num_shards)] == [10_000] * 5
    assert [held_out.num_examples(shard) for shard in range(held_out.num_shards)] == [10_000]
    assert train.name(4, 9_999) == "data_batch_5.bin: record 9999" and train.random_access
    assert pickle.loads(pickle.dumps(train)).num_examples(4) == 10_000
    with pytest.raises(IndexError, match="test_batch.bin has 10000 examples, none at 10000"):
        held_out.read(np.array([0]), np.array([10_000]))


def test_a_missing_file_is_told_with_where_to_get_it(tmp_path):
    with pytest.raises(SettingError, match=r"folder=.*data_batch_1.bin, .*Not there: data_batch_1.bin.*toronto.edu"):
        cifar10(str(tmp_path), split="train")
    with pytest.raises(SettingError, match="^task.train.folder=/data/nowhere cannot be used. .*170 MB"):
        overrides = ("task/cifar10_resnet32_data=official", "task.train.folder=/data/nowhere")
        build(config(*QUIET, *overrides)["task"], Task, key="task")
    with pytest.raises(SettingError, match="split=test cannot be used. Allowed: train, eval"):
        cifar10(str(tmp_path), split="test")


@pytest.mark.parametrize("size", [0, 1, 3073, 30_729_999, 30_730_001, 30_726_927])
def test_a_published_file_of_another_length_is_refused_with_file_size_and_expected(tmp_path, size):
    folder = write_official(tmp_path / "data")
    (tmp_path / "data" / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"data/test_batch\.bin has {size:,} bytes, expected are 30,730,000, 10,000"):
        cifar10(folder, split="eval")


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 4 * 3073 - 1])
def test_a_file_without_whole_records_is_refused_here_and_behind_a_url(tmp_path, size, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    (tmp_path / "a.bin").write_bytes(bytes(size))
    message = rf"a\.bin has {size:,} bytes, expected are a whole number of records of 3,073 bytes"
    with pytest.raises(DataError, match=message):
        CifarBinarySource(str(tmp_path / "a.bin"))
    fsspec.filesystem("memory").pipe_file("/cifar_short/a.bin", bytes(size))
    with pytest.raises(DataError, match=message):
        CifarBinarySource("memory://cifar_short/a.bin").num_examples(0)


def test_a_class_that_does_not_exist_is_a_broken_example(tmp_path, cache):
    (tmp_path / "a.bin").write_bytes(as_record(pictures(1)[0], 10))
    (record,) = CifarBinarySource(str(tmp_path / "a.bin")).read(np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="label .*10.* is no whole number from 0 to 9"):
        cifar(cache).stages()[0].function(record)


# ---- the miniature


def test_the_miniature_is_scenes_in_the_published_files(tmp_path):
    write_miniature(tmp_path / "data", split="train", num_examples=12)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(FILES["train"])
    source = CifarBinarySource([str(tmp_path / "data" / name) for name in FILES["train"]])
    assert [source.num_examples(shard) for shard in range(5)] == [3, 3, 2, 2, 2]
    drawn = Scenes(split="train", pixels=32)
    for number, record in enumerate(source.read(*all_positions(source))):
        image, label = drawn.draw(number)
        np.testing.assert_array_equal(record["image"], image)
        assert record["label"] == label


def test_a_miniature_smaller_than_its_files_and_an_unknown_split_are_refused(tmp_path):
    with pytest.raises(SettingError, match="num_examples=4 cannot be used. Allowed: >= 5"):
        miniature(split="train", num_examples=4, cache_dir=str(tmp_path))
    with pytest.raises(SettingError, match="split=test cannot be used. Allowed: train, eval"):
        miniature(split="test", num_examples=4, cache_dir=str(tmp_path))
    assert not [path for path in (tmp_path / "cifar10").iterdir() if path.is_dir()]


def ask(cache_dir):
    source = miniature(split="eval", num_examples=300, cache_dir=cache_dir)
    return source.digest, fingerprints(source.read(*all_positions(source)))


def test_processes_that_ask_at_once_get_the_same_miniature(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        first, *others = pool.map(ask, [str(tmp_path)] * 3)
    assert len(first[1]) == 300 and all(other == first for other in others)
    assert len([path for path in (tmp_path / "cifar10").iterdir() if path.is_dir()]) == 1
    again = miniature(split="eval", num_examples=300, seed=1, cache_dir=str(tmp_path))
    assert again.digest != first[0] and len([path for path in (tmp_path / "cifar10").iterdir() if path.is_dir()]) == 2


# ---- stages


def keys(number, *, seed=0):
    return KeyStream(seed, "test.cifar").keys(np.arange(number))


def test_a_padded_crop_moves_by_at_most_the_padding_and_fills_with_black():
    image = 1 + np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    found = set()
    for moved in padded_crop(np.stack([image] * 400), keys(400), padding=2):
        places = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if np.array_equal(moved, shifted(image, d, r))]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 25


def shifted(image, down, right):
    """Pixel by pixel."""
    result = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            source = row - down, column - right
            if 0 <= source[0] < image.shape[0] and 0 <= source[1] < image.shape[1]:
                result[row, column] = image[source]
    return result


def test_the_stages_and_their_names(cache):
    def names(stages):
        return [(stage.name, stage.random) for stage in stages]

    assert names(cifar(cache).stages()) == [("decode", False), ("crop", True)]  # a mirrored digit is none
    flipping = cifar(cache, "task.flip=true")
    assert names(flipping.stages()) == [("decode", False), ("crop", True), ("flip", True)]
    assert names(flipping.eval_stages()) == [("decode", False)]
    assert names(cifar(cache, "task.padding=0").stages()) == [("decode", False)]
    for padding in (-1, 17):
        with pytest.raises(SettingError, match=f"task.padding={padding} cannot be used. Allowed: 0 to 16"):
            cifar(cache, f"task.padding={padding}")


# ---- the network


def test_resnet_32_has_the_published_number_of_parameters():
    # He et al., CVPR 2016, table 6: 0.46 million.
    number = sum(values.numel() for values in CifarResnet(num_classes=10, **COLOURS).parameters())
    convolutions = 432 + 10 * 2304 + (4608 + 9 * 9216) + (18432 + 9 * 36864)
    assert number == convolutions + 2 * (11 * 16 + 10 * 32 + 10 * 64) + 650 == 464_154
    assert f"{number:,}\n    parameters" in CifarResnet.__doc__


@pytest.mark.parametrize(("num_blocks", "millions"), [(3, 0.27), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_the_other_depths_have_theirs(num_blocks, millions):
    model = CifarResnet(num_classes=10, num_blocks=num_blocks, **COLOURS)
    number = sum(values.numel() for values in model.parameters())
    assert round(number / 1e6, 1 if millions > 1 else 2) == millions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": 0}, "task.models.torch.num_blocks=0 cannot be used. .*5 is ResNet-32"),
        ({"widths": []}, r"task.models.torch.widths=\[\] cannot be used. .*\[16, 32, 64\] is ResNet-32"),
        ({"widths": [0, 8]}, r"task.models.torch.widths=\[0, 8\] cannot be used"),
        ({"widths": [16, 8]}, r"task.models.torch.widths=\[16, 8\] cannot be used. .*none smaller"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        CifarResnet(num_classes=10, **COLOURS, **settings)


def test_a_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    import torch

    model = CifarResnet(num_classes=10, num_blocks=1, widths=[2, 5], **COLOURS)
    block = model.blocks[1]
    with torch.no_grad():
        block.normalisation_2.weight.zero_()  # the residual is then nothing
    inputs = torch.rand(3, 2, 8, 6)
    outputs = block(inputs)
    assert outputs.shape == (3, 5, 4, 3)
    torch.testing.assert_close(outputs[:, :2], inputs[:, :, ::2, ::2])
    assert not outputs[:, 2:].any()


def test_another_model_takes_the_place_of_both_from_the_command_line(cache):
    target = f"_target_:{CifarResnet.__module__}.CifarResnet"
    models = f"+task.models={{torch:{{{target},num_classes:10,mean:[0.0,0.0,0.0],deviation:[1.0,1.0,1.0],widths:[2]}}}}"
    workload = compose_workload(config(*small(cache, "~task.models", models)))
    assert workload.backend.weights()["linear.weight"].shape == (10, 2)
    with pytest.raises(SettingError, match="backend=tensorflow cannot be used. Allowed: torch"):
        compose_workload(config(*small(cache, "~task.models", models, "backend=tensorflow")))


# ---- whole runs


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_an_echoed_run_from_the_command_line(name, cache, tmp_path):
    overrides = ["echo=before_augmentation", "factor=2.5", "budget=steps", "budget.steps=4", "task.batch_size=32"]
    overrides += [f"backend={name}", "schedule=linear", "task.eval_interval=32", f"run_dir={tmp_path / 'run'}"]
    overrides += ["backend.compute_threads=null"]  # TensorFlow takes its threads once in a process
    run_mode(config(*small(cache, *overrides)), folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["delivered_examples"] == 128
    assert 0 < summary["fresh_examples"] < 100 and 0 <= summary["accuracy"] <= 1

"""ResNet-50 on ImageNet: the contract, the class archives, the network."""

import json
import shutil
import tarfile

import fsspec
import numpy as np
import pytest
from scipy.io import savemat

from dataecho.build import build
from dataecho.compose import compose_workload
from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.stage import Broken
from dataecho.sources.tar import TarSource
from dataecho.testing.source_contract import SourceContract, all_positions
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import Task
from dataecho_tasks.imagenet_resnet50.class_tars import ClassTarSource
from dataecho_tasks.imagenet_resnet50.torch_model import ImagenetResnet
from dataecho_tasks.imagenet_resnet50.validation import ValidationSource
from dataecho_tasks.shared.images.scenes import write_scenes
from tests.sources.tar_files import write_tar
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "task=imagenet_resnet50")
COLOURS = {"mean": [123.675, 116.28, 103.53], "deviation": [58.395, 57.12, 57.375]}
CLASSES = ("n01440764", "n01443537", "n02102040")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("scenes"))


def small(cache, *overrides):
    """The overrides that make the task as it is shipped small."""
    sizes = ("task.train.num_examples=192", "task.eval.num_examples=64", "task.shuffle_buffer=128")
    sizes += ("task.train.pixels=48", "task.eval.pixels=48", "task.image_size=32")
    return (*QUIET, *sizes, f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}", *overrides)


class TestImagenetResnet50(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return build(config(*small(cache, "task.flip=true"))["task"], Task, key="task")

    @pytest.fixture
    def outputs(self):
        return {"loss": 0.1, "correct": 1.0, "predicted": 1}, {"loss": 3.0, "correct": 0.0, "predicted": 2}


# ---- class archives


def write_classes(folder, *, lengths=(4, 3, 5), changed=False):
    """Members as in the published archives."""
    for name, length in zip(CLASSES, lengths, strict=True):
        members = [(f"{name}_{k}.JPEG", f"image {k} of {name}".encode()) for k in range(length)]
        if changed and name == CLASSES[1]:
            members[1] = (members[1][0], b"another image")
        write_tar(folder / f"{name}{'-2' if changed else ''}.tar", members)
    return f"{folder}/n*.tar"


class TestClassTars(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        urls = write_classes(tmp_path / "data")
        return lambda: ClassTarSource(urls)

    @pytest.fixture
    def changed_source(self, tmp_path):
        return ClassTarSource(write_classes(tmp_path / "changed", changed=True))


def test_the_label_is_that_of_the_archives_name_and_the_archives_are_one_shard(tmp_path):
    source = ClassTarSource(write_classes(tmp_path))
    assert source.classes == CLASSES
    assert (source.num_shards, source.num_examples(0), source.random_access) == (1, 12, True)
    records = source.read(*all_positions(source))
    assert [int(record["label"]) for record in records] == [0] * 4 + [1] * 3 + [2] * 5
    assert [record["image"].decode() for record in records[3:8]] == [
        "image 3 of n01440764",
        *(f"image {k} of n01443537" for k in range(3)),
        "image 0 of n02102040",
    ]
    assert source.name(0, 4) == "n01443537.tar: n01443537_0"


def test_given_classes_fix_the_numbers_where_one_is_missing(tmp_path):
    urls = write_classes(tmp_path)
    (tmp_path / "n01443537.tar").unlink()
    source = ClassTarSource(urls, classes=CLASSES)
    assert sorted({int(record["label"]) for record in source.read(*all_positions(source))}) == [0, 2]
    assert source.digest != ClassTarSource(urls).digest


def test_a_class_archive_that_is_missing_is_refused_for_the_folders_have_another_class(photographs, tmp_path):
    tars = shutil.copytree(photographs / "class_tars", tmp_path / "class_tars")
    held_out = write_scenes(tmp_path / "eval", num_examples=60, pixels=40, split="eval", layout="folder")
    assert len({path.parent.name for path in held_out}) == 10
    overrides = ("task/imagenet_resnet50_data=class_tars", f"task.train.urls={tars}/*.tar", *SHRUNK)
    node = config(*QUIET, *overrides, f"task.eval.url={tmp_path}/eval")["task"]
    assert build(node, Task, key="task").train_source().classes == tuple("0123456789")
    (tars / "4.tar").unlink()
    with pytest.raises(SettingError, match="^task.eval=10 classes cannot be used. .*9 classes .*Only in task.eval: 4"):
        build(node, Task, key="task")


def test_an_empty_image_is_broken_and_the_others_are_not(tmp_path):
    write_classes(tmp_path)
    write_tar(tmp_path / "n01443537.tar", [(f"n01443537_{k}.JPEG", b"x" * (k != 1)) for k in range(3)])
    source = ClassTarSource(f"{tmp_path}/n*.tar")
    broken = [isinstance(record, Broken) for record in source.read(*all_positions(source))]
    assert broken == [k == 5 for k in range(12)]


def test_what_cannot_be_used_is_refused(tmp_path):
    urls = write_classes(tmp_path / "data")
    with pytest.raises(SettingError, match=r"classes=a list of 2 cannot be used. .*Missing: n02102040\."):
        ClassTarSource(urls, classes=CLASSES[:2])
    shutil.copytree(tmp_path / "data", tmp_path / "data" / "again")
    with pytest.raises(SettingError, match=r"urls=n01440764, n01443537, n02102040 cannot be used. .*one file per"):
        ClassTarSource([urls, f"{tmp_path}/data/again/*.tar"])
    with pytest.raises(
        SettingError, match=r"urls=http://here/n1.tar cannot be used. .*task/imagenet_resnet50_data=tar"
    ):
        ClassTarSource("http://user:secret@here/n1.tar")
    with pytest.raises(DataError, match="no file matches"):
        ClassTarSource(f"{tmp_path}/nowhere/*.tar")


def test_an_archive_that_is_cut_short_is_told_by_its_name(tmp_path):
    urls = write_classes(tmp_path)
    path = tmp_path / "n01443537.tar"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"n01443537\.tar is cut short"):
        ClassTarSource(urls)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The same few images in class folders, in class archives, and in shards."""
    root = tmp_path_factory.mktemp("photographs")
    for split, number in (("train", 40), ("eval", 12)):
        write_scenes(root / split, num_examples=number, pixels=40, split=split, layout="folder")
        write_scenes(root / "tar", num_examples=number, pixels=40, split=split, shard_size=16)
    (root / "class_tars").mkdir()
    for folder in sorted((root / "train").iterdir()):
        with tarfile.open(root / "class_tars" / f"{folder.name}.tar", "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, arcname=f"{folder.name}_{path.stem}.JPEG")
    return root


def overrides_of(option, root):
    digits = "['0','1','2','3','4','5','6','7','8','9']"
    return {
        "folder": [f"task.train.url={root}/train", f"task.eval.url={root}/eval", f"task.train.classes={digits}"],
        "class_tars": [
            f"task.train.urls={root}/class_tars/*.tar",
            f"task.eval.url={root}/eval",
            f"task.train.classes={digits}",
        ],
        "tar": [f"task.train.urls={root}/tar/train-*.tar", f"task.eval.urls={root}/tar/eval-*.tar"],
    }[option]


SHRUNK = ("task.batch_size=8", "task.models.torch.virtual_batch_size=4", "task.image_size=32")
SHRUNK += ("task.models.torch.widths=[2,2,2,2]", "task.num_classes=10")


@pytest.mark.parametrize("option", ["folder", "class_tars", "tar"])
def test_the_same_images_come_from_every_layout(photographs, option):
    overrides = (f"task/imagenet_resnet50_data={option}", *overrides_of(option, photographs), *SHRUNK)
    workload = compose_workload(config(*QUIET, *overrides))
    files = {path.read_bytes(): int(path.parent.name) for path in (photographs / "train").rglob("*.jpg")}
    source = workload.train_source
    records = source.read(*all_positions(source))
    assert {record["image"]: int(record["label"]) for record in records} == files and len(records) == 40
    assert 0 <= workload.evaluate()["accuracy"] <= 1


def test_the_echo_point_may_be_between_any_two_augmentations(photographs):
    overrides = ("task/imagenet_resnet50_data=folder", *overrides_of("folder", photographs), *SHRUNK)
    task = build(config(*QUIET, *overrides)["task"], Task, key="task")
    assert [(stage.name, stage.random) for stage in task.stages()] == [
        ("decode", False),
        ("crop", True),
        ("flip", True),
        ("colour", True),
    ]
    assert [stage.name for stage in task.eval_stages()] == ["decode", "crop"]


# ---- the published validation images

#: Of the devkit: number and wnid of every class, in another order than that of the wnids, and of a group of classes.
SYNSETS = ((1, "n02102040", 0), (2, "n01440764", 0), (3, "n01443537", 0), (1001, "n00001740", 3))
DATA = "ILSVRC2012_devkit_t12/data"
TRUTH = (2, 1, 3, 2, 1, 3, 3, 2, 1)


def write_validation(folder, *, truth=TRUTH, synsets=SYNSETS):
    """Nine images that say their number, and the devkit."""
    (folder / "val").mkdir(parents=True)
    for k in range(1, 1 + len(TRUTH)):
        (folder / "val" / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(f"image {k}".encode())
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    table = np.array([(float(number), wnid, "words", float(size)) for number, wnid, size in synsets], dtype=kinds)
    savemat(data / "meta.mat", {"synsets": table[:, None]})
    return folder / "val", folder / "ILSVRC2012_devkit_t12"


#: Of image 1, 2, ...: the numbers of the sorted wnids.
EXPECTED = [{2: 0, 3: 1, 1: 2}[number] for number in TRUTH]


class TestValidation(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        images, devkit = write_validation(tmp_path / "data")
        return lambda: ValidationSource(str(images), labels=str(devkit))

    @pytest.fixture
    def changed_source(self, tmp_path):
        images, devkit = write_validation(tmp_path / "changed", truth=(*TRUTH[:-1], 2))
        return ValidationSource(str(images), labels=str(devkit))


def kaggle(folder, truth=TRUTH):
    wnid = {number: name for number, name, _ in SYNSETS}
    rows = [
        f"ILSVRC2012_val_{k:08d},{wnid[number]} 1 2 3 4 {wnid[number]} 5 6 7 8 " for k, number in enumerate(truth, 1)
    ]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))
    return folder / "LOC_val_solution.csv"


def table_of(folder, truth=TRUTH):
    wnid = {number: name for number, name, _ in SYNSETS}
    rows = [f"{wnid[number]},ILSVRC2012_val_{k:08d}.JPEG" for k, number in enumerate(truth, 1)]
    (folder / "mine.csv").write_text("\n".join(["label,file", *rows]))
    return folder / "mine.csv"


def test_the_same_labels_come_from_every_file_that_has_them(tmp_path):
    images, devkit = write_validation(tmp_path)
    truth = devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for labels in (devkit, f"{devkit}/", truth, kaggle(tmp_path), table_of(tmp_path)):
        source = ValidationSource(f"{images}/", labels=str(labels))
        assert source.classes == tuple(sorted(CLASSES))
        records = source.read(*all_positions(source))
        assert [(record["image"].decode(), int(record["label"])) for record in records] == [
            (f"image {k}", label) for k, label in enumerate(EXPECTED, start=1)
        ]
        assert source.digest == ValidationSource(str(images), labels=str(devkit)).digest


def test_the_devkits_numbers_are_no_labels(tmp_path):
    images, devkit = write_validation(tmp_path)
    source = ValidationSource(str(images), labels=str(devkit), classes=[*CLASSES, "n99999999"])
    labels = [int(record["label"]) for record in source.read(*all_positions(source))]
    assert labels == EXPECTED != [number - 1 for number in TRUTH]
    assert source.classes == (*CLASSES, "n99999999")


def test_validation_images_behind_a_url(tmp_path):
    images, devkit = write_validation(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in (*images.iterdir(), *devkit.rglob("*.*")):
        memory.pipe_file(f"/validation/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
    memory.rm("/validation/val/ILSVRC2012_val_00000002.JPEG")
    source = ValidationSource("memory://validation/val", labels="memory://validation/ILSVRC2012_devkit_t12")
    records = source.read(*all_positions(source))
    assert source.num_readers == 16 and isinstance(records[1], Broken)
    assert [int(record["label"]) for k, record in enumerate(records) if k != 1] == [EXPECTED[0], *EXPECTED[2:]]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: (root / "val" / "ILSVRC2012_val_00000003.JPEG").unlink(), SettingError,
         "url=.* cannot be used. .* 1 of 9 are missing, such as ILSVRC2012_val_00000003.JPEG"),
        (lambda root: shutil.rmtree(root / "val"), SettingError, "url=.*/val cannot be used. Allowed: a folder that"),
        (lambda root: (root / DATA / "meta.mat").unlink(), DataError, "meta.mat: .*no such file"),
        (lambda root: (root / DATA / "meta.mat").write_bytes(b"no table"), DataError,
         "meta.mat: no table of classes: .*Bring ILSVRC2012_devkit_t12 there again"),
        (lambda root: (root / DATA / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1001"),
         DataError, r"\['1001'\] are no numbers of classes"),
        (lambda root: (root / DATA / "ILSVRC2012_validation_ground_truth.txt").write_text(""),
         DataError, "there is no label"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_told(tmp_path, change, error, message):
    images, devkit = write_validation(tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=message):
        ValidationSource(str(images), labels=str(devkit))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("devkit.tar.gz", "", "labels=.*devkit.tar.gz cannot be used. Allowed: the devkit's folder, .*Unpack archives"),
        ("a.csv", "file,class\na.JPEG,n01", "labels=.*a.csv cannot be used. .*columns file and label. columns=label"),
        ("a.csv", "file,label\na.JPEG,n1\na.JPEG,n1", "labels=.*a.csv cannot be used. Allowed: every file once"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingError, match=message):
        ValidationSource(str(tmp_path), labels=str(tmp_path / name))


def test_a_class_that_is_not_among_those_given_is_refused(tmp_path):
    images, devkit = write_validation(tmp_path)
    with pytest.raises(SettingError, match="classes=2 names cannot be used. .*Missing: n02102040"):
        ValidationSource(str(images), labels=str(devkit), classes=CLASSES[:2])


def test_the_published_files_go_with_one_option(photographs, tmp_path):
    (tmp_path / "val").mkdir()
    rows = ["file,label"]
    for number, path in enumerate(sorted((photographs / "eval").rglob("*.jpg"))):
        (tmp_path / "val" / f"{number}.JPEG").write_bytes(path.read_bytes())
        rows.append(f"{number}.JPEG,{path.parent.name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    overrides = [f"task.train.urls={photographs}/class_tars/*.tar", f"task.eval.url={tmp_path}/val"]
    overrides += [f"task.eval.labels={tmp_path}/labels.csv", "task/imagenet_resnet50_data=published", *SHRUNK]
    overrides.append("task.train.classes=['0','1','2','3','4','5','6','7','8','9']")
    workload = compose_workload(config(*QUIET, *overrides))
    source = workload.eval_source
    found = {record["image"]: int(record["label"]) for record in source.read(*all_positions(source))}
    assert found == {path.read_bytes(): int(path.parent.name) for path in (photographs / "eval").rglob("*.jpg")}
    assert 0 <= workload.evaluate()["accuracy"] <= 1


def test_the_archive_of_all_archives_is_to_be_unpacked_once(tmp_path):
    write_classes(tmp_path / "classes")
    whole = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "classes").iterdir())]
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", whole)
    message = r"img_train.tar is an archive of 3 archives, such as n01440764.tar, .*Unpack it once \(mkdir .*tar xf "
    with pytest.raises(DataError, match=message):
        ClassTarSource(f"{tmp_path}/ILSVRC2012_img_train.tar")
    with pytest.raises(DataError, match=message):
        TarSource(f"{tmp_path}/ILSVRC2012_img_train.tar").num_examples(0)


# ---- the network


def test_resnet_50_has_the_published_number_of_parameters():
    model = ImagenetResnet(num_classes=1000, **COLOURS)
    number = sum(values.numel() for values in model.parameters())
    assert number == 25_557_032
    assert f"{number:,} parameters" in ImagenetResnet.__doc__
    assert len(model.blocks) == 16 and list(model.units()) == list(model.blocks)


def test_the_stride_is_that_of_the_first_convolution_of_a_group():
    import torch

    model = ImagenetResnet(num_classes=10, num_blocks=[1, 2], widths=[4, 8], **COLOURS)
    strides = [[block.convolution_1.stride, block.convolution_2.stride] for block in model.blocks]
    assert strides == [[(1, 1), (1, 1)], [(2, 2), (1, 1)], [(1, 1), (1, 1)]]
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    model.outputs({"image": torch.zeros(2, 64, 64, 3, dtype=torch.uint8), "label": torch.zeros(2, dtype=torch.int64)})
    assert seen == [(2, 16, 16, 16), (2, 32, 8, 8), (2, 32, 8, 8)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, r"task.models.torch.widths=\[\] cannot be used. .*is ResNet-50"),
        ({"widths": [8, 0], "num_blocks": [1, 1]}, r"task.models.torch.widths=\[8, 0\] cannot be used"),
        ({"num_blocks": [3, 4]}, r"task.models.torch.num_blocks=\[3, 4\] cannot be used. Allowed: 4 whole numbers"),
        ({"num_blocks": [3, 4, 0, 3]}, r"task.models.torch.num_blocks=\[3, 4, 0, 3\] cannot be used"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        ImagenetResnet(num_classes=10, **COLOURS, **settings)


# ---- whole runs


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_an_echoed_run_from_the_command_line(name, cache, tmp_path):
    overrides = ["echo=stage", "echo.after=crop", "factor=2.5", "budget=steps", "budget.steps=3", "task.batch_size=32"]
    overrides += [f"backend={name}", "schedule=linear", "task.eval_interval=32", f"run_dir={tmp_path / 'run'}"]
    overrides += ["backend.compute_threads=null"]  # TensorFlow takes its threads once in a process
    overrides += ["task.models.torch.virtual_batch_size=16"]
    run_mode(config(*small(cache, *overrides)), folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 3 and summary["delivered_examples"] == 96
    assert 0 < summary["fresh_examples"] < 80 and 0 <= summary["accuracy"] <= 1


def test_both_frameworks_normalise_by_32_rows_in_the_full_network():
    overrides = ("task/imagenet_resnet50_data=tar", "task.train.urls=/data/a.tar", "task.eval.urls=/data/b.tar")
    task = config(*QUIET, *overrides)["task"]
    assert task["models"]["torch"]["virtual_batch_size"] == task["models"]["tensorflow"]["virtual_batch_size"] == 32
    assert task["models"]["tensorflow"]["num_blocks"] == [3, 4, 6, 3]

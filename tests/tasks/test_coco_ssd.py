"""SSD on COCO: the contract, the reader of the official files, what is bad in them, the miniature, whole runs."""

import json
import logging
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from dataecho.build import build
from dataecho.compose import compose_workload
from dataecho.errors import DataError, SettingError
from dataecho.modes import run_mode
from dataecho.pipeline.echo_point import EchoPoint
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.stage import Broken, ExampleError
from dataecho.plan.keys import KeyStream
from dataecho.testing.source_contract import SourceContract, all_positions, fingerprints
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import Task
from dataecho_tasks.coco_ssd.annotations import read_annotations
from dataecho_tasks.coco_ssd.data import CocoSsd
from dataecho_tasks.coco_ssd.drawing import DigitScenes
from dataecho_tasks.coco_ssd.json_stream import list_elements
from dataecho_tasks.coco_ssd.miniature import HEIGHT, WIDTH, miniature, write_miniature
from dataecho_tasks.coco_ssd.source import PARTS, CocoSource, coco
from dataecho_tasks.shared.images.pixels import decode_image
from tests.support import PROJECT, config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "task=coco_ssd")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("coco"))


def small(cache, *overrides):
    """The overrides that make the task as it is shipped small."""
    sizes = ("task.train.num_examples=96", "task.eval.num_examples=64", "task.shuffle_buffer=64")
    sizes += ("task.models.torch.widths=[4,8]", "task.models.torch.extras=[[4,8],[4,8]]")
    return (*QUIET, *sizes, f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}", *overrides)


def task_of(*overrides):
    return build(config(*overrides)["task"], Task, key="task")


class TestCocoSsd(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return task_of(*small(cache, "task.flip=true"))

    @pytest.fixture
    def outputs(self):
        # Default box 0, as it is, for class 1: where the object is, and where it is not.
        box = [[0.0, 0.0, 0.25, 0.25]]
        shared = {"scores": [0.9], "pairs": [4 * 10.0], "labels": [1.0], "crowd": [0.0]}
        defaults = task_of(*QUIET, "task.train.num_examples=1", "task.eval.num_examples=1").default_boxes
        offsets = defaults.encode(np.repeat(np.float32(box), len(defaults.centred), axis=0))[4:5]
        good = {**shared, "loss": 0.1, "offsets": offsets, "boxes": box}
        return good, {**good, "loss": 3.0, "boxes": [[0.5, 0.5, 0.9, 0.9]]}


# ---- the reader


def content(**changes):
    """Nine images, of which one has a crowd only and one nothing; categories with a gap; in no order."""
    images = [{"id": 10 * k, "file_name": f"{10 * k:03d}.jpg", "width": 40 + k, "height": 30} for k in range(9)]
    objects = [
        {
            "image_id": 10 * k,
            "category_id": 3,
            "bbox": [k, 2, 10.5, 20],
            "iscrowd": 0,
            "id": k,
            "segmentation": [[1, 2]],
        }
        for k in range(7)
    ]
    objects += [
        {"image_id": 0, "category_id": 1, "bbox": [5, 5, 5, 5], "iscrowd": 1, "id": 7},
        {"image_id": 70, "category_id": 1, "bbox": [5, 5, 5, 5], "iscrowd": 1, "id": 8},
        {"image_id": 20, "category_id": 90, "bbox": [0, 0, 1, 1], "id": 9},
    ]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 1, "name": "[a] {b}"}],
        "images": images[::-1],
        "annotations": objects,
        "categories": categories,
        **changes,
    }


def write_coco(folder, *, with_images=True, **changes):
    """``instances.json`` and the images, each of its size and of one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = content(**changes)
    (folder / "instances.json").write_text(json.dumps(facts))
    (folder / "images").mkdir(exist_ok=True)
    for image in facts["images"] if with_images else ():
        pixels = np.full((image["height"], image["width"], 3), image["id"], dtype=np.uint8)
        (folder / "images" / image["file_name"]).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return str(folder / "instances.json"), str(folder / "images")


class TestLocalCoco(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        places = write_coco(tmp_path / "data")
        return lambda: CocoSource(*places, split="eval")

    @pytest.fixture
    def changed_source(self, tmp_path):
        objects = content()["annotations"]
        objects[3]["bbox"] = [3, 2, 10.5, 21]
        return CocoSource(*write_coco(tmp_path / "changed", annotations=objects), split="eval")


class TestFarCoco(SourceContract):
    @pytest.fixture
    def new_source(self, tmp_path):
        write_coco(tmp_path / "data")
        for path in (tmp_path / "data").rglob("*.j*"):
            name = path.relative_to(tmp_path / "data").as_posix()
            fsspec.filesystem("memory").pipe_file(f"/far_coco/{name}", path.read_bytes())
        return lambda: CocoSource("memory://far_coco/instances.json", "memory://far_coco/images", split="eval")

    @pytest.fixture
    def changed_source(self, tmp_path):
        objects = content()["annotations"]
        objects[3]["category_id"] = 90
        return CocoSource(*write_coco(tmp_path / "changed", annotations=objects), split="eval")


def test_records_have_the_objects_of_their_image_with_labels_in_the_order_of_the_categories(tmp_path):
    source = CocoSource(*write_coco(tmp_path), split="eval")
    assert source.classes == ("person", "car", "toothbrush")
    assert (source.num_shards, source.num_examples(0), source.random_access, source.num_readers) == (1, 9, True, 0)
    assert source.max_objects == 2 and source.name(0, 3) == "030.jpg"
    records = source.read(*all_positions(source))
    assert [record["labels"].tolist() for record in records] == [[2, 1], [2], [2, 3], [2], [2], [2], [2], [1], []]
    assert records[0]["crowd"].tolist() == [False, True] and not records[1]["crowd"].any()
    np.testing.assert_array_equal(records[2]["boxes"], [[2, 2, 12.5, 22], [0, 0, 1, 1]])
    assert records[2]["size"].tolist() == [30, 42]
    assert decode_image(records[2]["image"], max_pixels=10_000)[0, 0].tolist() == [20, 20, 20]
    assert pickle.loads(pickle.dumps(source)).digest == source.digest


def test_for_training_crowds_and_what_has_no_other_object_are_left_out(tmp_path):
    places = write_coco(tmp_path)
    source = CocoSource(*places, split="train")
    assert [source.name(0, k) for k in range(source.num_examples(0))] == [f"{10 * k:03d}.jpg" for k in range(7)]
    records = source.read(*all_positions(source))
    assert [record["labels"].tolist() for record in records] == [[2], [2], [2, 3], [2], [2], [2], [2]]
    assert not any(record["crowd"].any() for record in records)
    assert source.digest != CocoSource(*places, split="eval").digest


def write_official(folder, *, lacking=()):
    """Empty images under the published names, and annotations of the published lengths."""
    for name, number in PARTS.values():
        number = 12 if name == "train2017" else number
        facts = content(
            images=[{"id": k, "file_name": f"{k:012d}.jpg", "width": 50, "height": 50} for k in range(number)],
            annotations=[{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        )
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(facts))
        (folder / name).mkdir()
        for image in facts["images"]:
            if image["id"] not in lacking:
                (folder / name / image["file_name"]).touch()
    return str(folder)


def test_the_published_parts_are_found_and_their_images_counted(tmp_path):
    folder = write_official(tmp_path / "coco")
    assert coco(folder + "/", split="eval").num_examples(0) == 5_000
    message = r"subset=None cannot be used. Allowed: true, .*train2017\.json has 12 images, expected are 118,287: it is"
    with pytest.raises(SettingError, match=message):
        coco(folder, split="train")
    assert coco(folder, split="train", subset=True).num_examples(0) == 1  # with an object
    node = config(*QUIET, "task/coco_ssd_data=official", f"task.train.folder={folder}", "task.train.subset=true")[
        "task"
    ]
    assert node["eval"]["subset"] is True and build(node["train"], object, key="task.train").num_examples(0) == 1
    with pytest.raises(SettingError, match="split=test cannot be used. Allowed: train, eval"):
        coco(folder, split="test")


def test_a_folder_without_the_files_is_told_with_where_to_get_them(tmp_path):
    with pytest.raises(SettingError, match=r"folder=.*annotations/instances_val2017.json and val2017/\. .*19 GB"):
        coco(str(tmp_path), split="eval")
    with pytest.raises(SettingError, match="^task.train.folder=/data/nowhere cannot be used. .*cocodataset.org"):
        task_of(*QUIET, "task/coco_ssd_data=official", "task.train.folder=/data/nowhere")
    folder = write_official(tmp_path / "coco")
    shutil.rmtree(tmp_path / "coco" / "val2017")
    with pytest.raises(SettingError, match=r"images=.*/val2017 cannot be used. Allowed: a folder that exists. Get"):
        coco(folder, split="eval")


# ---- bad data


def test_half_a_download_is_refused_and_says_how_much_is_missing(tmp_path):
    folder = write_official(tmp_path / "coco", lacking=range(4000, 5000))
    message = r"val2017 cannot be used. .*with every image of .*1,000 of 5,000 are missing, such as 000000004000.jpg"
    with pytest.raises(SettingError, match=message):
        coco(folder, split="eval")


def test_behind_a_url_a_missing_image_is_a_broken_example(tmp_path):
    write_coco(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/half_coco/instances.json", (tmp_path / "instances.json").read_bytes())
    for path in sorted((tmp_path / "images").iterdir())[:4]:
        memory.pipe_file(f"/half_coco/images/{path.name}", path.read_bytes())
    source = CocoSource("memory://half_coco/instances.json", "memory://half_coco/images", split="eval", num_retries=0)
    assert source.num_readers == 16
    broken = [isinstance(record, Broken) for record in source.read(*all_positions(source))]
    assert broken == [False] * 4 + [True] * 5


@pytest.mark.parametrize("name", ["image_id", "category_id", "bbox"])
def test_an_object_without_a_needed_field_is_told_by_its_number(tmp_path, name):
    objects = content()["annotations"]
    del objects[4][name]
    with pytest.raises(
        DataError, match=rf"instances.json: annotations\[4\] has no '{name}'\. Expected is COCO's format"
    ):
        CocoSource(*write_coco(tmp_path, annotations=objects))


BAD = {
    "no images": ({"images": []}, "it has no images"),
    "no categories": ({"categories": []}, "it has no categories"),
    "no file name": ({"images": [{"id": 0, "width": 3, "height": 3}]}, r"images\[0\] has no 'file_name'"),
    "no size": ({"images": [{"id": 0, "file_name": "a.jpg"}]}, r"images\[0\] has no 'width' and no 'height'"),
    "a size that is none": (
        {"images": [{"id": 0, "file_name": "a.jpg", "width": "3", "height": 3}]},
        r"images\[0\] has width '3', which is no whole number",
    ),
    "a file outside": (
        {"images": [{"id": 0, "file_name": "../a.jpg", "width": 3, "height": 3}]},
        r"images\[0\] has the file_name '../a.jpg', which is no name of a file in the image folder",
    ),
    "an absolute file": (
        {"images": [{"id": 0, "file_name": "/etc/passwd", "width": 3, "height": 3}]},
        r"images\[0\] has the file_name '/etc/passwd'",
    ),
    "three numbers": (
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3]}]},
        r"annotations\[0\] has the bbox \[1, 2, 3\], which is not \[left, top, width, height\]",
    ),
    "not a number": (
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, float("nan")]}]},
        r"annotations\[0\] has the bbox \[1, 2, 3, nan\]",
    ),
    "an unknown image": (
        {"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
        r"annotations\[0\] has image_id 5, and there is no such image",
    ),
    "an unknown category": (
        {"annotations": [{"image_id": 0, "category_id": 2, "bbox": [1, 2, 3, 4]}]},
        r"annotations\[0\] has category_id 2, and there is no such category",
    ),
    "an image twice": (
        {"images": [{"id": 4, "file_name": "a.jpg", "width": 3, "height": 3}] * 2, "annotations": []},
        "image 4 comes twice",
    ),
    "a huge number": (
        {"images": [{"id": 2**63, "file_name": "a.jpg", "width": 3, "height": 3}]},
        r"images\[0\] has id 9223372036854775808, which is no whole number from 0 to 2\^63 - 1",
    ),
    "a huge box": (
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 10**400]}]},
        r"annotations\[0\] has the bbox \[1, 2, 3, 1000",
    ),
    "a crowd in quotes": (
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": "0"}]},
        r"annotations\[0\] has iscrowd '0', which is neither 0 nor 1",
    ),
    "shares for pixels": (
        {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [0.25, 0, 0.5, 1.0]}] * 3},
        r"all 3 boxes lie between 0 and 1.01, as shares of the picture would: .* Multiply them by width and height",
    ),
    "nested lists": (
        {"info": json.loads("[" * 900 + "]" * 900), "images": json.loads("[" * 900 + "]" * 900)},
        r"images\[0\] is no object but",
    ),
    "a list of numbers": ({"images": [7]}, r"images\[0\] is no object but '7'"),
}


@pytest.mark.parametrize("name", BAD)
def test_annotations_that_cannot_be_used_are_told_with_their_place(tmp_path, name):
    changes, message = BAD[name]
    with pytest.raises(DataError, match=f"instances.json: {message}"):
        CocoSource(*write_coco(tmp_path, with_images=False, **changes))


@pytest.mark.parametrize("name", ["info", "images"])
def test_lists_that_are_nested_too_deeply_are_told(name):
    data = b'{"images": [], "' + name.encode() + b'": ' + b"[" * 100_000
    with pytest.raises(DataError, match=r"here: no JSON object with lists, at letter \d+: it is nested too deeply"):
        read_annotations([data], where="here")


@pytest.mark.parametrize("value", [0, 1, True, False])
def test_a_crowd_is_a_number_or_a_truth(tmp_path, value):
    objects = [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": value}]
    source = CocoSource(*write_coco(tmp_path, annotations=objects), split="eval")
    assert source.read(*all_positions(source))[0]["crowd"].tolist() == [bool(value)]


def test_a_box_of_one_pixel_is_no_share(tmp_path):
    objects = [{"image_id": 0, "category_id": 1, "bbox": box} for box in ([0, 0, 1, 1], [0.2, 0.2, 3, 3])]
    source = CocoSource(*write_coco(tmp_path, annotations=objects), split="eval")
    np.testing.assert_allclose(source.read(*all_positions(source))[0]["boxes"], [[0, 0, 1, 1], [0.2, 0.2, 3.2, 3.2]])


# ---- categories that one of two files lacks


def fewer_categories():
    """The same objects without those of the category 1, which is not in the file either."""
    facts = content()
    objects = [one for one in facts["annotations"] if one["category_id"] != 1]
    return {"annotations": objects, "categories": [one for one in facts["categories"] if one["id"] != 1]}


def test_categories_that_one_file_lacks_shift_no_label(tmp_path):
    whole, part = write_coco(tmp_path / "a"), write_coco(tmp_path / "b", **fewer_categories())
    node = config(*QUIET)["task"] | {"num_classes": 3}
    sources = {
        name: {"_target_": "dataecho_tasks.coco_ssd.source.CocoSource", "annotations": places[0], "images": places[1]}
        for name, places in (("train", whole), ("eval", part))
    }
    with pytest.raises(SettingError, match="^task.eval=2 classes cannot be used. .* Only in task.train: person"):
        build(node | sources, Task, key="task")
    names = ["person", "car", "toothbrush"]
    given = {name: source | {"classes": names} for name, source in sources.items()}
    task = build(node | given, Task, key="task")
    for source in (task.train_source(), task.eval_source()):
        records = source.read(*all_positions(source))
        assert source.classes == tuple(names) and records[2]["labels"].tolist() == [2, 3]
    with pytest.raises(SettingError, match="task.num_classes=80 cannot be used. Allowed: 3"):
        build(node | given | {"num_classes": 80}, Task, key="task")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["person", "car"], "classes=2 names cannot be used. .*not among those given: toothbrush"),
        (["car", "car"], r"classes=\['car', 'car'\] cannot be used. Allowed: null, or every class once"),
    ],
)
def test_classes_that_do_not_fit_the_objects_are_refused(tmp_path, classes, message):
    with pytest.raises(SettingError, match=message):
        CocoSource(*write_coco(tmp_path), classes=classes)


def test_given_classes_need_categories_of_different_names(tmp_path):
    places = write_coco(tmp_path, categories=[{"id": number, "name": "car"} for number in (1, 3, 90)])
    assert CocoSource(*places).classes == ("car", "car", "car")
    with pytest.raises(SettingError, match="the category 'car' comes twice"):
        CocoSource(*places, classes=["car"])


# ---- pictures that an EXIF entry turns


def write_turned(folder, *, size, entry, annotated):
    """One image, bright in the corner that is stored first, with a box in that corner of the picture that is meant."""
    height, width = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = entry
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "images" / "a.png", exif=exif)
    facts = content(
        images=[{"id": 1, "file_name": "a.png", "height": annotated[0], "width": annotated[1]}],
        annotations=[{"image_id": 1, "category_id": 1, "bbox": [0, 0, annotated[1] // 2, annotated[0] // 2]}],
    )
    (folder / "instances.json").write_text(json.dumps(facts))
    return str(folder / "instances.json"), str(folder / "images")


def decoded_at_first(source, cache):
    stage = task_of(*small(cache)).stages()[0]
    return stage.function(source.read(*all_positions(source))[0])


@pytest.mark.parametrize(
    ("size", "entry", "annotated", "orientation", "as_stored"),
    [
        ((30, 40), 1, (30, 40), None, True),  # nothing turns it
        ((30, 40), 6, (30, 40), None, True),  # it fits only the picture as it is stored
        ((30, 40), 6, (30, 40), "turned", True),
        ((30, 40), 6, (40, 30), None, False),  # only the one that is turned
        ((30, 40), 8, (40, 30), "stored", False),
        ((30, 30), 6, (30, 30), None, False),  # both: as the setting says
        ((30, 30), 6, (30, 30), "turned", False),
        ((30, 30), 6, (30, 30), "stored", True),
        ((30, 40), 3, (30, 40), None, False),
        ((30, 40), 3, (30, 40), "stored", True),
    ],
)
def test_boxes_lie_on_the_picture_that_their_annotated_size_fits(
    tmp_path, cache, caplog, size, entry, annotated, orientation, as_stored
):
    source = CocoSource(
        *write_turned(tmp_path, size=size, entry=entry, annotated=annotated), split="eval", orientation=orientation
    )
    example = decoded_at_first(source, cache)
    assert example["image"].shape[:2] == annotated
    left, top, right, bottom = example["boxes"][0].astype(int).tolist()
    assert (
        example["image"][top:bottom, left:right].mean() == 255
    ) == as_stored  # the bright corner is that stored first
    is_told = "1 images so far, such as a.png, have an EXIF entry" in caplog.text
    assert is_told == (entry != 1 and (size[0] == size[1] or entry < 5))
    if is_told:
        assert f"for the picture as it is {orientation or 'turned'} (orientation)" in caplog.text
        source.read(*all_positions(source))  # the same image, read again, is no other
        assert caplog.text.count("images so far") == 1


def test_a_size_that_fits_neither_picture_is_broken(tmp_path, cache):
    source = CocoSource(*write_turned(tmp_path, size=(30, 40), entry=6, annotated=(30, 30)), split="eval")
    with pytest.raises(ValueError, match="the image has 30 x 40 pixels, its annotations are for 30 x 30"):
        decoded_at_first(source, cache)


def test_which_picture_is_meant_is_part_of_the_digest_and_refused_by_name(tmp_path):
    places = write_turned(tmp_path, size=(30, 30), entry=6, annotated=(30, 30))
    sources = [CocoSource(*places, orientation=orientation) for orientation in (None, "turned", "stored")]
    assert len({source.digest for source in sources}) == 2 and sources[0].digest == sources[1].digest
    assert pickle.loads(pickle.dumps(sources[2])).read(*all_positions(sources[2]))[0]["stored"] is True
    with pytest.raises(SettingError, match="orientation=raw cannot be used. Allowed: null, turned, stored"):
        CocoSource(*places, orientation="raw")


@pytest.mark.parametrize("changes", [{"annotations": []}, {"annotations": content()["annotations"][7:9]}])
def test_without_an_object_there_is_nothing_to_train_on(tmp_path, changes):
    places = write_coco(tmp_path, **changes)
    with pytest.raises(SettingError, match="annotations=.*objects that are no crowds. No image has any"):
        CocoSource(*places, split="train")
    assert CocoSource(*places, split="eval").num_examples(0) == 9


def test_boxes_outside_of_their_image_are_cut_off_or_left_out_and_counted(tmp_path, caplog):
    objects = [
        {"image_id": 0, "category_id": 1, "bbox": [-5, -5, 20, 20]},  # 40 x 30 pixels
        {"image_id": 0, "category_id": 1, "bbox": [30, 20, 10.5, 10.5]},  # half a pixel is no reason to speak of it
        {"image_id": 0, "category_id": 1, "bbox": [50, 5, 5, 5]},
        {"image_id": 10, "category_id": 1, "bbox": [5, 5, 0, 5]},
        {"image_id": 20, "category_id": 1, "bbox": [5, 5, 1, 5]},
    ]
    with caplog.at_level(logging.WARNING):
        source = CocoSource(*write_coco(tmp_path, annotations=objects), split="train")
    assert "instances.json: 2 boxes that leave their image by more than a pixel" in caplog.text
    assert "2 without any area in it were left out" in caplog.text
    records = source.read(*all_positions(source))
    assert [source.name(0, k) for k in range(source.num_examples(0))] == ["000.jpg", "020.jpg"]
    assert records[0]["boxes"].tolist() == [[0, 0, 15, 15], [30, 20, 40, 30]]


def test_an_image_of_another_size_than_its_annotations_say_is_broken(tmp_path, cache):
    annotations, images = write_coco(tmp_path)
    (tmp_path / "images" / "030.jpg").write_bytes((tmp_path / "images" / "040.jpg").read_bytes())
    (tmp_path / "images" / "050.jpg").write_bytes((tmp_path / "images" / "050.jpg").read_bytes()[:200])
    task = task_of(*small(cache))
    source = CocoSource(annotations, images, split="train")
    stage = task.stages()[0]
    records = source.read(*all_positions(source))
    with pytest.raises(ValueError, match="the image has 44 x 30 pixels, its annotations are for 43 x 30: the boxes do"):
        stage.function(records[3])
    with pytest.raises(ValueError, match="JPEG file that is cut short"):
        stage.function(records[5])
    # Both are told, with the file, or left out where some are tolerated.
    with Feed(source, task.stages(), batch_size=7, shuffle_buffer=0, seed=0) as feed:
        with pytest.raises(ExampleError, match=r"stage 'decode' failed on 0[35]0.jpg"):
            next(feed)
    settings = PipelineSettings(max_skipped_share=0.5)
    with Feed(source, task.stages(), batch_size=7, shuffle_buffer=0, seed=0, settings=settings) as feed:
        batch = next(feed)
    assert sorted(example.name[:7] for example in batch.skipped) == ["030.jpg", "050.jpg"] and batch.weights.sum() == 5


def test_too_many_objects_and_unknown_labels_are_told(cache):
    stage = task_of(*small(cache, "task.max_objects=2")).stages()[0]
    image = cv2.imencode(".jpg", np.zeros((20, 20, 3), dtype=np.uint8))[1].tobytes()

    def record(*labels):
        number = len(labels)
        boxes = np.tile(np.float32([1, 1, 9, 9]), (number, 1))
        facts = {"boxes": boxes, "labels": np.array(labels, dtype=np.int64), "crowd": np.zeros(number, dtype=bool)}
        return {"image": image, "size": np.array([20, 20]), **facts}

    assert stage.function(record(10, 1))["labels"].tolist() == [10, 1]
    with pytest.raises(ValueError, match="3 objects are more than task.max_objects=2"):
        stage.function(record(1, 1, 1))
    with pytest.raises(ValueError, match="label 11 is no whole number from 1 to 10: see task.num_classes"):
        stage.function(record(11))
    with pytest.raises(ValueError, match="no size and no crowd in a record of image, boxes, labels"):
        stage.function({name: value for name, value in record(1).items() if name not in ("size", "crowd")})


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_cut_of_the_file_into_pieces_changes_nothing(size):
    text = json.dumps(
        content(info={"name": 'Größe \\u00e9 " ]}', "n": [1.5e3, -2, True, None]}), indent=1, ensure_ascii=False
    )
    data = text.encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    expected = [(name, one) for name in ("images", "annotations", "categories") for one in content()[name]]
    assert list(list_elements(pieces, ("images", "annotations", "categories"))) == expected
    assert list(list_elements([b'{"a": [12', b'34, 5], "b": 1', b"7}"], ("a",))) == [("a", 1234), ("a", 5)]
    assert list(list_elements([b" {", b"} "], ("a",))) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it ends where '{' should be"),
        (b"[]", "at letter 0: '{' is expected, not '\\['"),
        (b'{"images": 7}', "at letter 11: '\\[' is expected, not '7'"),
        (b'{"info": [{"id": 1}', "Expecting ',' delimiter"),
        (b'{"annotations": [', "Expecting value"),
        (b'{"categories": []', "it ends where ',' should be"),
        (b'{"images": [{"id": ', "at letter 12: Expecting value"),
        (b'{"images": [{"id": \xff}]}', "it is no UTF-8 text"),
        (b'{"images" [', "':' is expected, not '\\['"),
        (b"PK\x03\x04", "'{' is expected, not 'P'"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(data, message):
    with pytest.raises(DataError, match=f"a.json: no JSON object with lists, .*{message}"):
        read_annotations([data], where="a.json")


def test_a_file_is_read_in_little_memory(tmp_path):
    import tracemalloc

    outline = [[0.25] * 500]
    objects = [
        {"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": outline, "id": k} for k in range(1000)
    ]
    data = json.dumps(content(annotations=objects)).encode()
    assert len(data) > 3_000_000
    pieces = (data[start : start + 65536] for start in range(0, len(data), 65536))
    tracemalloc.start()
    try:
        found = read_annotations(pieces, where="a.json")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.boxes) == 1000 and most < len(data) / 5


# ---- the miniature


def test_the_miniature_is_scenes_in_the_published_layout(tmp_path):
    write_miniature(tmp_path / "data", split="train", num_examples=70)
    facts = json.loads((tmp_path / "data" / "annotations" / "instances_train2017.json").read_text())
    assert facts.keys() == {"info", "licenses", "images", "annotations", "categories"}
    assert [image["id"] for image in facts["images"]] == list(range(70))
    source = CocoSource(
        str(tmp_path / "data" / "annotations" / "instances_train2017.json"), str(tmp_path / "data" / "train2017")
    )
    assert source.num_examples(0) == 70 and source.classes == tuple("0123456789")
    drawn = DigitScenes(split="train", width=WIDTH, height=HEIGHT)
    for number, record in enumerate(source.read(*all_positions(source))):
        image, boxes, labels = drawn.draw(number)
        assert record["boxes"].tolist() == [list(box) for box in boxes]
        assert record["labels"].tolist() == [label + 1 for label in labels]
        decoded = decode_image(record["image"], max_pixels=WIDTH * HEIGHT)
        assert np.abs(decoded.astype(int) - image).mean() < 6
    write_miniature(tmp_path / "again", split="train", num_examples=70)
    for path in (tmp_path / "data").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "data")).read_bytes() == path.read_bytes()


def test_a_scene_has_one_to_five_digits_that_do_not_touch():
    drawn = DigitScenes(split="train", width=WIDTH, height=HEIGHT)
    counts, labels = np.zeros(7, dtype=int), np.zeros(10, dtype=int)
    for number in range(200):
        image, boxes, classes = drawn.draw(number)
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        counts[len(boxes)] += 1
        for label in classes:
            labels[label] += 1
        cover = np.zeros((HEIGHT + 1, WIDTH + 1), dtype=int)
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
            assert 12 <= bottom - top <= 56
            cover[top : bottom + 1, left : right + 1] += 1
        assert cover.max() == 1
    assert counts[0] == counts[6] == 0 and (counts[1:6] > 5).all() and (labels > 20).all()
    other = DigitScenes(split="train", width=WIDTH, height=HEIGHT, seed=1)
    assert not np.array_equal(other.draw(0)[0], drawn.draw(0)[0])


def ask(cache_dir):
    source = miniature(split="eval", num_examples=150, cache_dir=cache_dir)
    return source.digest, fingerprints(source.read(*all_positions(source)))


def test_processes_that_ask_at_once_get_the_same_miniature(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        first, *others = pool.map(ask, [str(tmp_path)] * 3)
    assert len(first[1]) == 150 and all(other == first for other in others)
    assert len([path for path in (tmp_path / "coco").iterdir() if path.is_dir()]) == 1


def test_a_miniature_of_nothing_and_an_unknown_split_are_refused(tmp_path):
    with pytest.raises(SettingError, match="num_examples=0 cannot be used. Allowed: whole numbers >= 1"):
        miniature(split="train", num_examples=0, cache_dir=str(tmp_path))
    with pytest.raises(SettingError, match="split=test cannot be used. Allowed: train, eval"):
        miniature(split="test", num_examples=4, cache_dir=str(tmp_path))


# ---- what a person sees


def test_boxes_are_shown_where_they_lie_after_every_stage(cache):
    task = task_of(*small(cache))
    source = task.train_source()
    (record,) = source.read(np.array([0]), np.array([3]))
    drawn = DigitScenes(split="train", width=WIDTH, height=HEIGHT).draw(3)
    shown = task.show(record)
    assert [(box.left, box.top, box.right, box.bottom) for box in shown.boxes] == drawn[1]
    assert [box.label for box in shown.boxes] == [str(label) for label in drawn[2]]
    assert shown.image.shape == (HEIGHT, WIDTH, 3) and shown.caption.endswith(" kB")
    decode, *_, resize, targets = [stage for stage in task.stages() if not stage.random]
    decoded = {**decode.function(record), "window": np.array([-32, -24, 128, 96], dtype=np.float32)}
    shown = task.show(decoded)
    assert shown.image.shape == (120, 160, 3) and shown.caption == "160 x 120"
    assert (shown.boxes[0].left, shown.boxes[0].top) == (drawn[1][0][0] + 32, drawn[1][0][1] + 24)
    shown = task.show(resize.function(decoded))
    assert shown.image.shape == (96, 96, 3)
    assert shown.boxes[0].left == pytest.approx((drawn[1][0][0] + 32) / 160 * 96, abs=1e-4)
    words = task.show(targets.function(resize.function(decoded))).caption
    assert words.endswith(" of 756 default boxes") and int(words.split()[0]) >= len(drawn[1])


def test_predictions_are_shown_beside_what_is_true_if_the_model_is_sure_enough(cache):
    task = task_of(*small(cache))
    (record,) = task.eval_source().read(np.array([0]), np.array([0]))
    for stage in task.eval_stages():
        record = stage.function(record)
    boxes = np.repeat(np.float32([[0.25, 0.25, 0.5, 0.75]]), 756, axis=0)
    offsets = task.default_boxes.encode(boxes)[[0, 1]]
    outputs = {"pairs": np.array([[7, 10 + 2]]), "scores": np.array([[0.8, 0.2]]), "offsets": offsets[None]}
    examples = {name: np.stack([value]) for name, value in record.items()}
    (shown,) = task.show_predictions(examples, lambda rows: outputs)
    *true, found = shown.boxes
    assert tuple(true) == task.show(record).boxes and len(true) > 0
    assert (found.label, found.score) == ("7", 0.8)
    assert (found.left, found.top, found.right, found.bottom) == pytest.approx((24, 24, 48, 72), abs=1e-3)
    assert shown.caption == f"1 found, {len(true)} there"


# ---- stages


def test_the_stages_and_where_the_aliases_of_echo_points_lie(cache):
    stages = task_of(*small(cache, "task.flip=true")).stages()
    assert [(stage.name, stage.random) for stage in stages] == [
        ("decode", False),
        ("expand", True),
        ("crop", True),
        ("resize", False),
        ("flip", True),
        ("colour", True),
        ("targets", False),
    ]
    assert EchoPoint.resolve("before_augmentation", stages).stage == "decode"
    assert EchoPoint.resolve("after_augmentation", stages).stage == "colour"
    plain = task_of(*small(cache, "task.max_expand=1", "task.min_crop=1", "task.colour=0"))
    assert [stage.name for stage in plain.stages()] == ["decode", "resize", "targets"]
    assert [stage.name for stage in plain.eval_stages()] == ["decode", "resize", "targets"]


def test_a_mirrored_image_has_mirrored_boxes(cache):
    (stage,) = [stage for stage in task_of(*small(cache, "task.flip=true")).stages() if stage.name == "flip"]
    draws = np.random.default_rng(0)
    chunk = {
        "image": draws.integers(256, size=(40, 8, 8, 3), dtype=np.uint8),
        "boxes": np.tile(np.float32([[0.1, 0.2, 0.4, 0.9], [0, 0, 0, 0]]), (40, 1, 1)),
        "labels": np.tile(np.array([3, 0]), (40, 1)),
    }
    found = stage.function(chunk, KeyStream(0, "test.flip").keys(np.arange(40)))
    mirrored = np.array(
        [not np.array_equal(one, other) for one, other in zip(found["image"], chunk["image"], strict=True)]
    )
    assert 5 < mirrored.sum() < 35
    np.testing.assert_array_equal(found["image"][mirrored], chunk["image"][mirrored][:, :, ::-1])
    np.testing.assert_allclose(
        found["boxes"][mirrored], np.tile([[[0.6, 0.2, 0.9, 0.9], [0] * 4]], (mirrored.sum(), 1, 1))
    )
    np.testing.assert_array_equal(found["boxes"][~mirrored], chunk["boxes"][~mirrored])


def test_crowds_are_no_targets(cache):
    *_, stage = task_of(*small(cache)).eval_stages()
    facts = {"boxes": np.float32([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]]), "labels": np.array([1, 2])}
    classes = [stage.function({**facts, "crowd": np.array(crowd)})["classes"] for crowd in ([0, 0], [False, True])]
    both, one = (
        set(found.tolist()) for found in (stage.function({**facts, "crowd": np.zeros(2, bool)})["classes"], classes[1])
    )
    assert both == {0, 1, 2} and one == {0, 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.num_classes=0"], "task.num_classes=0 cannot be used. Allowed: >= 1"),
        (["task.max_objects=0"], "task.max_objects=0 cannot be used"),
        (["task.max_expand=0.5"], "task.max_expand=0.5 cannot be used. Allowed: >= 1"),
        (["task.crop_rule=usual"], "task.crop_rule=usual cannot be used. Allowed: published, one_draw"),
        (["task.min_crop=0"], r"task.min_crop=0 cannot be used. Allowed: shares in \(0, 1\]"),
        (["task.colour=1"], r"task.colour=1 cannot be used. Allowed: shares in \[0, 1\)"),
        (["~task.default_boxes", "+task.default_boxes=7"], "task.default_boxes=int cannot be used. .*DefaultBoxes"),
        (["task.default_boxes.steps=[8]"], r"^task.default_boxes.steps=\[8.0\] cannot be used"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(cache, overrides, message):
    if overrides[0].startswith("~"):
        overrides = [*overrides, "task.models.torch.default_boxes=null"]
    with pytest.raises(SettingError, match=message):
        task_of(*small(cache, *overrides))


# ---- whole runs


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_an_echoed_run_from_the_command_line(name, cache, tmp_path):
    overrides = ["echo=before_augmentation", "factor=2.5", "budget=steps", "budget.steps=4", "task.batch_size=16"]
    overrides += [f"backend={name}", "schedule=warm_up_drops", "optimizer=momentum", "task.eval_interval=16"]
    overrides += ["backend.compute_threads=null"]  # TensorFlow takes its threads once in a process
    overrides += ["task.models.torch.virtual_batch_size=8", f"run_dir={tmp_path / 'run'}"]
    run_mode(config(*small(cache, *overrides)), folder=None, project=PROJECT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["delivered_examples"] == 64
    assert 0 < summary["fresh_examples"] < 50 and 0 <= summary["mAP"] <= 1


def test_the_full_schedule_is_the_papers():
    node = config(*QUIET, "task/coco_ssd_data=official", "task.train.folder=/data/coco")
    assert node["schedule"]["warm_up"] == pytest.approx(3.5 * 118_287 / node["task"]["budget"], abs=1e-4)
    assert len(node["schedule"]["drops"]) == 2 and node["schedule"]["drop"] == 0.1
    models = node["task"]["models"]
    assert models["torch"]["virtual_batch_size"] == models["tensorflow"]["virtual_batch_size"] == 128
    assert node["task"]["eval"]["folder"] == "/data/coco"


def taken_from(places):
    """The overrides that replace the task's sources; ``places`` maps a split to its annotations and images."""
    overrides = []
    for split, (annotations, images) in places.items():
        node = f"_target_: dataecho_tasks.coco_ssd.source.CocoSource, annotations: {annotations}, images: {images}"
        overrides += [f"~task.{split}", f"+task.{split}={{{node}, split: {split}}}"]
    return overrides


def test_any_source_of_such_records_can_be_given(tmp_path, cache):
    annotations, images = write_coco(tmp_path)
    overrides = taken_from({split: (annotations, images) for split in PARTS})
    overrides += ["task.batch_size=4", "task.models.torch.virtual_batch_size=4", "task.eval_interval=8"]
    overrides += ["task.models.torch.widths=[4,8]", "task.models.torch.extras=[[4,8],[4,8]]", "task.num_classes=3"]
    workload = compose_workload(config(*QUIET, *overrides))
    assert isinstance(workload.task, CocoSsd)
    assert workload.evaluate().keys() == {"eval_loss", "mAP", "mAP_50", "mAP_75"}

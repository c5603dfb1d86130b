"""The images task: the contract, its data from every kind of source, its stages, its scenes."""

import json
import math
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hydra.utils import get_object
from PIL import Image

from dataecho.backends.torch_backend import TorchBackend
from dataecho.build import build
from dataecho.compose import compose_workload
from dataecho.errors import SettingError
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import as_examples, run_stage
from dataecho.plan.keys import KeyStream
from dataecho.testing.source_contract import all_positions, fingerprints
from dataecho.testing.task_contract import TaskContract
from dataecho.training.contracts import AcceleratorSettings, BackendContext, OptimizerSettings, Task
from dataecho.training.evaluation import evaluate
from dataecho_tasks.images.data import Images
from dataecho_tasks.images.torch_model import ImagesNet
from dataecho_tasks.shared.images import pixels
from dataecho_tasks.shared.images.classification import pixels_of
from dataecho_tasks.shared.images.drawing import Scenes
from dataecho_tasks.shared.images.headers import image_size
from dataecho_tasks.shared.images.pixels import (
    as_rgb,
    central_crop,
    decode_image,
    published_crop,
    random_colour,
    random_crop,
    random_flip,
)
from dataecho_tasks.shared.images.scenes import scenes, write_scenes
from tests.support import config

QUIET = ("tracking=none", "display=none", "accelerator=cpu", "backend.compute_threads=1", "task=images")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("scenes"))


def small(cache, *overrides):
    """The overrides that make the task as it is shipped small."""
    sizes = ("task.train.num_examples=256", "task.eval.num_examples=64", "task.train.pixels=48", "task.eval.pixels=48")
    return (*QUIET, *sizes, f"task.train.cache_dir={cache}", f"task.eval.cache_dir={cache}", *overrides)


def images(cache, *overrides):
    return build(config(*small(cache, *overrides))["task"], Task, key="task")


class TestImages(TaskContract):
    @pytest.fixture
    def task(self, cache):
        return images(cache, "task.flip=true")

    @pytest.fixture
    def outputs(self):
        return {"loss": 0.1, "correct": 1.0, "predicted": 1}, {"loss": 3.0, "correct": 0.0, "predicted": 2}


def keys(number, *, seed=0):
    return KeyStream(seed, "test.images").keys(np.arange(number))


def picture(height=40, width=60, *, seed=0):
    """Smooth colours, so that JPEG keeps them nearly."""
    rough = np.random.default_rng(seed).integers(256, size=(4, 6, 3), dtype=np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image, kind="JPEG", **settings):
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **settings)
    return file.getvalue()


# ---- decoding


def test_a_jpeg_is_decoded_to_rgb():
    image = picture()
    assert np.abs(decode_image(encoded(image, quality=98), max_pixels=10**6).astype(int) - image).mean() < 3
    red = encoded(np.full((16, 16, 3), (255, 0, 0), dtype=np.uint8))
    assert decode_image(red, max_pixels=256)[8, 8, 0] > 250 and decode_image(red, max_pixels=256)[8, 8, 2] < 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_png_is_decoded_exactly_whatever_its_mode(mode):
    image = Image.fromarray(picture()).quantize(16).convert("RGB")
    found = decode_image(encoded(image.quantize(16) if mode == "P" else image.convert(mode), "PNG"), max_pixels=2400)
    np.testing.assert_array_equal(found, np.asarray(image.convert(mode if mode == "L" else "RGB").convert("RGB")))


@pytest.mark.parametrize(("mode", "settings"), [("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})])
def test_greys_inks_and_progressive_files_are_decoded_as_rgb(mode, settings):
    image = Image.fromarray(picture()).convert(mode)
    found = decode_image(encoded(image, quality=98, **settings), max_pixels=10**6)
    assert found.shape == (40, 60, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).mean() < 4


def with_preview(data, preview):
    """A JPEG file with a segment in its header that has another JPEG file in it, as cameras write them."""
    segment = b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview
    return data[:2] + segment + data[2:]


KINDS = {
    "jpeg": encoded(picture()),
    "progressive": encoded(picture(), progressive=True),
    "preview": with_preview(encoded(picture()), encoded(picture(8, 8))),
    "png": encoded(picture(), "PNG"),
    "webp": encoded(picture(), "WEBP"),
    "webp without loss": encoded(picture(), "WEBP", lossless=True),
    "webp with an entry": encoded(picture(), "WEBP", exif=Image.Exif().tobytes()),
    "bmp": encoded(picture(), "BMP"),
    "bmp with a palette": encoded(Image.fromarray(picture()).quantize(16), "BMP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_read_from_the_header(kind):
    assert image_size(KINDS[kind]) == (40, 60)
    assert decode_image(KINDS[kind], max_pixels=2400).shape == (40, 60, 3)
    assert image_size(KINDS[kind] + bytes(100)) == (40, 60)  # what follows the end does not matter


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_anywhere_is_refused(kind):
    data = KINDS[kind]
    ends = {0, 1, 2, 3, 10, 20, *range(0, len(data) - 4, 37), len(data) - 12 if kind == "png" else len(data) - 2}
    for end in sorted(ends):
        with pytest.raises(ValueError, match="cut short|no JPEG, PNG, WebP or BMP file|damaged"):
            decode_image(data[:end], max_pixels=10**6)


@pytest.mark.parametrize(
    ("kind", "mark"), [("jpeg", "marker"), ("progressive", "marker"), ("preview", "marker"), ("png", "mark")]
)
def test_the_end_of_a_file_is_looked_for_before_it_is_decoded(kind, mark):
    end = KINDS[kind].rfind(b"IEND" if kind == "png" else b"\xff\xd9")
    with pytest.raises(ValueError, match=f"file that is cut short: no end {mark} in {end} bytes"):
        image_size(KINDS[kind][:end])


def damaged(data, start, replacement):
    return data[:start] + replacement + data[start + len(replacement) :]


JPEG, PNG = KINDS["jpeg"], KINDS["png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"no JPEG, PNG, WebP or BMP file: it begins with b''"),
        (b"<html>404</html>", r"no JPEG, PNG, WebP or BMP file: it begins with b'<html>40'"),
        (b"GIF89a" + bytes(50), "no JPEG, PNG, WebP or BMP file"),
        (damaged(JPEG, 20, b"\0\0"), "a damaged JPEG file: no marker at byte 20"),
        (damaged(PNG, 12, b"IDAT"), "a damaged PNG file: its header has no size"),
        (damaged(PNG, 60, bytes(20)), "the image cannot be decoded: its data are damaged"),
        (b"\xff\xd8\xff\xda\0\2" + bytes(20) + b"\xff\xd9", "a damaged JPEG file: its header has no size"),
    ],
)
def test_a_damaged_file_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_image(data, max_pixels=10**6)


def huge(kind):
    """The file, whose header says 60,000 x 60,000 pixels, or the most that its format can say."""
    data, side = KINDS[kind], 60000
    if kind == "png":
        return damaged(data, 16, struct.pack(">II", side, side)), side
    if kind == "webp":
        return damaged(data, 26, struct.pack("<HH", 16383, 16383)), 16383
    if kind == "webp without loss":
        return damaged(data, 21, struct.pack("<I", 16383 | 16383 << 14)), 16384
    if kind == "webp with an entry":
        return damaged(data, 24, 2 * (side - 1).to_bytes(3, "little")), side
    if kind.startswith("bmp"):
        return damaged(data, 18, struct.pack("<ii", side, side)) + bytes(1), side
    place = data.rfind(b"\xff\xc2" if kind == "progressive" else b"\xff\xc0") + 5
    return damaged(data, place, struct.pack(">HH", side, side)), side


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_claims_too_many_pixels_is_refused_before_it_is_decoded(kind, monkeypatch):
    data, side = huge(kind)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    message = f"{side} x {side} pixels are more than max_pixels=89478485"
    with pytest.raises(ValueError, match="a BMP file that is cut short" if kind.startswith("bmp") else message):
        decode_image(data, max_pixels=89_478_485)
    with pytest.raises(ValueError, match="60 x 40 pixels are more than max_pixels=2399"):
        decode_image(KINDS[kind], max_pixels=2399)


def test_pixels_that_are_there_are_taken_as_rgb():
    image = picture()
    assert as_rgb(image) is image
    for grey in (image[:, :, 0], image[:, :, :1]):
        np.testing.assert_array_equal(as_rgb(grey), np.stack([image[:, :, 0]] * 3, axis=2))
    for other in (image.astype(np.float32), image[:, :, :2], image[None]):
        with pytest.raises(ValueError, match=r"an image must be uint8 \[height, width, 3\]"):
            as_rgb(other)


# ---- augmentation


def coordinates(height, width):
    """An image whose red says the row and whose green says the column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2)


@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_a_crop_has_its_area_and_shape_and_comes_from_everywhere(min_area):
    image = coordinates(100, 140)
    areas, shapes, tops, lefts = [], [], [], []
    for key in keys(400):
        crop = random_crop(image, key, size=200, min_area=min_area)
        assert crop.shape == (200, 200, 3) and crop.dtype == np.uint8 and crop.flags.c_contiguous
        rows, columns = crop[:, 0, 0].astype(int), crop[0, :, 1].astype(int)
        assert np.diff(rows).min() >= -1 and np.diff(columns).min() >= -1  # OpenCV rounds
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        areas.append(height * width / 14000)
        shapes.append(width / height)
        tops.append(rows[0])
        lefts.append(columns[0])
    assert min_area * 0.95 < min(areas) < min_area * 1.25 and max(areas) > 0.95
    assert 1.3 < max(shapes) < 1.45
    assert min(tops) == min(lefts) == 0
    if min_area == 1.0:
        assert max(tops) == max(lefts) == 0
    else:
        assert min(shapes) < 0.85 and max(tops) > 20 and max(lefts) > 40


def usual_crop(draws, height, width, min_area):
    """Top, left, height and width as torchvision's RandomResizedCrop.get_params has them."""
    for _ in range(10):
        area = height * width * draws.uniform(min_area, 1.0)
        aspect = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return draws.integers(0, height - h + 1), draws.integers(0, width - w + 1), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def taken(monkeypatch, image, key, *, min_area):
    """Top, left, height and width of what is cut out of an image of :func:`coordinates`."""
    pieces = []
    monkeypatch.setattr(pixels, "scaled", lambda piece, **size: pieces.append(piece))
    published_crop(image, key, size=8, min_area=min_area)
    (piece,) = pieces
    return (*piece[0, 0, :2].tolist(), *piece.shape[:2])


@pytest.mark.parametrize(("height", "width"), [(100, 100), (100, 140), (200, 60), (250, 30)])
def test_published_crops_are_those_of_everybody(monkeypatch, height, width):
    image, draws = coordinates(height, width), np.random.default_rng(3)
    expected = np.array([usual_crop(draws, height, width, 0.08) for _ in range(3000)], dtype=float)
    found = np.array([taken(monkeypatch, image, key, min_area=0.08) for key in keys(3000)], dtype=float)
    shapes = found[:, 3] / found[:, 2]
    assert shapes.min() > 0.7 and shapes.max() < 1.43  # 3/4 and 4/3, of whole pixels
    for measure in (
        lambda crops: crops[:, 2] * crops[:, 3] / (height * width),
        lambda crops: np.log(crops[:, 3] / crops[:, 2]),
        lambda crops: crops[:, 0],
        lambda crops: crops[:, 1],
    ):
        theirs, ours = measure(expected), measure(found)
        doubt = (theirs.var() / len(theirs) + ours.var() / len(ours)) ** 0.5
        assert abs(ours.mean() - theirs.mean()) <= 4 * doubt, (theirs.mean(), ours.mean())


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(90, 240, (0, 60, 90, 120)), (240, 90, (60, 0, 120, 90)), (30, 30, (0, 0, 30, 30))],
)
def test_where_nothing_fits_the_largest_piece_in_the_middle_is_taken(monkeypatch, height, width, expected):
    image = coordinates(height, width)
    found = {taken(monkeypatch, image, key, min_area=0.9999) for key in keys(100)}
    assert expected in found and (height == width or found == {expected})


def test_a_crop_of_one_pixel_is_possible():
    assert random_crop(picture(1, 1), keys(1)[0], size=8, min_area=0.01).shape == (8, 8, 3)
    assert published_crop(picture(1, 1), keys(1)[0], size=8, min_area=0.01).shape == (8, 8, 3)
    assert published_crop(picture(1, 500), keys(1)[0], size=8, min_area=0.01).shape == (8, 8, 3)
    assert central_crop(picture(1, 9), size=8, share=0.1).shape == (8, 8, 3)


def test_the_central_crop_is_the_square_in_the_middle():
    image = coordinates(20, 40)
    np.testing.assert_array_equal(central_crop(image, size=20, share=1.0), image[:, 10:30])
    np.testing.assert_array_equal(central_crop(image, size=10, share=0.5), image[5:15, 15:25])


def test_every_second_image_is_mirrored():
    images = np.stack([picture(seed=number) for number in range(400)])
    flipped = random_flip(images, keys(400))
    mirrored = [np.array_equal(after, before[:, ::-1]) for after, before in zip(flipped, images, strict=True)]
    kept = [np.array_equal(after, before) for after, before in zip(flipped, images, strict=True)]
    assert 150 < sum(mirrored) < 250 and sum(mirrored) + sum(kept) == 400


def test_colours_change_as_brightness_contrast_and_saturation_do():
    images = np.stack([picture(seed=number) for number in range(200)])
    coloured = random_colour(images, keys(200), strength=0.4)
    factors = []
    for before, after in zip(images.reshape(200, -1, 3).astype(float), coloured.reshape(200, -1, 3), strict=True):
        inside = ((after > 0) & (after < 255)).all(axis=1)
        affine = np.column_stack([before[inside], np.ones(inside.sum())])
        turn, *_ = np.linalg.lstsq(affine, after[inside].astype(float), rcond=None)
        grey_to_grey = turn[:3].sum(axis=0)  # brightness x contrast, the same for every channel
        assert np.ptp(grey_to_grey) < 0.05
        middle = 127.5 * grey_to_grey[0] + turn[3, 0]  # the middle grey: only brightness changes it
        saturation = (turn[0, 0] - turn[1, 0] * 0.299 / 0.587) / grey_to_grey[0]
        factors.append((middle / 127.5, grey_to_grey[0] * 127.5 / middle, saturation))
    for values in np.array(factors).T:  # brightness, contrast, saturation
        assert 0.57 < values.min() < 0.66 and 1.34 < values.max() < 1.43 and abs(np.mean(values) - 1) < 0.06
    assert np.abs(np.corrcoef(np.array(factors).T)[np.triu_indices(3, 1)]).max() < 0.25


def test_no_strength_changes_no_colour():
    images = np.stack([picture(seed=number) for number in range(8)])
    np.testing.assert_array_equal(random_colour(images, keys(8), strength=0.0), images)


def num_opencv_threads(_=None):
    return cv2.getNumThreads()


def test_opencv_starts_no_threads_of_its_own_in_any_thread_or_process():
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(num_opencv_threads, range(4))) == [1] * 4
    program = "import cv2, dataecho_tasks.shared.images.pixels; print(cv2.getNumThreads())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "1\n"


# ---- the task


def test_the_stages_and_their_names(cache):
    def names(stages):
        return [(stage.name, stage.random) for stage in stages]

    assert names(images(cache).stages()) == [("decode", False), ("crop", True), ("colour", True)]
    flipping = images(cache, "task.flip=true", "task.colour=0.0")
    assert names(flipping.stages()) == [("decode", False), ("crop", True), ("flip", True)]
    assert names(flipping.eval_stages()) == [("decode", False), ("crop", False)]


def test_stages_can_be_sent_to_another_process(cache):
    task = images(cache)
    records = task.train_source().read(*(positions[:1] for positions in all_positions(task.train_source())))
    decode, crop, colour = (pickle.loads(pickle.dumps(stage)).function for stage in task.stages())
    cropped = crop(decode(as_examples(records)[0]), keys(1)[0])
    coloured = colour({name: np.stack([value]) for name, value in cropped.items()}, keys(1))
    assert coloured["image"].shape == (1, 64, 64, 3) and coloured["label"].dtype == np.int64


def test_other_fields_of_a_record_are_left_out(cache):
    decode = images(cache).stages()[0].function
    example = decode({"key": "a", "image": JPEG, "label": 3, "box": np.zeros(4)})
    assert set(example) == {"image", "label"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"jpg": JPEG, "label": 1}, "no image in a record of jpg, label: rename the source's fields"),
        ({"x": JPEG}, "no image and no label in a record of x"),
        ({"image": JPEG, "label": 10}, "label 10 is no whole number from 0 to 9: see task.num_classes"),
        ({"image": JPEG, "label": -1}, "label -1 is no whole number from 0 to 9"),
        (
            {"image": JPEG, "label": "cat"},
            "label 'cat' is text: list all classes, by their numbers, in task.class_names",
        ),
        ({"image": JPEG[:-2], "label": 1}, "a JPEG file that is cut short: no end marker"),
    ],
)
def test_a_record_that_does_not_fit_is_told(cache, record, message):
    with pytest.raises(ValueError, match=message):
        images(cache).stages()[0].function(record)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.num_classes=1", "task.num_classes=1 cannot be used. Allowed: >= 2"),
        ("task.image_size=4", "task.image_size=4 cannot be used. Allowed: >= 8"),
        ("task.min_area=0.0", r"task.min_area=0 cannot be used. Allowed: shares in \(0, 1\]"),
        ("task.colour=1.0", r"task.colour=1 cannot be used. Allowed: shares in \[0, 1\)"),
        (
            "+task.crop_rule=usual",
            "task.crop_rule=usual cannot be used. Allowed: published, fitted. Use task.crop_rule=",
        ),
        ("task.eval_crop=1.5", r"task.eval_crop=1.5 cannot be used. Allowed: shares in \(0, 1\]"),
        ("task.max_pixels=0", "task.max_pixels=0 cannot be used. Allowed: >= 1"),
        ("task.train=null", "task.train=None cannot be used. Allowed: a node with a _target_"),
        ("+task.train.pixel=3", "task.train.pixel=3 cannot be used. .*Did you mean task.train.pixels"),
        ("task.train.split=test", "task.train.split=test cannot be used. Allowed: train, eval"),
        ("task.train.quality=ninety", "task.train.quality=ninety cannot be used. Allowed: .*integer"),
        ("task.train._target_=dataecho_tasks.images.nothing.here", "task.train._target_=.*The import failed"),
        ("task.train._target_=dataecho_tasks.images", "task.train._target_=.*the dotted path of a class or function"),
        (
            "task.train._target_=dataecho_tasks.shared.images.drawing.Scenes",
            "task.train.num_examples=.* cannot be used",
        ),
    ],
)
def test_a_fact_out_of_range_is_refused(cache, override, message):
    with pytest.raises(SettingError, match=message):
        images(cache, override)


def test_a_misspelt_target_of_the_data_is_refused(cache):
    with pytest.raises(
        SettingError, match="task.train._targte_=a.b cannot be used. .*Did you mean task.train._target_"
    ):
        images(cache, "~task.train._target_", "+task.train._targte_=a.b")


# ---- its data, from every kind of source


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight training images and four others in class folders, a manifest, and tar shards: the same files."""
    root = tmp_path_factory.mktemp("data")
    for split, number in (("train", 8), ("eval", 4)):
        paths = write_scenes(root / split, num_examples=number, pixels=32, split=split, layout="folder")
        write_scenes(root / "tar", num_examples=number, pixels=32, split=split, shard_size=3)
        rows = [{"file": f"{split}/{path.parent.name}/{path.name}", "label": int(path.parent.name)} for path in paths]
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("option", ["folder", "manifest", "tar"])
def test_the_same_images_come_from_every_kind_of_source(folders, option):
    overrides = {
        "folder": [f"task.{split}.url={folders / split}" for split in ("train", "eval")]
        + ["task.train.classes=['0','1','2','3','4','5','6','7','8','9']"],
        "manifest": [f"task.{split}.manifest={folders / split}.jsonl" for split in ("train", "eval")],
        "tar": [f"task.{split}.urls={folders}/tar/{split}-*.tar" for split in ("train", "eval")],
    }[option]
    workload = compose_workload(
        config(*QUIET, f"task/images_data={option}", *overrides, "task.batch_size=4", "task.shuffle_buffer=0")
    )
    for split, source in (("train", workload.train_source), ("eval", workload.eval_source)):
        records = as_examples(source.read(*all_positions(source)))
        drawn = Scenes(split=split, pixels=32)
        expected = [drawn.draw(number) for number in range(len(records))]
        found = {(record["image"], int(record["label"])) for record in records}
        files = {path.read_bytes(): int(path.parent.name) for path in (folders / split).rglob("*.jpg")}
        assert found == set(files.items()) and len(found) == {"train": 8, "eval": 4}[split]
        assert sorted(label for _, label in found) == sorted(label for _, label in expected)
    assert 0 <= workload.evaluate()["accuracy"] <= 1


@pytest.mark.parametrize(("option", "key"), [("folder", "url"), ("manifest", "manifest"), ("tar", "urls")])
def test_data_that_are_not_named_are_asked_for(option, key):
    with pytest.raises(SettingError, match=rf"task.train.{key}=\?\?\? cannot be used. .*task.train.{key}=\.\.\."):
        compose_workload(config(*QUIET, f"task/images_data={option}"))


CLASSES = ("bee", "cat", "dog")


def class_folders(root, names=CLASSES, *, ending="png"):
    """Two images of every class, in a colour of its own; those of a folder ``b`` are a little lighter."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(2):
            tint = np.full((32, 32, 3), 40 * (1 + number) + 2 * k + (root.name == "b"), dtype=np.uint8)
            (root / name / f"{k}.{ending}").write_bytes(encoded(tint, {"jpg": "JPEG"}.get(ending, ending)))
    return root


def of_folders(train, held_out, *overrides):
    facts = ("task.num_classes=3", "task.batch_size=2", "task.eval_batch_size=2", "task.shuffle_buffer=0")
    urls = (f"task.train.url={train}", f"task.eval.url={held_out}")
    return compose_workload(config(*QUIET, "task/images_data=folder", *urls, *facts, *overrides))


def labels_of(source):
    return {source.name(0, k).partition("/")[0]: int(record["label"]) for k, record in enumerate(read_all(source))}


def read_all(source):
    return as_examples(source.read(*all_positions(source)))


@pytest.mark.parametrize("ending", ["png", "webp", "bmp", "jpg"])
def test_class_folders_have_the_same_numbers_on_both_sides_whatever_their_images_are(tmp_path, ending):
    train = class_folders(tmp_path / "a")
    workload = of_folders(train, class_folders(tmp_path / "b", ending=ending))
    assert labels_of(workload.train_source) == labels_of(workload.eval_source) == {"bee": 0, "cat": 1, "dog": 2}
    assert 0 <= workload.evaluate()["accuracy"] <= 1  # all of them can be decoded


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (
            ("cat", "dog"),
            r"^task.eval=2 classes cannot be used. Allowed: the 3 classes of task.train, .* task.train: bee",
        ),
        (("bee", "cat", "hound"), "Only in task.train: dog. Only in task.eval: hound. Bring both sides into agreement"),
        (("1", "2", "3"), "Only in task.eval: 1, 2, 3. These are numbers, such as those of ImageNet's devkit"),
    ],
)
def test_classes_that_differ_between_training_and_evaluation_are_refused(tmp_path, held_out, message):
    train = class_folders(tmp_path / "a")
    with pytest.raises(SettingError, match=message):
        of_folders(train, class_folders(tmp_path / "b", held_out))


def test_a_class_that_lacks_an_image_on_one_side_is_refused_and_the_cure_helps(tmp_path, caplog):
    train, held_out = class_folders(tmp_path / "a"), class_folders(tmp_path / "b")
    for path in (held_out / "bee").iterdir():
        path.unlink()
    with pytest.raises(SettingError, match="^task.eval.url=.* bee: no image there.* give the list of classes to all"):
        of_folders(train, held_out)
    workload = of_folders(train, held_out, "task.train.classes=[bee,cat,dog]")
    assert labels_of(workload.eval_source) == {"cat": 1, "dog": 2}
    assert [record.getMessage() for record in caplog.records] == [f"{held_out}: 1 of 3 classes have no image: bee"]


def test_the_order_of_given_classes_must_be_the_same(tmp_path):
    train, held_out = class_folders(tmp_path / "a"), class_folders(tmp_path / "b")
    with pytest.raises(SettingError, match="Class 0 is bee in task.train and dog in task.eval"):
        of_folders(train, held_out, "task.eval.classes=[dog,cat,bee]")


def test_a_url_one_level_too_high_is_refused(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "val")
    with pytest.raises(SettingError, match=r"^task.train.url=.* parts of a data set \(train, val\): go one level down"):
        of_folders(tmp_path, tmp_path / "val")


@pytest.mark.parametrize("number", [2, 4, 1000])
def test_the_number_of_classes_is_compared_with_what_was_found(tmp_path, number):
    train, held_out = class_folders(tmp_path / "a"), class_folders(tmp_path / "b")
    with pytest.raises(SettingError, match=rf"task.num_classes={number} cannot be used. Allowed: 3, .*num_classes=3"):
        of_folders(train, held_out, f"task.num_classes={number}")


def test_a_dataset_of_tuples_needs_no_fields_and_its_classes_are_compared(monkeypatch):
    monkeypatch.setattr("dataecho.build.get_object", lambda name: Pictures if name == PICTURES else get_object(name))
    monkeypatch.setattr(Pictures, "classes", [str(number) for number in range(10)], raising=False)
    node = config(*QUIET)["task"]
    node["train"], node["eval"] = (pictures_node(seed=seed, named=False) for seed in range(2))
    task = build(node, Task, key="task")
    np.testing.assert_array_equal(read_all(task.train_source())[1]["image"], picture(seed=1))
    assert [int(record["label"]) for record in read_all(task.eval_source())] == list(range(8))
    with pytest.raises(SettingError, match="task.num_classes=11 cannot be used. Allowed: 10"):
        build(node | {"num_classes": 11}, Task, key="task")
    names = [str(number) for number in range(11)]  # given by hand: they count more than what a dataset says of itself
    assert build(node | {"num_classes": 11, "class_names": names}, Task, key="task").num_classes == 11


@pytest.mark.parametrize("task", ["images", "imagenet_resnet50", "cifar10_resnet32", "coco_ssd"])
def test_a_dataset_of_ones_own_is_named_on_the_command_line(task):
    nodes = [f"task.{name}={{_target_: mine.Pictures, root: /data/{name}, size: [3, 4]}}" for name in ("train", "eval")]
    node = config(*QUIET[:-1], f"task={task}", f"task/{task}_data=own", *nodes)["task"]
    assert node["train"] == {"_target_": "mine.Pictures", "root": "/data/train", "size": [3, 4]}
    assert node["eval"]["root"] == "/data/eval"
    with pytest.raises(SettingError, match=r"task.train=\?\?\? cannot be used. Allowed: a value"):
        build(config(*QUIET[:-1], f"task={task}", f"task/{task}_data=own")["task"], Task, key="task")


def test_labels_that_are_text_are_numbered_by_the_names_that_were_given(tmp_path):
    image = encoded(picture(), "PNG")
    for name, labels in (("train", ["dog", "cat"]), ("eval", ["cat", "bee"])):
        columns = {"image": [image] * 2, "label": pyarrow.array(labels).dictionary_encode(), "x": [f"{name}1", "2"]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    node = config(*QUIET)["task"] | {"num_classes": 3}
    for name in ("train", "eval"):
        source = {"_target_": "dataecho.sources.parquet.ParquetSource", "urls": f"{tmp_path}/{name}.parquet"}
        node[name] = source | {"columns": ["image", "label"]}
    task = build(node | {"class_names": list(CLASSES)}, Task, key="task")
    for source, expected in ((task.train_source(), [2, 1]), (task.eval_source(), [1, 0])):
        assert [int(example["label"]) for example in run_stage(task.stages()[0], read_all(source), None)] == expected
        assert task.show(read_all(source)[0]).caption.startswith(CLASSES[expected[0]])
    (_, second) = run_stage(build(node, Task, key="task").stages()[0], read_all(task.eval_source()), None)
    assert "label 'bee' is text: list all classes, by their numbers, in task.class_names" in second.reason
    strange = build(node | {"class_names": ["ant", "cat", "dog"]}, Task, key="task")
    (_, second) = run_stage(strange.stages()[0], read_all(task.eval_source()), None)
    assert "label 'bee' is none of the 3 names in task.class_names" in second.reason


def test_what_totensor_makes_is_broken_with_a_cure(monkeypatch):
    first = np.zeros((3, 8, 8), dtype=np.float32)
    node = config(*QUIET)["task"] | {"train": None, "eval": None}
    data = ArraySource({"image": first[None], "label": np.zeros(1, dtype=np.int64)})
    facts = {name: value for name, value in node.items() if name != "_target_"}
    task = Images(**facts | {"train": data, "eval": ArraySource({"image": first[None] + 1, "label": np.zeros(1)})})
    (decoded,) = run_stage(task.stages()[0], read_all(data), None)
    assert "not float32 (3, 8, 8). It has its channels first, as torchvision's ToTensor leaves them" in decoded.reason
    with pytest.raises(ValueError, match="must be the bytes of a file, or pixels, not a str"):
        pixels_of("a.jpg", max_pixels=9)


def test_what_a_source_refuses_is_named_by_its_key(folders):
    with pytest.raises(SettingError, match="^task.eval.url=/nowhere cannot be used. Allowed: a folder that exists"):
        compose_workload(
            config(*QUIET, "task/images_data=folder", f"task.train.url={folders / 'train'}", "task.eval.url=/nowhere")
        )


class Pictures:
    """A map-style dataset as users have them: PIL images and labels, as tuples or dictionaries."""

    def __init__(self, length, *, seed=0, named=False):
        self._length, self._seed, self._named = length, seed, named

    def __len__(self):
        return self._length

    def __getitem__(self, k):
        image = Image.fromarray(picture(seed=1000 * self._seed + k))
        return {"image": image, "label": k % 10} if self._named else (image, k % 10)


PICTURES = "tests.Pictures"


def pictures_node(*, seed, named):
    return {"_target_": PICTURES, "length": 8, "seed": seed, "named": named}


def test_any_object_with_a_length_and_an_index_is_data_without_code(monkeypatch):
    # The tests are imported by path: their names are found here.
    monkeypatch.setattr("dataecho.build.get_object", lambda name: Pictures if name == PICTURES else get_object(name))
    node = config(*QUIET)["task"]
    node["train"] = pictures_node(seed=0, named=True)
    node["eval"] = {
        "_target_": "dataecho.sources.map_style.MapStyleSource",
        "dataset": pictures_node(seed=1, named=False),
        "fields": ["image", "label"],
    }
    task = build(node, Task, key="task")
    with Feed(task.train_source(), task.stages(), batch_size=4, shuffle_buffer=0, seed=0) as feed:
        batch = next(feed)
    assert batch["image"].shape == (4, 64, 64, 3) and batch["image"].dtype == np.uint8
    first = task.eval_source().read(*(positions[:1] for positions in all_positions(task.eval_source())))[0]
    np.testing.assert_array_equal(first["image"], picture(seed=1000))
    node["train"]["lenght"] = 3
    with pytest.raises(SettingError, match="task.train.lenght=3 cannot be used. .*Did you mean task.train.length"):
        build(node, Task, key="task")


# ---- scenes


def test_a_scene_is_a_function_of_split_seed_and_index():
    scene, label = Scenes(split="train", pixels=48).draw(7)
    assert scene.shape == (48, 48, 3) and scene.dtype == np.uint8 and 0 <= label <= 9
    again, _ = Scenes(split="train", pixels=48).draw(7)
    np.testing.assert_array_equal(scene, again)
    for other in (Scenes(split="eval", pixels=48), Scenes(split="train", pixels=48, seed=1)):
        assert not np.array_equal(other.draw(7)[0], scene)


def test_the_splits_share_no_digit_and_no_part_of_a_photograph():
    (train_photos, train_digits, _), (eval_photos, eval_digits, _) = (
        Scenes(split=split, pixels=48)._material for split in ("train", "eval")
    )
    assert (len(train_digits), len(eval_digits)) == (1297, 500)
    assert not {digit.tobytes() for digit in train_digits} & {digit.tobytes() for digit in eval_digits}
    for train_photo, eval_photo in zip(train_photos, eval_photos, strict=True):
        assert train_photo.shape == (427, 480, 3) and eval_photo.shape == (427, 160, 3)
        columns = {train_photo[:, column].tobytes() for column in range(480)}
        assert not columns & {eval_photo[:, column].tobytes() for column in range(160)}


def test_every_class_comes_about_as_often():
    drawn = Scenes(split="train", pixels=16)
    counts = np.bincount([drawn.draw(number)[1] for number in range(1000)], minlength=10)
    assert len(counts) == 10 and counts.min() > 60 and counts.max() < 140


def test_shards_have_the_layout_of_webdataset_and_always_the_same_bytes(tmp_path):
    import tarfile

    progress = []
    first = write_scenes(tmp_path / "a", num_examples=150, pixels=32, shard_size=70, progress=progress.append)
    assert [path.name for path in first] == [f"train-32px-0000{number}.tar" for number in range(3)]
    assert sum(progress) == 150
    second = write_scenes(tmp_path / "b", num_examples=150, pixels=32, shard_size=70)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    names, contents = [], []
    for path in first:
        with tarfile.open(path) as tar:
            names += tar.getnames()
            contents += [tar.extractfile(member).read() for member in tar.getmembers()]
    assert names == [f"{number:08d}.{ending}" for number in range(150) for ending in ("jpg", "cls")]
    drawn = Scenes(split="train", pixels=32)
    for number in (0, 69, 70, 149):
        scene, label = drawn.draw(number)
        assert contents[2 * number + 1] == str(label).encode()
        decoded = decode_image(contents[2 * number], max_pixels=1024)
        assert np.abs(decoded.astype(int) - scene).mean() < 6


def test_the_quality_and_the_size_are_those_asked_for(tmp_path):
    def size(**settings):
        (path,) = write_scenes(tmp_path / "one", num_examples=1, layout="folder", **settings)
        assert image_size(path.read_bytes()) == (settings["pixels"], settings["pixels"])
        return path.stat().st_size

    assert size(pixels=64, quality=30) < size(pixels=64, quality=95) < size(pixels=128, quality=95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "split=test cannot be used. Allowed: train, eval"),
        ({"layout": "zip"}, "layout=zip cannot be used. Allowed: tar, folder"),
        ({"pixels": 8}, "pixels=8 cannot be used. Allowed: 16 to 4096"),
        ({"quality": 0}, "quality=0 cannot be used. Allowed: 1 to 100"),
        ({"num_examples": 0}, "num_examples=0 cannot be used. Allowed: whole numbers >= 1"),
        ({"shard_size": 0}, "shard_size=0 cannot be used. Allowed: whole numbers >= 1"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        write_scenes(tmp_path / "none", **{"num_examples": 1, **settings})
    assert not (tmp_path / "none").exists()


def few_scenes(cache_dir, **changed):
    return scenes(
        **{"split": "eval", "num_examples": 20, "pixels": 32, "quality": 90, "cache_dir": cache_dir} | changed
    )


def test_other_settings_get_another_folder_and_other_data(tmp_path):
    changes = ({}, {"split": "train"}, {"num_examples": 21}, {"pixels": 33}, {"quality": 91}, {"seed": 1})
    sources = [few_scenes(str(tmp_path), **changed) for changed in changes]
    assert len({fingerprints(source.read(*all_positions(source)))[0] for source in sources}) == 5  # one more: the same
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 6


def test_scenes_are_written_once_and_an_interrupted_writing_is_begun_anew(tmp_path):
    source = few_scenes(str(tmp_path))
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert few_scenes(str(tmp_path)).digest == source.digest
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    folder.rename(unfinished)
    (unfinished / "eval-32px-99999.tar").write_bytes(b"half")
    again = few_scenes(str(tmp_path))
    assert again.num_shards == 1 and not unfinished.exists()


def ask(cache_dir):
    source = few_scenes(cache_dir, num_examples=300)
    return fingerprints(source.read(*all_positions(source)))


def test_processes_that_ask_at_once_get_the_same_scenes(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        first, *others = pool.map(ask, [str(tmp_path)] * 3)
    assert len(first) == 300 and all(other == first for other in others)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_scenes_lie_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few_scenes(None)
    assert len(list((tmp_path / "dataecho" / "scenes").glob("eval-20-32px-q90-s0-*/eval-32px-00000.tar"))) == 1


# ---- the network


def test_the_network_has_as_many_parameters_as_it_says():
    num_parameters = sum(values.numel() for values in ImagesNet(num_classes=10, image_size=64).parameters())
    convolutions = 16 * 3 * 16 + 32 * 16 * 9 + 64 * 32 * 9
    assert num_parameters == convolutions + 2 * (16 + 32 + 64) + (64 * 16 + 1) * 10 == 34282
    assert f"{num_parameters:,} parameters" in ImagesNet.__doc__


@pytest.mark.parametrize("widths", [[], [0, 4], [8, -1]])
def test_widths_that_are_no_numbers_above_zero_are_refused(widths):
    with pytest.raises(SettingError, match=r"task\.models\.torch\.widths=.* cannot be used. Allowed: one or more"):
        ImagesNet(num_classes=10, image_size=64, widths=widths)


def test_a_size_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(
        SettingError, match=r"task.image_size=40 cannot be used. Allowed: multiples of 16, .*\[1, 2, 3\]"
    ):
        ImagesNet(num_classes=10, image_size=40, widths=[1, 2, 3])
    assert ImagesNet(num_classes=10, image_size=40, widths=[1, 2]).linear.in_features == 50


def test_the_network_learns_to_tell_colours_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=256)
    tints = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    pixels = np.clip(tints[labels][:, None, None] + rng.normal(0, 20, size=(256, 32, 32, 3)), 0, 255).astype(np.uint8)
    node = config(*QUIET, "task.image_size=32", "task.num_classes=4")["task"]
    node["train"] = node["eval"] = None
    data = ArraySource({"image": pixels, "label": labels})
    facts = {name: value for name, value in node.items() if name != "_target_"} | {"train": data, "eval": data}
    task = Images(**facts | {"batch_size": 32, "shuffle_buffer": 64, "eval_batch_size": 100})
    backend = TorchBackend(
        BackendContext(
            new_model=lambda: ImagesNet(num_classes=4, image_size=32),
            optimizer=OptimizerSettings(name="nesterov", learning_rate=task.learning_rate),
            accelerator=AcceleratorSettings(name="cpu"),
            seed=0,
        )
    )
    with Feed(data, task.stages(), batch_size=32, shuffle_buffer=64, seed=0) as feed:
        for _ in range(64):
            batch = next(feed)
            backend.train_step(backend.put(batch), learning_rate=task.learning_rate)
    assert evaluate(task, data, backend, PipelineSettings(num_threads=1))["accuracy"] > 0.95

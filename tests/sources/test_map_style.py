"""Any object with a length and an index as a source."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from dataecho.errors import SettingError
from dataecho.pipeline.stage import Broken
from dataecho.sources.map_style import MapStyleSource
from dataecho.testing.source_contract import SourceContract, all_positions, fingerprints
from dataecho_tasks.shared.images.pixels import as_rgb, decode_image


def tensors(*, last=9):
    values = torch.arange(30, dtype=torch.float32).reshape(10, 3)
    labels = torch.tensor([*range(9), last])
    return TensorDataset(values, labels)


class TestTensorDataset(SourceContract):
    @pytest.fixture
    def new_source(self):
        return lambda: MapStyleSource(tensors(), fields=["x", "label"])

    @pytest.fixture
    def changed_source(self):
        return MapStyleSource(tensors(last=7), fields=["x", "label"])


class TestListOfDictionaries(SourceContract):
    """The list hands out the same arrays again and again: nobody may write into them."""

    ROWS = tuple({"x": np.full(4, number), "text": f"number {number}"} for number in range(12))

    @pytest.fixture
    def new_source(self):
        return lambda: MapStyleSource(list(self.ROWS))

    @pytest.fixture
    def changed_source(self):
        return MapStyleSource([*self.ROWS[:-1], {"x": np.full(4, 11), "text": "number eleven"}])


class InBatches:
    """As Hugging Face datasets answer: many rows at once, and a fingerprint."""

    def __init__(self, rows, *, fingerprint="f"):
        self._rows, self._fingerprint = rows, fingerprint
        self.asked = []

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, k):
        self.asked.append(k)
        return self._rows[k]

    def __getitems__(self, ks):
        self.asked.append(ks)
        return [self._rows[k] for k in ks]


class Failing(list):
    def __getitem__(self, k):
        if k in (3, 5):
            raise OSError(f"cannot read {k}")
        return super().__getitem__(k)


def read(source, *ks):
    ks = np.array(ks)
    return source.read(np.zeros_like(ks), ks)


def record(value, **settings):
    (result,) = read(MapStyleSource([{"x": value}], **settings), 0)
    return result["x"]


# ---- fields


def test_tuples_get_the_names_of_the_fields():
    first, second = read(MapStyleSource(tensors(), fields=["x", "label"]), 2, 0)
    np.testing.assert_array_equal(first["x"], np.array([6, 7, 8], dtype=np.float32))
    assert first["x"].dtype == np.float32 and first["label"] == 2 and first["label"].dtype == np.int64
    assert set(second) == {"x", "label"}


ROW = {"img": np.zeros(2), "fine": 3, "coarse": 1}


@pytest.mark.parametrize(
    ("example", "fields", "names"),
    [
        (ROW, None, ["img", "fine", "coarse"]),
        (ROW, ["img", "fine"], ["img", "fine"]),
        (ROW, {"image": "img", "label": "fine"}, ["image", "label"]),
        ((np.zeros(2), 3), {"label": 1}, ["label"]),
    ],
)
def test_fields_are_taken_picked_or_renamed(example, fields, names):
    (result,) = read(MapStyleSource([example], fields=fields), 0)
    assert list(result) == names
    assert [result[name] for name in names if name in ("fine", "label")] == [3]


@pytest.mark.parametrize(
    ("example", "fields", "message"),
    [
        ((1, 2), None, r"fields=None cannot be used. .*Example 0 is a tuple of 2 .*must be a dictionary"),
        ((1, 2), ["image"], r"fields=\['image'\] cannot be used. .*zip\(\) argument 2 is longer"),
        (ROW, ["image"], r"fields=\['image'\] cannot be used. .*KeyError: 'image'"),
        ((1, 2), {"label": 2}, r"fields={'label': 2} cannot be used. .*tuple index out of range"),
    ],
)
def test_fields_that_do_not_fit_are_refused_with_what_is_there(example, fields, message):
    with pytest.raises(SettingError, match=message):
        MapStyleSource([example], fields=fields)


# ---- values


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(3, np.int64), (0.5, np.float64), (True, np.bool_), (np.float32(2), np.float32), (torch.tensor(4), np.int64)],
)
def test_numbers_become_numpy_scalars(value, dtype):
    result = record(value)
    assert result.dtype == dtype and result.shape == () and result == value


@pytest.mark.parametrize("value", [b"\xff\xd8", "text"])
def test_text_and_bytes_stay(value):
    assert record(value) == value


def test_images_become_bytes_of_pixels_whatever_their_mode():
    pixels = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(record(image), pixels)
    np.testing.assert_array_equal(record(image.convert("RGBA")), pixels)
    assert record(image.convert("L")).shape == (4, 6)
    two_colours = Image.fromarray(np.uint8([[0, 1]]), mode="P")
    two_colours.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(record(two_colours), np.uint8([[[10, 20, 30], [40, 50, 60]]]))


def test_an_image_kept_as_bytes_and_path_becomes_the_bytes():
    assert record({"bytes": b"jpeg", "path": "a.jpg"}) == b"jpeg"


def test_lists_of_numbers_become_arrays():
    np.testing.assert_array_equal(record([1, 2, 3]), np.array([1, 2, 3]))


def test_a_value_that_is_no_number_is_broken():
    source = MapStyleSource([{"x": 1}, {"x": None}, {"x": [1, [2]]}, {"x": object()}])
    for k in (1, 2, 3):
        (result,) = read(source, k)
        assert isinstance(result, Broken)
    assert "field 'x' is a NoneType, which stands for nothing" in read(source, 1)[0].reason


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "field 'x' is a NoneType, which stands for nothing: leave such examples out"),
        (2**70, f"field 'x' is a int, {2**70} is too large for 64 bits"),
        (object(), "field 'x' is a object, no number, text, bytes, image, nor an array of numbers"),
        (torch.zeros(2, dtype=torch.bfloat16), "field 'x' is a Tensor, which numpy cannot read: .*BFloat16"),
        (Image.new("F", (2, 2)), "field 'x' is a Image, which numpy cannot read: an image of the mode 'F'"),
        ({"y": [None]}, "field 'x.y' is a list of 1, no number"),
    ],
)
def test_a_value_that_no_example_can_hold_is_told_by_its_field_and_not_as_a_fault_of_fields(value, message):
    with pytest.raises(SettingError, match=rf"^dataset=list cannot be used. .* In example 0 {message}.*fields=\["):
        MapStyleSource([{"x": value, "label": 1}])
    assert read(MapStyleSource([{"x": value, "label": 1}], fields=["label"]), 0) == [{"label": 1}]


# ---- Pillow's images


def as_file(image, kind="PNG", **settings):
    file = BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_the_bytes_of_its_file_are(kind, orientation):
    entry = Image.Exif()
    entry[0x0112] = orientation
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16] = 255
    data = as_file(Image.fromarray(pixels), kind, exif=entry)
    found = record(Image.open(BytesIO(data)))
    assert found.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert np.abs(found.astype(int) - decode_image(data, max_pixels=1000)).max() < 8
    loaded = Image.open(BytesIO(data)).convert("RGB")  # as torchvision's loader gives it
    np.testing.assert_array_equal(record(loaded), found)


def test_of_sixteen_bits_the_upper_eight_stay_as_in_the_bytes_of_the_file():
    values = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    data = as_file(Image.fromarray(values))
    found = record(Image.open(BytesIO(data)))
    np.testing.assert_array_equal(found, values >> 8)
    np.testing.assert_array_equal(as_rgb(found), decode_image(data, max_pixels=100))


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK"])
def test_every_other_mode_has_the_pixels_of_its_file(mode):
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(as_rgb(record(image)), expected)
    if mode not in ("PA", "CMYK"):  # which no PNG file has
        np.testing.assert_array_equal(decode_image(as_file(image), max_pixels=100), expected)


@pytest.mark.parametrize("mode", ["F", "I", "La"])
def test_a_mode_of_no_known_range_is_broken_by_name(mode):
    (first, second) = read(MapStyleSource([{"x": 1}, {"x": Image.new(mode, (2, 2))}]), 0, 1)
    assert first == {"x": 1} and f"an image of the mode {mode!r}, whose numbers may be of any range" in second.reason


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # so says Pillow
def test_a_damaged_entry_turns_nothing():
    data = as_file(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert record(Image.open(BytesIO(data))).shape == decode_image(data, max_pixels=8).shape == (2, 4, 3)


def test_the_names_of_the_classes_are_those_of_the_dataset():
    class Named(list):
        classes: object = ("cat", "dog")

    assert MapStyleSource(Named([{"x": 1}])).classes == ("cat", "dog")
    for other in (None, 7, [], [1, 2]):
        Named.classes = other
        assert MapStyleSource(Named([{"x": 1}])).classes is None


# ---- reading


def test_an_example_that_raises_is_broken_and_the_others_are_not():
    source = MapStyleSource(Failing({"x": k} for k in range(8)))
    results = read(source, 2, 3, 4, 5)
    assert [isinstance(result, Broken) for result in results] == [False, True, False, True]
    assert results[1].reason == "OSError: cannot read 3" and isinstance(results[1].cause, OSError)
    assert source.name(0, 3) == "Failing[3]"


def test_many_rows_are_asked_for_at_once_where_the_dataset_can():
    dataset = InBatches([{"x": k} for k in range(8)])
    source = MapStyleSource(dataset)
    dataset.asked.clear()
    assert [result["x"] for result in read(source, 5, 1, 5)] == [5, 1, 5]
    assert dataset.asked == [[5, 1, 5]]


def test_where_many_at_once_fail_the_one_to_blame_is_found():
    results = read(MapStyleSource(InBatches(Failing({"x": k} for k in range(8)))), 2, 3, 4)
    assert [isinstance(result, Broken) for result in results] == [False, True, False]


class Overlapping(list):
    """Counts how many threads are inside at once."""

    def __init__(self, rows):
        super().__init__(rows)
        self.inside, self.most, self.lock = 0, 0, threading.Lock()

    def __getitem__(self, k):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.005)
        with self.lock:
            self.inside -= 1
        return super().__getitem__(k)


@pytest.mark.parametrize("concurrent", [True, False])
def test_threads_take_turns_where_they_must(concurrent):
    dataset = Overlapping({"x": k} for k in range(16))
    source = MapStyleSource(dataset, concurrent=concurrent)
    with ThreadPoolExecutor(4) as pool:
        assert [result["x"] for (result,) in pool.map(lambda k: read(source, k), range(16))] == list(range(16))
    assert (dataset.most > 1) == concurrent


def test_a_copy_in_another_process_reads_the_same():
    source = MapStyleSource(tensors(), fields=["x", "label"], concurrent=False, num_readers=3)
    copy = pickle.loads(pickle.dumps(source))
    positions = all_positions(source)
    assert fingerprints(copy.read(*positions)) == fingerprints(source.read(*positions))
    assert (copy.digest, copy.num_readers) == (source.digest, 3)


def test_a_fingerprint_of_the_dataset_is_part_of_the_digest():
    rows = [{"x": k} for k in range(100)]
    digests = {MapStyleSource(InBatches(rows, fingerprint=name)).digest for name in ("a", "b", "a")}
    assert len(digests) == 2


# ---- what is no dataset


class Random(list):
    def __getitem__(self, k):
        return {"x": np.random.default_rng().normal(size=3)}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"train": [1], "test": [2]}, r"dataset=dict cannot be used. .*Choose one split"),
        ("a path", r"dataset=str cannot be used. Allowed: an object with a length"),
        (iter([1, 2]), r"dataset=list_iterator cannot be used. .*an iterable dataset needs a source of shards"),
        ([], r"dataset=list of length 0 cannot be used. Allowed: at least one example"),
        (Random([0] * 8), r"dataset=Random cannot be used. .*take the random transform out"),
    ],
)
def test_what_is_no_such_dataset_is_refused(dataset, message):
    with pytest.raises(SettingError, match=message):
        MapStyleSource(dataset)


def test_a_negative_number_of_readers_is_refused():
    with pytest.raises(SettingError, match="num_readers=-1 cannot be used. Allowed: >= 0"):
        MapStyleSource([{"x": 1}], num_readers=-1)

"""Arrays in memory as a source."""

import re

import numpy as np
import pytest

from dataecho.errors import SettingError
from dataecho.pipeline.source import ArraySource, shard_lengths
from dataecho.testing.source_contract import SourceContract


def fields(**changed):
    data = {"image": np.arange(60, dtype=np.uint8).reshape(10, 3, 2), "label": np.arange(10) * 7 % 4}
    return data | changed


class TestArraySource(SourceContract):
    @pytest.fixture
    def new_source(self):
        return lambda: ArraySource(fields())

    @pytest.fixture
    def changed_source(self):
        labels = fields()["label"]
        labels[-1] += 1
        return ArraySource(fields(label=labels))


def read(source, ks):
    return source.read(np.zeros(len(ks), dtype=np.int64), np.array(ks))


def test_it_is_one_shard_with_random_access():
    source = ArraySource(fields())
    assert source.random_access
    assert shard_lengths(source) == [10]
    assert sum(shard_lengths(source)) == 10


def test_a_read_is_rows_of_every_field():
    data = fields()
    got = read(ArraySource(data), [4, 0, 4])
    assert list(got) == ["image", "label"]
    np.testing.assert_array_equal(got["image"], data["image"][[4, 0, 4]])
    np.testing.assert_array_equal(got["label"], data["label"][[4, 0, 4]])


def test_the_arrays_are_not_copied_but_what_is_read_is():
    data = fields()
    source = ArraySource(data)
    assert not np.shares_memory(read(source, [1])["image"], data["image"])
    data["image"][1] = 99
    assert (read(source, [1])["image"] == 99).all()


def test_the_digest_is_the_same_in_every_process_and_version():
    # Checkpoints are refused where it differs: a change here breaks every checkpoint that was ever written.
    source = ArraySource({"x": np.arange(6, dtype=np.float32).reshape(3, 2), "y": np.array([1, 0, 1], dtype=np.int64)})
    assert source.digest == "4ce221c8d9595b1175ba5c1d2bbdcf15"


@pytest.mark.parametrize(
    "other",
    [
        fields(image=fields()["image"].reshape(10, 2, 3)),
        fields(image=fields()["image"].astype(np.uint16)),
        fields(image=fields()["image"].view(np.int8)),
        fields(image=fields()["image"][::-1]),
        fields(more=np.zeros(10)),
        {"image": fields()["image"]},
        {"picture": fields()["image"], "label": fields()["label"]},
    ],
    ids=["shape", "width", "sign", "order", "more", "fewer", "name"],
)
def test_the_digest_covers_names_types_shapes_and_order(other):
    assert ArraySource(other).digest != ArraySource(fields()).digest


def test_the_digest_covers_values_and_not_how_they_lie_in_memory():
    turned = np.asfortranarray(fields()["image"])
    assert not turned.flags.c_contiguous
    assert ArraySource(fields(image=turned)).digest == ArraySource(fields()).digest
    backwards = dict(reversed(fields().items()))
    assert ArraySource(backwards).digest == ArraySource(fields()).digest


@pytest.mark.parametrize(
    ("data", "shown"),
    [({"x": np.zeros(3), "y": np.zeros((4, 3))}, "{'x': 3, 'y': 4}"), ({}, "{}")],
    ids=["different", "none"],
)
def test_fields_without_one_common_length_are_refused(data, shown):
    with pytest.raises(SettingError, match=f"fields={re.escape(shown)} cannot.*one or more arrays of the same length"):
        ArraySource(data)


@pytest.mark.parametrize("k", [10, -11])
def test_a_position_that_is_not_there_is_an_error(k):
    with pytest.raises(IndexError):
        read(ArraySource(fields()), [k])


def test_arrays_of_python_objects_are_refused():
    with pytest.raises(SettingError, match=r"fields=\['text'\].*arrays of numbers"):
        ArraySource({"text": np.array(["a", None], dtype=object)})

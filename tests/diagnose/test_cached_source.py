"""Records in memory are the records that were read."""

import numpy as np
import pytest

from dataecho.diagnose.cached_source import CachedSource
from dataecho.errors import DataError
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Broken

ZEROS = np.zeros(5, dtype=np.int64)


def test_arrays_stay_arrays_and_come_again_and_again():
    source = ArraySource({"x": np.arange(10), "y": np.arange(20).reshape(10, 2)})
    chunks = [source.read(ZEROS[:2], np.array([3, 4])), source.read(ZEROS[:1], np.array([7]))]
    chunk = CachedSource(chunks).read(ZEROS, np.array([0, 1, 2, 3, 1 << 19]))
    assert isinstance(chunk, dict)
    assert chunk["x"].tolist() == [3, 4, 7, 3, [3, 4, 7][(1 << 19) % 3]]
    assert chunk["y"][2].tolist() == [14, 15]


def test_examples_stay_examples_without_the_broken_ones():
    source = CachedSource([[b"a", Broken("cut short")], [b"c"]])
    assert source.read(ZEROS, np.arange(5)) == [b"a", b"c", b"a", b"c", b"a"]


def test_a_stage_that_changes_its_dictionary_changes_no_record():
    source = CachedSource([[{"x": 1}]])
    source.read(ZEROS[:1], ZEROS[:1])[0]["x"] = 2
    assert source.read(ZEROS[:1], ZEROS[:1]) == [{"x": 1}]


def test_nothing_but_broken_records_is_an_error():
    with pytest.raises(DataError, match="Every record .* is broken"):
        CachedSource([[Broken("cut short")]])

"""Text in batches, which are arrays of one length of text."""

import numpy as np
import pytest

from dataecho.pipeline.feed import Feed
from dataecho.pipeline.stage import ExampleError, Stage
from dataecho.sources.map_style import MapStyleSource


def same(chunk):
    return chunk


def batch_of(*values, batched=False):
    source = MapStyleSource([{"text": value} for value in values])
    stages = [Stage("same", same, batched=batched)]
    with Feed(source, stages, batch_size=len(values), shuffle_buffer=0, seed=0) as feed:
        return next(feed)["text"].tolist()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    "values", [("ab\0", "abc"), ("abc", "ab\0"), (b"ab\0", b"ab\1"), (b"\0", b"\0"), (np.str_("ab\0"), np.str_("abc"))]
)
def test_text_that_ends_in_nul_is_refused_for_a_batch_would_lose_it(values, batched):
    with pytest.raises(ExampleError, match="field 'text' is text that ends in NUL, which a batch would lose"):
        batch_of(*values, batched=batched)


@pytest.mark.parametrize("values", [("abc", "a\0c"), (b"\0bc", b"abc")])
def test_any_other_text_of_one_length_stays(values):
    assert sorted(batch_of(*values)) == sorted(values)

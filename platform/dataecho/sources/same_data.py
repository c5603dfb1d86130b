"""Whether two sources are the same data: what is trained on is not held out."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import as_examples


def are_same_data(first: Source, second: Source) -> bool:
    """Whether digests agree, and so do the first and the last example of the first shard: a digest may know shards by
    their names only, and ``train/0000.tar`` and ``eval/0000.tar`` have one name."""
    if first is second:
        return True
    if first.digest != second.digest or first.num_shards != second.num_shards:
        return False
    length = first.num_examples(0)
    if length == 0 or length != second.num_examples(0):
        return length == second.num_examples(0)
    ks = np.unique(np.array([0, length - 1], dtype=np.int64))
    read = [as_examples(source.read(np.zeros_like(ks), ks)) for source in (first, second)]
    return all(_are_equal(one, other) for one, other in zip(*read, strict=True))


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_equal(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray | np.generic) and isinstance(other, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and bool(one == other)

"""The arms of dataecho, without echo: threads, chunk sizes, batched stages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.loaders.work import (
    BATCH_SIZES,
    NUM_JPEG_DRAWS,
    NUM_JPEGS,
    NUM_SMALL_DRAWS,
    Arms,
    Arrays,
    Data,
    crop_and_flip,
    decode,
    random_resized_crop,
    shift,
)
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import ChunkSize, PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Chunk, Stage
from dataecho.plan.keys import uniform, uniforms


class JpegFiles(Source):
    """The JPEG files, read when they are used."""

    num_shards = 1
    random_access = True
    digest = "benchmark"

    def __init__(self, data: Data) -> None:
        self._data = data

    def num_examples(self, shard: int) -> int:
        return NUM_JPEGS

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return [{"data": self._data.read(k), "label": self._data.labels[k]} for k in ks.tolist()]


def _draws(keys: Any, count: int) -> NDArray[np.float64]:
    return np.stack([uniform(keys, draw=draw) for draw in range(count)], axis=-1)


def _decode(record: dict[str, Any]) -> dict[str, Any]:
    return {"image": decode(record["data"]), "label": record["label"]}


def _crop(example: dict[str, Any], key: np.uint64) -> dict[str, Any]:
    return {"image": random_resized_crop(example["image"], uniforms(key, NUM_JPEG_DRAWS)), "label": example["label"]}


def _crop_and_flip(examples: Arrays, keys: NDArray[np.uint64]) -> Arrays:
    return {"image": crop_and_flip(examples["image"], _draws(keys, NUM_SMALL_DRAWS)), "label": examples["label"]}


def _shift(examples: Arrays) -> Arrays:
    return shift(examples["row"])


STAGES = {
    "jpeg": [Stage("decode", _decode, mutates_input=False), Stage("crop", _crop, random=True, mutates_input=False)],
    "small": [Stage("crop", _crop_and_flip, random=True, batched=True, mutates_input=False)],
    "tokens": [Stage("shift", _shift, batched=True, mutates_input=False)],
}


def _feed(source: Source, workload: str, settings: PipelineSettings) -> Iterator[Arrays]:
    size = BATCH_SIZES[workload]
    with Feed(source, STAGES[workload], batch_size=size, shuffle_buffer=1024, seed=0, settings=settings) as feed:
        for batch in feed:
            yield batch.arrays
            batch.release()


def arms(workload: str, data: Data) -> Arms:
    """Ways to open the loader, by what is set."""
    cv2.setNumThreads(0)
    if workload == "jpeg":
        source: Source = JpegFiles(data)
    elif workload == "small":
        source = ArraySource({"image": data.small, "label": data.small_labels})
    else:
        source = ArraySource({"row": data.rows})
    sizes: dict[str, tuple[ChunkSize, ...]] = {"jpeg": ("auto", 32), "small": ("auto", 128), "tokens": ("auto",)}
    ahead = {"jpeg": (8,), "small": (8,), "tokens": (8, 64)}[workload]
    found = {
        f"{kind}={count} chunk={size} ahead={batches}": PipelineSettings(
            **{f"num_{kind}": count}, chunk_size=size, look_ahead=batches
        )
        for kind, count in (("threads", 0), ("threads", 1), ("threads", 2), ("threads", 3), ("processes", 2))
        for size in sizes[workload]
        for batches in ahead
    }
    return {"dataecho": {name: partial(_feed, source, workload, settings) for name, settings in found.items()}}

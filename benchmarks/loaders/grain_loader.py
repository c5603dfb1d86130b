"""The arms of grain: threads, worker processes, batching before or after them. Small examples are batched first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np

from benchmarks.loaders.work import (
    BATCH_SIZES,
    NUM_JPEG_DRAWS,
    NUM_JPEGS,
    NUM_SMALL,
    NUM_SMALL_DRAWS,
    Arms,
    Data,
    decode,
    random_resized_crop,
)


def _jpeg(data: Data, k: int, random: np.random.Generator) -> dict[str, Any]:
    return {"image": random_resized_crop(decode(data.read(k)), random.random(NUM_JPEG_DRAWS)), "label": data.labels[k]}


def _small(data: Data, ks: Any, random: np.random.Generator) -> dict[str, Any]:
    return data.small_batch(ks, random.random((len(ks), NUM_SMALL_DRAWS)))


def _shuffled(count: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(0).shuffle().repeat()


def _open(
    examples: grain.MapDataset, threads: int, ahead: int, workers: int, batch_after: int
) -> Iterator[Mapping[str, Any]]:
    dataset = examples.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
    if batch_after:
        dataset = dataset.batch(batch_after, drop_remainder=True)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4))
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def arms(workload: str, data: Data) -> Arms:
    """Ways to open the loader, by what is set."""
    cv2.setNumThreads(0)
    size = BATCH_SIZES[workload]
    # (threads, worker processes); without either the caller's thread does the work.
    ways = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 2))
    pipelines: dict[str, tuple[grain.MapDataset, int, int]] = {}
    if workload == "jpeg":
        examples = _shuffled(NUM_JPEGS).random_map(partial(_jpeg, data))
        pipelines["stacked by the threads"] = (examples.batch(size, drop_remainder=True), 8, 0)
        pipelines["stacked after them"] = (examples, 500, size)
    elif workload == "small":
        batches = _shuffled(NUM_SMALL).batch(size, drop_remainder=True).random_map(partial(_small, data))
        pipelines["batched first"] = (batches, 8, 0)
    else:
        batches = _shuffled(len(data.rows)).batch(size, drop_remainder=True).map(data.token_batch)
        pipelines["batched first"] = (batches, 8, 0)
    return {
        "grain": {
            f"threads={threads} workers={workers} {name}": partial(_open, dataset, threads, ahead, workers, batch_after)
            for name, (dataset, ahead, batch_after) in pipelines.items()
            for threads, workers in ways
        }
    }

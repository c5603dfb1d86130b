"""The arms of webdataset: the same examples from tar shards, as it has no other source; worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from torch.utils.data import default_collate, get_worker_info

from benchmarks.loaders.work import (
    BATCH_SIZES,
    NUM_JPEG_DRAWS,
    NUM_SMALL_DRAWS,
    SMALL_SIDE,
    Arms,
    Arrays,
    Data,
    crop_and_flip,
    decode,
    random_resized_crop,
    shift,
)


class _Random:
    """One generator for each worker process, and for the process without workers."""

    def __init__(self) -> None:
        self._generator: np.random.Generator | None = None

    def __call__(self, *shape: int) -> Any:
        if self._generator is None:
            worker = get_worker_info()
            self._generator = np.random.default_rng(worker.seed if worker else 0)
        return self._generator.random(shape)


def _jpeg(random: _Random, sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": random_resized_crop(decode(sample["jpg"]), random(NUM_JPEG_DRAWS)), "label": int(sample["cls"])}


def _small(random: _Random, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pixels = np.frombuffer(b"".join(sample["raw"] for sample in samples), np.uint8)
    images = pixels.reshape(-1, SMALL_SIDE, SMALL_SIDE, 3)
    labels = np.array([int(sample["cls"]) for sample in samples])
    return _tensors({"image": crop_and_flip(images, random(len(images), NUM_SMALL_DRAWS)), "label": labels})


def _tokens(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    rows = np.frombuffer(bytearray(b"".join(sample["raw"] for sample in samples)), np.int32)
    return _tensors(shift(rows.reshape(len(samples), -1)))


def _stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return default_collate([{name: sample[name] for name in ("image", "label")} for sample in samples])


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _same(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return samples


def _shards(data: Data, workload: str, settings: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    urls, size = data.shards(workload), BATCH_SIZES[workload]
    samples = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1024).repeat()
    if workload == "jpeg":
        batches = samples.map(partial(_jpeg, _Random())).batched(size, _stack, partial=False)
    else:  # small examples: batched first, then augmented together
        function = partial(_small, _Random()) if workload == "small" else _tokens
        batches = samples.batched(size, _same, partial=False).map(function)
    yield from webdataset.WebLoader(batches, batch_size=None, **settings)


def arms(workload: str, data: Data) -> Arms:
    """Ways to open the loader, by what is set."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    settings: dict[str, dict[str, Any]] = {
        f"workers={count} prefetch={prefetch}": {
            "num_workers": count,
            "prefetch_factor": prefetch,
            "persistent_workers": True,
        }
        for count in (1, 2)
        for prefetch in (2, 4)
    }
    settings["workers=0"] = {}
    return {"webdataset": {name: partial(_shards, data, workload, values) for name, values in settings.items()}}

"""The arms of PyTorch's DataLoader: worker processes, prefetch, who stacks. Small examples come a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, default_collate, get_worker_info

from benchmarks.loaders.work import (
    BATCH_SIZES,
    NUM_JPEG_DRAWS,
    NUM_JPEGS,
    NUM_SMALL_DRAWS,
    Arms,
    Arrays,
    Data,
    decode,
    random_resized_crop,
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


class _Jpegs(Dataset):
    def __init__(self, data: Data) -> None:
        self._data, self._random = data, _Random()

    def __len__(self) -> int:
        return NUM_JPEGS

    def __getitem__(self, k: int) -> dict[str, Any]:
        image = random_resized_crop(decode(self._data.read(k)), self._random(NUM_JPEG_DRAWS))
        return {"image": image, "label": self._data.labels[k]}


class _SmallBatches(Dataset):
    def __init__(self, data: Data) -> None:
        self._data, self._random = data, _Random()

    def __len__(self) -> int:
        return len(self._data.small)

    def __getitem__(self, ks: list[int]) -> Arrays:
        return self._data.small_batch(ks, self._random(len(ks), NUM_SMALL_DRAWS))


class _TokenBatches(Dataset):
    def __init__(self, data: Data) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data.rows)

    def __getitem__(self, ks: list[int]) -> Arrays:
        return self._data.token_batch(ks)


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _same(arrays: Arrays) -> Arrays:
    return arrays


def _stack(examples: list[dict[str, Any]]) -> Arrays:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _endless(loader: DataLoader) -> Iterator[Mapping[str, Any]]:
    while True:
        yield from loader


def _stacked(dataset: Dataset, workload: str, collate: Any, settings: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    size = BATCH_SIZES[workload]
    return _endless(DataLoader(dataset, size, shuffle=True, drop_last=True, collate_fn=collate, **settings))


def _whole(dataset: Dataset, workload: str, collate: Any, settings: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A batch of positions is one item of the data set: nothing is stacked, ``collate`` only converts."""
    sampler = BatchSampler(RandomSampler(dataset), BATCH_SIZES[workload], drop_last=True)
    return _endless(DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=collate, **settings))


def arms(workload: str, data: Data) -> Arms:
    """Ways to open the loader, by what is set."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    beside: dict[str, dict[str, Any]] = {
        f"workers={count} prefetch={prefetch}": {
            "num_workers": count,
            "prefetch_factor": prefetch,
            "persistent_workers": True,
        }
        for count in (1, 2, 3)
        for prefetch in (2, 4)
    }
    kinds: dict[str, dict[str, dict[str, Any]]] = {"DataLoader": beside, "DataLoader, no workers": {"": {}}}
    if workload == "jpeg":
        ways: dict[str, Any] = {"default_collate": default_collate, "np.stack": _stack}
        opener, dataset = _stacked, _Jpegs(data)
    else:
        ways = {"tensors": _tensors, "arrays": _same}
        opener, dataset = _whole, _SmallBatches(data) if workload == "small" else _TokenBatches(data)
    return {
        kind: {
            f"{name} {way}".strip(): partial(opener, dataset, workload, collate, settings)
            for name, settings in found.items()
            for way, collate in ways.items()
        }
        for kind, found in kinds.items()
    }

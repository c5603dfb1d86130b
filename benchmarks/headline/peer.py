"""The arm without dataecho: webdataset in PyTorch's DataLoader and a plain loop, with the same functions for
decoding and augmentation, the same network and the same optimizer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls

from benchmarks.headline.dataset import NUM_SHARDS
from benchmarks.headline.setup import (
    IMAGE_SIZE,
    SHUFFLE_BUFFER,
    TARGET,
    WIDTHS,
    ArmRun,
    HeldOut,
    Mark,
    Result,
    settings,
)
from dataecho_tasks.images.torch_model import ImagesNet
from dataecho_tasks.shared.images.pixels import decode_image, random_colour, random_crop

Pair = tuple[NDArray[np.uint8], int]


class _Shards(IterableDataset):
    """Every shard once in an epoch, in an order of its own, for ever: the shuffle buffer is never drained."""

    def __init__(self, urls: str, seed: int) -> None:
        self._urls, self._seed = expand_urls(urls), seed

    def __iter__(self) -> Iterator[dict[str, str]]:
        order = random.Random(self._seed)
        while True:
            yield from ({"url": url} for url in order.sample(self._urls, len(self._urls)))


class _Augment:
    """Crops and colours of a batch; one generator for each worker process."""

    def __init__(self, *, min_area: float, colour: float, seed: int) -> None:
        self._min_area, self._colour, self._seed = min_area, colour, seed
        self._generator: np.random.Generator | None = None

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        crops = zip((image for image, _ in pairs), self._keys(len(pairs)), strict=True)
        images = np.stack([random_crop(image, key, size=IMAGE_SIZE, min_area=self._min_area) for image, key in crops])
        return {
            "image": torch.from_numpy(random_colour(images, self._keys(len(images)), strength=self._colour)),
            "label": torch.tensor([label for _, label in pairs]),
        }

    def _keys(self, count: int) -> NDArray[np.uint64]:
        if self._generator is None:
            worker = get_worker_info()
            self._generator = np.random.default_rng([self._seed, worker.id if worker else 0])
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


def _decoded(sample: dict[str, Any], *, max_pixels: int) -> Pair:
    return decode_image(sample["jpg"], max_pixels=max_pixels), int(sample["cls"])


def _as_they_are(pairs: Sequence[Pair]) -> Sequence[Pair]:
    return pairs


def _loader(arm_run: ArmRun, task: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
    """Shuffled while they are still encoded; a worker has its share of the buffer."""
    examples = webdataset.DataPipeline(
        _Shards(arm_run.urls, arm_run.seed),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(SHUFFLE_BUFFER // arm_run.num_connections),
        webdataset.map(partial(_decoded, max_pixels=task["max_pixels"])),
        webdataset.batched(arm_run.batch_size, collation_fn=_as_they_are, partial=False),
        webdataset.map(_Augment(min_area=task["min_area"], colour=task["colour"], seed=arm_run.seed)),
    )
    workers = {"num_workers": arm_run.num_connections, "prefetch_factor": arm_run.prefetch_factor}
    return iter(webdataset.WebLoader(examples, batch_size=None, **workers))


def run(arm_run: ArmRun) -> Result:
    """Train until the target is met. The clock starts before the loader; ``train_time`` stands still while evaluating,
    the loader's workers do not."""
    config = settings(arm_run, Path("unused"))
    task, optimizer_settings = config["task"], config["optimizer"]
    assert len(expand_urls(arm_run.urls)) == NUM_SHARDS
    torch.set_num_threads(1)
    torch.manual_seed(arm_run.seed)
    held_out = HeldOut(str(arm_run.held_out))
    images, labels = torch.from_numpy(held_out.images), torch.from_numpy(held_out.labels)
    model = ImagesNet(num_classes=task["num_classes"], image_size=IMAGE_SIZE, widths=WIDTHS)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=arm_run.learning_rate, momentum=optimizer_settings["momentum"], nesterov=True
    )
    marks: list[Mark] = []
    fresh, waited, evaluated = 0, 0.0, 0.0
    started = time.perf_counter()
    batches = _loader(arm_run, task)
    while fresh < arm_run.budget:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        model.train()
        model.losses(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fresh += arm_run.batch_size
        if fresh % arm_run.eval_interval:
            continue
        paused = time.perf_counter()
        model.eval()
        with torch.no_grad():
            accuracy = float(model.outputs({"image": images, "label": labels})["correct"].mean())
        evaluated += time.perf_counter() - paused
        wall_time = time.perf_counter() - started
        marks.append(Mark(fresh=fresh, wall_time=wall_time, train_time=wall_time - evaluated, accuracy=accuracy))
        if accuracy >= TARGET:
            break
    last = marks[-1]
    reached = last.accuracy >= TARGET
    return Result(
        fresh=last.fresh if reached else None,
        wall_time=last.wall_time if reached else None,
        train_time=last.train_time if reached else None,
        input_wait=waited / last.train_time,
        marks=marks,
        step_time=1e3 * (last.train_time - waited) * arm_run.batch_size / last.fresh,
        measured=1e3 * last.train_time / last.fresh,
        factor=1.0,
    )

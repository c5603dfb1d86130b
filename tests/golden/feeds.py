"""Feeds whose ids, batches and states are recorded: every kind of source and of echo, with every kind of worker.

What a feed gives depends on source and echo alone; ``WORKERS`` must not show.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.pipeline.engine.processes import WorkerPool
from dataecho.pipeline.feed import Feed, once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage
from dataecho.plan import keys as draws
from dataecho.sources.map_style import MapStyleSource
from dataecho.sources.tar import TarSource
from tests.sources.http_server import HttpServer
from tests.sources.tar_files import write_tar

NUM_SHARDS, SHARD_LENGTH = 5, 13
NUM_BATCHES, BATCH_SIZE, SHUFFLE_BUFFER, SEED = 40, 6, 20, 3
STATES_AFTER = (1, 17, 40)


class InOrder(Source):
    """Shards that are read from front to back: when items enter the plan."""

    num_shards = NUM_SHARDS
    random_access = False
    digest = "in order"

    def num_examples(self, shard: int) -> int:
        return SHARD_LENGTH - shard

    def read(self, shards: np.ndarray, ks: np.ndarray) -> list[dict[str, Any]]:
        return [_record(100 * shard + k) for shard, k in zip(shards.tolist(), ks.tolist(), strict=True)]


class FarFiles(InOrder):
    """Records that threads of their own read ahead, one by one."""

    random_access = True
    num_readers = 3
    digest = "far files"


def _record(number: int) -> dict[str, Any]:
    return {"x": np.arange(number, number + 4, dtype=np.int64), "label": np.int64(number % 7)}


def decode(record: dict[str, Any]) -> dict[str, Any]:
    """From any of the sources."""
    if "bin" in record:
        return {"x": np.frombuffer(record["bin"], np.int64), "label": np.int64(len(record["bin"]))}
    return {"x": record["x"] * 2, "label": record["label"]}


def crop(example: dict[str, Any], key: np.uint64) -> dict[str, Any]:
    """Random, one by one."""
    start = int(draws.integers(key, draw=0, high=2))
    return {**example, "x": example["x"][start : start + 3]}


def noise(chunk: dict[str, Any], keys: np.ndarray) -> dict[str, Any]:
    """Random, batched."""
    return {**chunk, "noise": draws.uniform(keys, draw=0)}


def double(chunk: dict[str, Any]) -> dict[str, Any]:
    """Of arrays, batched."""
    return {"x": chunk["x"] * 2, "label": chunk["label"]}


STAGES = (Stage("decode", decode), Stage("crop", crop, random=True), Stage("noise", noise, random=True, batched=True))
BATCHED = (Stage("decode", double, batched=True), Stage("noise", noise, random=True, batched=True))


def write_shards(folder: Path) -> None:
    """Tar archives, the last one shorter."""
    for shard in range(NUM_SHARDS):
        members = [
            (f"{k:03d}.bin", np.arange(100 * shard + k, 100 * shard + k + 4, dtype=np.int64).tobytes())
            for k in range(SHARD_LENGTH - shard)
        ]
        write_tar(folder / f"shard-{shard}.tar", members)


def _numbers() -> dict[str, np.ndarray]:
    numbers = np.arange(60, dtype=np.int64)
    return {"x": numbers[:, None] + np.arange(4), "label": numbers % 7}


#: Name -> (how to open it in a folder of shards that a server has, stages).
SOURCES: dict[str, tuple[Callable[[Path, str], Source], tuple[Stage, ...]]] = {
    "memory": (lambda folder, url: ArraySource(_numbers()), STAGES),
    "memory, batched": (lambda folder, url: ArraySource(_numbers()), BATCHED),
    "files": (lambda folder, url: TarSource(f"{folder}/shard-*.tar"), STAGES),
    "shards over HTTP": (
        lambda folder, url: TarSource(f"{url}/shard-{{0..{NUM_SHARDS - 1}}}.tar", index_dir=str(folder / "index")),
        STAGES,
    ),
    "read at entry": (lambda folder, url: InOrder(), STAGES),
    "read ahead": (lambda folder, url: FarFiles(), STAGES),
    "map-style": (lambda folder, url: MapStyleSource([_record(number) for number in range(50)]), STAGES),
}

#: Name -> what the feed is told.
ECHOES: dict[str, dict[str, Any]] = {
    "none": {},
    "batch": {"echo_after": "batch", "factor": 2.5},
    "batch, shuffled": {"echo_after": "batch", "factor": 3, "batch_shuffle_buffer": 4},
    "device": {"echo_after": "device", "factor": 2},
    "read": {"echo_after": "read", "factor": 2},
    "before": {"echo_after": "before_augmentation", "factor": 2.5},
    "after": {"echo_after": "after_augmentation", "factor": 4},
    "two ranks": {"echo_after": "before_augmentation", "factor": 1.5, "rank": 1, "num_ranks": 2},
}

WORKERS: dict[str, dict[str, Any]] = {
    "one thread": {"num_threads": 1, "chunk_size": 2, "look_ahead": 1},
    "three threads": {"num_threads": 3},
    "processes": {"num_processes": 2, "chunk_size": 4},
    "the caller": {"num_threads": 0},
}


@contextlib.contextmanager
def shards(folder: Path) -> Iterator[str]:
    """The URL of a server over archives that are written into ``folder``."""
    write_shards(folder)
    server = HttpServer(folder)
    try:
        yield server.url
    finally:
        server.close()


def digests(
    source: Source, stages: tuple[Stage, ...], echo: dict[str, Any], workers: dict[str, Any], pool: WorkerPool
) -> dict[str, Any]:
    """Of the ids and of the arrays of the first batches, and of the states on the way."""
    ids, arrays, states = hashlib.sha256(), hashlib.sha256(), {}
    with Feed(
        source,
        stages,
        batch_size=BATCH_SIZE,
        shuffle_buffer=SHUFFLE_BUFFER,
        seed=SEED,
        settings=PipelineSettings(**workers),
        pool=pool,
        **echo,
    ) as feed:
        for number in range(1, NUM_BATCHES + 1):
            batch = next(feed)
            _add_ids(ids, batch)
            _add_arrays(arrays, batch)
            batch.release()
            if number in STATES_AFTER:
                states[str(number)] = _digest(feed.state(number))
    return {"ids": ids.hexdigest()[:16], "batches": arrays.hexdigest()[:16], "states": states}


def pass_digests(
    source: Source, stages: tuple[Stage, ...], workers: dict[str, Any], pool: WorkerPool
) -> dict[str, Any]:
    """Of one pass over everything, the second of two ranks."""
    ids, arrays = hashlib.sha256(), hashlib.sha256()
    stages = tuple(stage for stage in stages if not stage.random)
    settings = PipelineSettings(**workers)
    with once_through(source, stages, batch_size=4, rank=1, num_ranks=2, settings=settings, pool=pool) as batches:
        for batch in batches:
            _add_ids(ids, batch)
            _add_arrays(arrays, batch)
            batch.release()
    return {"ids": ids.hexdigest()[:16], "batches": arrays.hexdigest()[:16]}


def _add_ids(digest: Any, batch: Any) -> None:
    planned = batch.planned
    for column in ("ordinal", "epoch", "shard", "k", "repeat", "num_repeats", "lag", "entered"):
        digest.update(np.ascontiguousarray(getattr(planned, column), dtype=np.int64).tobytes())
    numbers = (planned.batch_ordinal, planned.batch_repeat, planned.num_batch_repeats, planned.num_valid)
    digest.update(repr((*numbers, planned.num_entered, planned.epochs_entered, planned.num_fresh)).encode())


def _add_arrays(digest: Any, batch: Any) -> None:
    for name, values in sorted({**batch.arrays, "weights": batch.weights}.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(_plain(state), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key != "source"}  # another temporary folder
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in np.asarray(value).tolist()] if not isinstance(value, list) else value
    return value.item() if isinstance(value, np.generic) else value

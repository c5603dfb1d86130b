"""Delivered examples per second with echo before augmentation, against the time model (paper, section 2).

    python -m benchmarks.engine.time_model                     # five minutes, on a machine that does nothing else
    python -m benchmarks.engine.time_model --step products     # a loop of many small operations

JPEG files of 256 px in memory, decoded, random resized crop to 160, batches of 64, and a training step in the caller's
thread: a small convolutional network of PyTorch, forward, backward and update in one compute thread, or a number of
small matrix products. Two cases take turns, each with factors 1, 2, 4 and 8:

* throttled: a slow source, so that both sides have their own resources: a batch read takes four steps of 20 ms; two
  worker threads;
* contended: no throttle, a step of 6 ms: decoding, augmentation and step share the cores. A worker thread less than
  there are cores: the loop has one, and works with the other while it waits.

What the model needs is measured in every round, in runs of its own that do one thing and nothing else: seconds of
decoding a batch, of augmenting and stacking one, of a step; for ``throttled`` in one thread, for ``contended`` in as
many as there are cores, all doing the same. Images that are augmented come from as many as the shuffle buffer has, for
they are not in a processor's cache there either; and images that are used more than once are decoded into memory that
takes turns in the same way, for they are kept. Each figure is set against the model with the parameters of its round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks.loaders.ours_loader import STAGES
from benchmarks.loaders.work import BATCH_SIZES, NUM_JPEGS, Data, make_data
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Chunk
from dataecho.pipeline.throttle import Throttle

FACTORS = (1, 2, 4, 8)
BATCH, BUFFER = BATCH_SIZES["jpeg"], 512
STEPS = {"throttled": 20e-3, "contended": 6e-3}
#: Seconds of reading a batch over the slow line.
READING = 4 * STEPS["throttled"]


class JpegsInMemory(Source):
    """The bytes of the JPEG files."""

    num_shards, random_access, is_in_memory, digest = 1, True, True, "benchmark"

    def __init__(self, data: Data) -> None:
        self._records = [{"data": data.read(k), "label": data.labels[k]} for k in range(NUM_JPEGS)]

    def num_examples(self, shard: int) -> int:
        return NUM_JPEGS

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return [self._records[k] for k in ks.tolist()]


def median_seconds(work: Callable[[], object], count: int) -> float:
    """Of so many calls."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Training:
    """Steps of the smallest of some networks for which one takes ``seconds`` or more when nothing else runs; a network
    for every thread that calls."""

    def __init__(self, seconds: float) -> None:
        torch.set_num_threads(1)
        for width in itertools.count(4, 4):
            self._width, self._local = width, threading.local()
            self()
            if median_seconds(self, 20) >= seconds:
                return

    def __call__(self) -> None:
        mine = self._local
        if not hasattr(mine, "network"):
            width = self._width
            mine.network = nn.Sequential(
                nn.Conv2d(3, width, 3, stride=2),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, stride=2),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(2 * width, 10),
            )
            mine.optimizer = torch.optim.SGD(mine.network.parameters(), lr=0.01, momentum=0.9)
            mine.images, mine.labels = torch.rand(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
        mine.optimizer.zero_grad()
        nn.functional.cross_entropy(mine.network(mine.images), mine.labels).backward()
        mine.optimizer.step()


class Products:
    """Matrix products that take ``seconds`` when nothing else runs."""

    def __init__(self, seconds: float) -> None:
        self._matrix = np.ones((128, 128), np.float32)
        self._count = round(seconds / median_seconds(lambda: self._matrix @ self._matrix, 2000))

    def __call__(self) -> None:
        for _ in range(self._count):
            self._matrix @ self._matrix


@dataclass(frozen=True)
class Parameters:
    """Core seconds of one batch, or of one step; ``keep``: of decoding images that are kept."""

    decode: float
    keep: float
    augment: float
    step: float


Step = Training | Products
STEP_KINDS: dict[str, type[Step]] = {"training": Training, "products": Products}


def core_seconds(work: Callable[[], None], num_threads: int, seconds: float) -> float:
    """Of one call, while so many threads do nothing but call."""
    counts = [0] * num_threads
    begin = threading.Barrier(num_threads + 1)
    ended = threading.Event()

    def call(number: int) -> None:
        begin.wait()
        while not ended.is_set():
            work()
            counts[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - started) * num_threads / sum(counts)


def parameters(source: Source, step: Step, num_threads: int) -> Parameters:
    """Measured apart from each other, on a fixed sample of images."""
    decode, augment = STAGES["jpeg"]
    records = source.read(np.zeros(BUFFER, np.int64), np.arange(0, NUM_JPEGS, NUM_JPEGS // BUFFER))
    images = [decode.function(record) for record in records]
    keys = np.random.default_rng(0).integers(0, 2**63, BUFFER).astype(np.uint64)
    begins = itertools.cycle(range(0, BUFFER, BATCH))

    def decode_batch() -> None:
        begin = next(begins)
        for record in records[begin : begin + BATCH]:
            decode.function(record)

    def keep_batch() -> None:
        begin = next(begins)
        images[begin : begin + BATCH] = [decode.function(record) for record in records[begin : begin + BATCH]]

    def augment_batch() -> None:
        which = slice(begin := next(begins), begin + BATCH)
        examples = [augment.function(image, key) for image, key in zip(images[which], keys[which], strict=True)]
        {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    works: tuple[Callable[[], None], ...] = (decode_batch, keep_batch, augment_batch, step)
    return Parameters(*(core_seconds(work, num_threads, 0.7) for work in works))


def model(case: str, measured: Parameters, factor: int) -> float:
    """Delivered examples per second."""
    cores = len(os.sched_getaffinity(0))
    downstream = max(measured.step, measured.augment / cores)
    if case == "throttled":
        seconds = max(READING, factor * downstream)
    else:
        upstream = measured.decode if factor == 1 else measured.keep
        total = upstream + factor * (measured.augment + measured.step)
        seconds = max(factor * downstream, total / cores)
    return factor * BATCH / seconds


def delivered(source: Source, step: Step, factor: int, *, num_threads: int, seconds: float) -> float:
    """Examples per second of the real feed and the step, once the shuffle buffer is settled."""
    settings = PipelineSettings(num_threads=num_threads, look_ahead=8)
    with Feed(
        source,
        STAGES["jpeg"],
        batch_size=BATCH,
        shuffle_buffer=BUFFER,
        seed=0,
        echo_after="before_augmentation",
        factor=factor,
        settings=settings,
    ) as feed:

        def train() -> None:
            batch = next(feed)
            step()
            batch.release()

        for _ in range(2 * BUFFER // BATCH):
            train()
        started, num_batches = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            train()
            num_batches += 1
        return num_batches * BATCH / (time.perf_counter() - started)


def main() -> None:
    """Rounds in which everything takes its turn; medians."""
    parser = argparse.ArgumentParser(description="echo before augmentation against the time model")
    parser.add_argument("--data", type=Path, default=Path("runs/loaders-data"), help="made if it is not there: 350 MB")
    parser.add_argument("--output", type=Path, default=Path("runs/time_model.jsonl"), help="a line for every round")
    parser.add_argument("--cases", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--step", choices=list(STEP_KINDS), default="training")
    parser.add_argument("--threads", type=int, default=None, help="instead of what is said above")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    threadpool_limits(1)
    source = JpegsInMemory(make_data(options.data))
    slow = Throttle(examples_per_second=BATCH / READING).slow_down(source)
    sources = {"throttled": slow, "contended": source}
    steps = {case: STEP_KINDS[options.step](STEPS[case]) for case in options.cases}
    cores = len(os.sched_getaffinity(0))
    busy = {"throttled": 1, "contended": cores}
    threads = {"throttled": options.threads or 2, "contended": options.threads or max(1, cores - 1)}
    known: dict[str, list[Parameters]] = {case: [] for case in steps}
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {(case, e): [] for case in steps for e in FACTORS}
    arms: list[tuple[str, int]] = list(rates)
    for number in range(options.rounds):
        for case in steps:
            known[case].append(parameters(source, steps[case], busy[case]))
        for shift in range(len(arms)):
            case, factor = arms[(number + shift) % len(arms)]
            rate = delivered(sources[case], steps[case], factor, num_threads=threads[case], seconds=options.seconds)
            rates[case, factor].append((rate, model(case, known[case][-1], factor)))
    show(known, rates)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w") as output:
        for (case, factor), pairs in rates.items():
            for rate, expected in pairs:
                line = {"case": case, "factor": factor, "rate": rate, "model": expected}
                output.write(json.dumps(line) + "\n")


def show(known: dict[str, list[Parameters]], rates: dict[tuple[str, int], list[tuple[float, float]]]) -> None:
    """The parameters, and the table."""
    console = Console(width=140)
    for case, found in known.items():
        names = [field.name for field in fields(Parameters)]
        values = {name: statistics.median(getattr(one, name) for one in found) for name in names}
        console.print(case, ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in values.items()))
    table = Table("case", "factor", "examples / s", "model", "share of the model", "quartiles")
    for (case, factor), pairs in rates.items():
        shares = [rate / expected for rate, expected in pairs]
        low, _, high = statistics.quantiles(shares, n=4)
        table.add_row(
            case,
            str(factor),
            f"{statistics.median(rate for rate, _ in pairs):,.0f}",
            f"{statistics.median(expected for _, expected in pairs):,.0f}",
            f"{statistics.median(shares):.0%}",
            f"{low:.0%} to {high:.0%}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

"""No loader: threads that call the functions and stack what comes out, in any order. What a loader with threads can
reach on this machine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np

from benchmarks.loaders.work import (
    BATCH_SIZES,
    NUM_JPEG_DRAWS,
    NUM_JPEGS,
    Arms,
    Arrays,
    Data,
    decode,
    random_resized_crop,
)

NAME = "bare threads, functions and stacking"


def _jpegs(data: Data, num_threads: int) -> Iterator[Arrays]:
    finished: queue.Queue[Arrays] = queue.Queue(maxsize=8)
    ended = threading.Event()
    size = BATCH_SIZES["jpeg"]

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        while not ended.is_set():
            ks, chances = random.integers(NUM_JPEGS, size=size), random.random((size, NUM_JPEG_DRAWS))
            images = [
                random_resized_crop(decode(data.read(k)), chance)
                for k, chance in zip(ks.tolist(), chances.tolist(), strict=True)
            ]
            batch = {"image": np.stack(images), "label": data.labels[ks]}
            while not ended.is_set():
                try:
                    finished.put(batch, timeout=0.1)
                    break
                except queue.Full:
                    pass

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        while True:
            yield finished.get()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def arms(workload: str, data: Data) -> Arms:
    """Numbers of threads; for JPEG files only, the one workload whose functions do not need Python's lock."""
    cv2.setNumThreads(0)
    if workload != "jpeg":
        return {}
    return {NAME: {f"threads={count} bare": partial(_jpegs, data, count) for count in (2, 3)}}

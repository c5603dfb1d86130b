"""The data of the headline: tar shards of JPEG scenes for the server, held-out scenes for the evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.headline.setup import IMAGE_SIZE, NUM_HELD_OUT, NUM_TRAIN, PIXELS, QUALITY, SHARD_SIZE
from dataecho_tasks.shared.images.drawing import Scenes
from dataecho_tasks.shared.images.pixels import central_crop
from dataecho_tasks.shared.images.scenes import write_scenes

NUM_SHARDS = NUM_TRAIN // SHARD_SIZE


def shards(where: str | Path) -> str:
    """The shards below a folder or URL, as one pattern with braces."""
    return f"{where}/train-{PIXELS}px-{{{0:05d}..{NUM_SHARDS - 1:05d}}}.tar"


def write(folder: Path) -> tuple[Path, Path]:
    """The folder of the shards and the file of held-out images, written if they are not there: the same bytes every
    time, with the same version of OpenCV."""
    name = f"{NUM_TRAIN}-{PIXELS}px-q{QUALITY}"
    train, held_out = folder / f"train-{name}", folder / f"held-out-{NUM_HELD_OUT}-{IMAGE_SIZE}px.npz"
    if not train.exists():
        draft = folder / "unfinished"
        shutil.rmtree(draft, ignore_errors=True)
        write_scenes(draft, num_examples=NUM_TRAIN, pixels=PIXELS, quality=QUALITY, shard_size=SHARD_SIZE)
        draft.rename(train)
    if not held_out.exists():
        drawn = [Scenes(split="eval", pixels=PIXELS).draw(index) for index in range(NUM_HELD_OUT)]
        images = np.stack([central_crop(image, size=IMAGE_SIZE, share=1.0) for image, _ in drawn])
        np.savez(held_out, images=images, labels=np.array([label for _, label in drawn], dtype=np.int64))
    return train, held_out

"""Scenes of digits on photographs in the format of CIFAR-10, written once: the data where no other are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.report.progress_bar import Advance
from dataecho_tasks.cifar10_resnet32.binary import FILES, SIDE, CifarBinarySource, as_record
from dataecho_tasks.shared.images.drawing import Scenes
from dataecho_tasks.shared.written_once import cache_folder, written_once

_VERSION = 1  # of what is drawn: another number, another folder


def miniature(*, split: str, num_examples: int, seed: int = 0, cache_dir: str | None = None) -> Source:
    """The files of :func:`write_miniature`, in a folder of their own in ``cifar10`` below ``cache_dir``
    (``~/.cache/dataecho`` or where ``XDG_CACHE_HOME`` says). Written by whoever asks first; another
    process that asks meanwhile waits."""
    require(split in FILES, "split", split, allowed=", ".join(FILES), cure="train is the larger part.")

    def write(folder: Path, tell: Advance) -> None:
        write_miniature(folder, split=split, num_examples=num_examples, seed=seed, tell=tell)

    folder = written_once(
        f"{split}-{num_examples}-s{seed}",
        write,
        root=cache_folder(cache_dir) / "cifar10",
        version=_VERSION,
        num_examples=num_examples,
        title=f"writing {split} examples",
    )
    return CifarBinarySource([str(folder / name) for name in FILES[split]])


def write_miniature(
    folder: Path, *, split: str, num_examples: int, seed: int = 0, tell: Advance = lambda written: None
) -> None:
    """Write ``num_examples`` scenes of ``split`` into the files that CIFAR-10 has for it, in equal parts but for one.
    The same arguments write the same bytes, with the same version of OpenCV."""
    names = FILES[split]
    require(
        num_examples >= len(names),
        "num_examples",
        num_examples,
        allowed=f">= {len(names)}, the number of files",
        cure="8192 is usual.",
    )
    drawn = Scenes(split=split, pixels=SIDE, seed=seed)
    folder.mkdir(parents=True)
    for name, indices in zip(names, np.array_split(np.arange(num_examples), len(names)), strict=True):
        with (folder / name).open("wb") as file:
            for index in indices.tolist():
                file.write(as_record(*drawn.draw(index)))
        tell(len(indices))

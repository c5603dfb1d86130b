"""Scenes as JPEG files, written once: the data of this task where no other are named, and of the benchmarks."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.posix import usable_cores
from dataecho.report.progress_bar import Advance
from dataecho.sources.index_store import user_cache_folder
from dataecho.sources.tar import TarSource
from dataecho_tasks.shared.images.drawing import SPLITS, Scenes
from dataecho_tasks.shared.written_once import written_once

LAYOUTS = ("tar", "folder")

_VERSION = 1  # of what is drawn: another number, another folder


def scenes(
    *, split: str, num_examples: int, pixels: int, quality: int, seed: int = 0, cache_dir: str | None = None
) -> Source:
    """The scenes of :func:`write_scenes` as tar shards of 1,024, in a folder of their own below ``cache_dir``
    (``~/.cache/dataecho/scenes``, or where ``XDG_CACHE_HOME`` says). Written by whoever asks first, half a minute for
    every 50,000; another process that asks meanwhile waits."""
    facts = f"{split}-{num_examples}-{pixels}px-q{quality}-s{seed}"

    def write(folder: Path, tell: Advance) -> None:
        write_scenes(
            folder,
            num_examples=num_examples,
            pixels=pixels,
            quality=quality,
            split=split,
            seed=seed,
            progress=tell,
        )

    folder = written_once(
        facts,
        write,
        root=Path(cache_dir).expanduser() if cache_dir is not None else user_cache_folder() / "scenes",
        version=_VERSION,
        num_examples=num_examples,
        title=f"writing {split} scenes",
    )
    return TarSource(f"{folder}/*.tar", fields={"image": "jpg", "label": "cls"})


def write_scenes(
    folder: Path,
    *,
    num_examples: int,
    pixels: int = 96,
    quality: int = 90,
    split: str = "train",
    seed: int = 0,
    layout: str = "tar",
    shard_size: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write ``num_examples`` scenes of ``split`` into ``folder``, as JPEG files of ``pixels`` x ``pixels``; the files
    that were written, sorted. The same arguments write the same bytes, with the same version of OpenCV.

    ``layout`` tar: shards of ``shard_size`` in WebDataset's layout, ``<key>.jpg`` and ``<key>.cls``; folder: one folder
    per class, ``<digit>/<key>.jpg``. ``progress(n)`` is told of every n scenes, from several threads.
    """
    require(split in SPLITS, "split", split, allowed=", ".join(SPLITS), cure="train is the larger part.")
    require(layout in LAYOUTS, "layout", layout, allowed=", ".join(LAYOUTS), cure="tar is the default.")
    require(16 <= pixels <= 4096, "pixels", pixels, allowed="16 to 4096", cure="96 is the default.")
    require(1 <= quality <= 100, "quality", quality, allowed="1 to 100", cure="90 is the default.")
    for name, value in (("num_examples", num_examples), ("shard_size", shard_size)):
        require(value >= 1, name, value, allowed="whole numbers >= 1", cure="16384 and 1024 are usual.")
    drawn = Scenes(split=split, pixels=pixels, seed=seed)
    drawn.draw(0)  # the material is loaded before the threads ask for it
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_shard if layout == "tar" else _write_files

    def write_part(number: int) -> list[Path]:
        start = number * shard_size
        keys = range(start, min(start + shard_size, num_examples))
        stem = f"{split}-{pixels}px-{number:05d}"
        return write(folder, stem, _encoded(drawn, keys, quality, progress))

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(write_part, range(-(-num_examples // shard_size))))
    return sorted(path for part in parts for path in part)


def _encoded(
    drawn: Scenes, keys: range, quality: int, progress: Callable[[int], None] | None
) -> Iterator[tuple[str, bytes, int]]:
    for number, key in enumerate(keys, start=1):
        image, label = drawn.draw(key)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        yield f"{key:08d}", data.tobytes(), label
        if progress is not None and (number % 64 == 0 or number == len(keys)):
            progress((number - 1) % 64 + 1)


def _write_shard(folder: Path, stem: str, examples: Iterator[tuple[str, bytes, int]]) -> list[Path]:
    path = folder / f"{stem}.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, data, label in examples:
            for name, content in ((f"{key}.jpg", data), (f"{key}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)  # its time is 0: the same bytes whenever they are written
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return [path]


def _write_files(folder: Path, stem: str, examples: Iterator[tuple[str, bytes, int]]) -> list[Path]:
    paths = []
    for key, data, label in examples:
        path = folder / str(label) / f"{key}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths

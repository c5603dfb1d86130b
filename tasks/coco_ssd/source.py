"""COCO's images and objects as they are published: ``annotations/instances_<split>.json`` beside a folder of images."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, SettingError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Chunk, Example
from dataecho.report.progress_bar import progress_bar
from dataecho.sources.file import MissingFile
from dataecho.sources.loose_files import LooseFiles
from dataecho.sources.remote import Remote, Stream
from dataecho.sources.urls import is_local, local_path, shown_url
from tasks.coco_ssd.annotations import Annotations, read_annotations

#: The published parts for training and evaluation, and how many images they have.
PARTS = {"train": ("train2017", 118_287), "eval": ("val2017", 5_000)}

_GET = (
    "Get train2017.zip (19 GB), val2017.zip (0.8 GB) and annotations_trainval2017.zip (0.25 GB) from "
    "https://cocodataset.org/#download, and unpack all into one folder."
)

_LOG = logging.getLogger(__name__)


def coco(folder: str, *, split: str, storage_options: Mapping[str, Any] | None = None) -> CocoSource:
    """COCO 2017 in ``folder``, a path or a URL: its ``train2017`` or, for ``split`` eval, ``val2017``.

    Raises :class:`SettingError` for another split, and where the files are not there, with where to get them;
    :class:`DataError` where the annotations have another number of images than was published.
    """
    require(split in PARTS, "split", split, allowed=", ".join(PARTS), cure="eval is val2017.")
    name, num_images = PARTS[split]
    root = folder.rstrip("/")
    try:
        return CocoSource(
            f"{root}/annotations/instances_{name}.json",
            f"{root}/{name}",
            split=split,
            num_images=num_images,
            storage_options=storage_options,
        )
    except MissingFile as error:
        raise SettingError(
            "folder",
            shown_url(folder),
            allowed=f"a folder with annotations/instances_{name}.json and {name}/",
            cure=f"{error} {_GET}",
        ) from error


class CocoSource(Source):
    """Records ``image`` (the bytes of a file), ``size`` int64 (height, width, as ``annotations`` say), ``boxes``
    float32 [m, 4] (corners in pixels), ``labels`` int64 [m] (1 to the number of classes) and ``crowd`` bool [m]; one
    shard, any order, sorted by the images' numbers.

    ``annotations``: a file in the format of ``instances_*.json``; ``images``: the folder of its images; both here or
    behind a URL. With ``split`` train, objects marked ``iscrowd`` are left out, and so are images that have no other;
    with ``split`` eval both stay: a crowd excuses detections, and what is found where nothing is counts as wrong. Boxes
    are cut off at the borders of their image, those without area left out; a log line says how many.

    ``num_images``: how many there must be in the file; None: any number. Images of this machine are looked for at once,
    those behind a URL are broken where they are missing. ``num_readers``: threads that wait for files behind a URL.

    Raises :class:`DataError` for such a file that cannot be used, and :class:`SettingError` where the folder is none,
    lacks images, or no image is left.
    """

    def __init__(
        self,
        annotations: str,
        images: str,
        *,
        split: str = "train",
        num_images: int | None = None,
        num_readers: int = 16,
        storage_options: Mapping[str, Any] | None = None,
        num_retries: int = 5,
        first_delay: float = 0.5,
        timeout: float = 60.0,
    ) -> None:
        require(split in PARTS, "split", split, allowed=", ".join(PARTS), cure="train leaves out what has no object.")
        remote = Remote(
            storage_options=storage_options, num_retries=num_retries, first_delay=first_delay, timeout=timeout
        )
        where = shown_url(annotations)
        with remote.stream(annotations) as pieces:
            found = read_annotations(_told(pieces, where), where=where)
        if num_images is not None and len(found.names) != num_images:
            raise DataError(
                f"{where} has {len(found.names):,} images, expected are {num_images:,}. It is another file, or changed."
            )
        _tell(found, where)
        if is_local(images):
            _require_files(images, found.names)
        self._found = _usable(found, split, where)
        self._files = LooseFiles(images, self._found.names, remote=remote, num_readers=num_readers)
        self._digest = _digest(self._found)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels 1, 2, ..."""
        return self._found.classes

    @property
    def max_objects(self) -> int:
        """Of one image."""
        return int(self._found.counts.max())

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return len(self._found.names)

    @property
    def random_access(self) -> bool:
        return True

    @property
    def num_readers(self) -> int:
        return self._files.num_readers

    @property
    def digest(self) -> str:
        """Of the images' names and sizes and their objects; the images themselves are not looked at."""
        return self._digest

    def name(self, shard: int, k: int) -> str:
        return self._files.name(k)

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return [self._record(k) for k in ks.tolist()]

    def _record(self, k: int) -> Example:
        data = self._files.read(k)
        if isinstance(data, Broken):
            return data
        own = slice(int(self._found.starts[k]), int(self._found.starts[k + 1]))
        return {
            "image": data,
            "size": self._found.sizes[k].copy(),
            "boxes": self._found.boxes[own].copy(),
            "labels": self._found.labels[own].copy(),
            "crowd": self._found.crowd[own].copy(),
        }


def _told(pieces: Stream, where: str) -> Iterator[bytes]:
    """The same, with a bar in megabytes: the published file has 470 of them."""
    with progress_bar(f"reading {where}", total=(pieces.stat.size or 0) / 1e6) as tell:
        for piece in pieces:
            tell(len(piece) / 1e6)
            yield piece


def _tell(found: Annotations, where: str) -> None:
    if found.num_outside or found.num_empty:
        _LOG.warning(
            "%s: %d boxes that leave their image by more than a pixel were cut off at its borders, %d without any area "
            "in it were left out",
            where,
            found.num_outside,
            found.num_empty,
        )


def _require_files(images: str, names: tuple[str, ...]) -> None:
    """One listing of every folder that is named: 118,287 questions would take longer."""
    root = local_path(images)
    require(os.path.isdir(root), "images", images, allowed="a folder that exists", cure=_GET)
    present: set[str] = set()
    for folder in {os.path.dirname(name) for name in names}:
        prefix = f"{folder}/" if folder else ""
        path = os.path.join(root, folder)
        present |= {prefix + entry for entry in (os.listdir(path) if os.path.isdir(path) else ())}
    missing = [name for name in names if name not in present]
    require(
        not missing,
        "images",
        images,
        allowed="a folder with every image of the annotations",
        cure=f"{len(missing):,} of {len(names):,} are missing, such as {', '.join(missing[:1])}: is it the folder of "
        "these annotations, and is everything unpacked?",
    )


def _usable(found: Annotations, split: str, where: str) -> Annotations:
    everything = np.arange(len(found.names))
    if split == "eval":
        return found
    objects = found.of_images(everything, crowds=False)
    chosen = np.flatnonzero(objects.counts)
    require(
        len(chosen) > 0,
        "annotations",
        where,
        allowed="a file with objects that are no crowds",
        cure="No image has any. Is it one of the instances_*.json?",
    )
    return objects.of_images(chosen, crowds=False)


def _digest(found: Annotations) -> str:
    digest = hashlib.sha256(repr((found.classes, len(found.names))).encode())
    for name in found.names:
        digest.update(name.encode() + b"\0")
    for array in (found.sizes, found.starts, found.boxes, found.labels, found.crowd):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]

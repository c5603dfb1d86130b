"""COCO's images and objects as they are published: ``annotations/instances_<split>.json`` beside a folder of images."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dataecho.errors import DataError, SettingError, require
from dataecho.report.progress_bar import progress_bar
from dataecho.sources.file import MissingFile
from dataecho.sources.loose_files import LooseFiles, LooseFileSource, require_files
from dataecho.sources.options import LooseFileOptions, takes
from dataecho.sources.remote import Remote, Stream
from dataecho.sources.urls import is_local, shown_url
from dataecho_tasks.coco_ssd.annotations import Annotations, read_annotations
from dataecho_tasks.shared.images.headers import image_size
from dataecho_tasks.shared.images.headers import orientation as orientation_of

#: The published parts for training and evaluation, and how many images they have.
PARTS = {"train": ("train2017", 118_287), "eval": ("val2017", 5_000)}

_GET = (
    "Get train2017.zip (19 GB), val2017.zip (0.8 GB) and annotations_trainval2017.zip (0.25 GB) from "
    "https://cocodataset.org/#download, and unpack all into one folder."
)

_ORIENTATIONS = ("turned", "stored")
_FORMAT = 2  # of what is made of an image: another number where the same data become another batch

_LOG = logging.getLogger(__name__)


def coco(
    folder: str,
    *,
    split: str,
    subset: bool | None = None,
    classes: Sequence[str] | None = None,
    orientation: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> CocoSource:
    """COCO 2017 in ``folder``, a path or a URL: its ``train2017`` or, for ``split`` eval, ``val2017``. ``subset``: the
    annotations may have any number of images. ``classes``, ``orientation``: see :class:`CocoSource`.

    Raises :class:`SettingError` for another split, where the files are not there, with where to get them, and where
    the annotations have another number of images than was published.
    """
    require(split in PARTS, "split", split, allowed=", ".join(PARTS), cure="eval is val2017.")
    name, num_images = PARTS[split]
    root = folder.rstrip("/")
    try:
        return CocoSource(
            f"{root}/annotations/instances_{name}.json",
            f"{root}/{name}",
            split=split,
            num_images=None if subset else num_images,
            classes=classes,
            orientation=orientation,
            storage_options=storage_options,
        )
    except _OtherNumber as error:
        raise SettingError(
            "subset",
            subset,
            allowed=f"true, for an annotations/instances_{name}.json with another number of images than was published",
            cure=str(error),
        ) from error
    except MissingFile as error:
        raise SettingError(
            "folder",
            shown_url(folder),
            allowed=f"a folder with annotations/instances_{name}.json and {name}/",
            cure=f"{error} {_GET}",
        ) from error


class CocoSource(LooseFileSource):
    """Records ``image`` (the bytes of a file), ``size`` int64 (height, width, as ``annotations`` say), ``boxes``
    float32 [m, 4] (corners in pixels), ``labels`` int64 [m] (1 to the number of classes) and ``crowd`` bool [m]; one
    shard, any order, sorted by the images' numbers.

    ``annotations``: a file in the format of ``instances_*.json``; ``images``: the folder of its images; both here or
    behind a URL. With ``split`` train, objects marked ``iscrowd`` are left out, and so are images that have no other;
    with ``split`` eval both stay: a crowd excuses detections, and what is found where nothing is counts as wrong. Boxes
    are cut off at the borders of their image, those without area left out; a log line says how many.

    ``num_images``: how many there must be in the file; None: any number. ``classes``: the names of the categories in
    the order of their labels; None: those of the file, by their numbers. Give it where one of several files lacks a
    category, for its labels would not be those of the others. The digest covers the images' names and sizes and their
    objects; the images themselves are not looked at.

    ``orientation``: which picture the boxes are for where an image has an EXIF entry that turns it, and its annotated
    size fits both, the picture as it is turned and as it is stored: ``turned`` (None) or ``stored``. A line in the log
    counts these images as they are read. Where the size fits one of them only, that one is meant. A record of the
    picture as it is stored has ``stored``, True, besides. Images of this machine are looked for at once,
    those behind a URL are broken where they are missing. ``options`` are the fields of
    :class:`dataecho.sources.options.LooseFileOptions`.

    Raises :class:`DataError` for such a file that cannot be used, and :class:`SettingError` where the folder is none,
    lacks images, or no image is left.
    """

    @takes(LooseFileOptions)
    def __init__(
        self,
        annotations: str,
        images: str,
        *,
        split: str = "train",
        num_images: int | None = None,
        classes: Sequence[str] | None = None,
        orientation: str | None = None,
        **options: Any,
    ) -> None:
        require(split in PARTS, "split", split, allowed=", ".join(PARTS), cure="train leaves out what has no object.")
        require(
            orientation in (None, *_ORIENTATIONS),
            "orientation",
            orientation,
            allowed=f"null, {', '.join(_ORIENTATIONS)}",
            cure="turned: the boxes are for the picture as its EXIF entry turns it.",
        )
        require(
            classes is None or (len(set(classes)) == len(classes) > 0),
            "classes",
            classes,
            allowed="null, or every class once",
            cure="null takes the categories of the file.",
        )
        reading = LooseFileOptions(**options)
        remote = Remote(reading)
        where = shown_url(annotations)
        with remote.stream(annotations) as pieces:
            found = read_annotations(_told(pieces, where), where=where)
        if num_images is not None and len(found.names) != num_images:
            raise _OtherNumber(
                f"{where} has {len(found.names):,} images, expected are {num_images:,}: it is another file, or changed."
            )
        if classes is not None:
            try:
                found = found.of_classes(classes)
            except ValueError as error:
                raise SettingError(
                    "classes",
                    f"{len(classes)} names",
                    allowed=f"a list that has the class of every object in {where}",
                    cure=f"{error}.",
                ) from None
        _tell(found, where)
        if is_local(images):
            require_files(images, found.names, key="images", of="the annotations", where_to_get=_GET)
        self._found = _usable(found, split, where)
        files = LooseFiles(images, self._found.names, remote=remote, num_readers=reading.num_readers)
        super().__init__(files, digest=_digest(self._found, orientation))
        self._takes_stored = orientation == "stored"
        self._unclear = _Unclear(where, "stored" if self._takes_stored else "turned")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels 1, 2, ..."""
        return self._found.classes

    @property
    def max_objects(self) -> int:
        """Of one image."""
        return int(self._found.counts.max())

    def fields(self, k: int, data: bytes) -> dict[str, Any]:
        own = slice(int(self._found.starts[k]), int(self._found.starts[k + 1]))
        return {
            **({"stored": True} if self._is_stored(k, data) else {}),
            "size": self._found.sizes[k].copy(),
            "boxes": self._found.boxes[own].copy(),
            "labels": self._found.labels[own].copy(),
            "crowd": self._found.crowd[own].copy(),
        }

    def _is_stored(self, k: int, data: bytes) -> bool:
        """Whether the boxes are for the picture as it is stored, where its EXIF entry turns it."""
        turn = orientation_of(data)
        if turn == 1:
            return False
        try:
            stored = image_size(data)
        except ValueError:  # told when it is decoded
            return False
        annotated, turned = tuple(self._found.sizes[k].tolist()), stored[::-1] if turn >= 5 else stored
        if stored != turned:
            return bool(annotated == stored)
        if annotated == stored:
            self._unclear.add(k, self.name(0, k))
        return self._takes_stored


class _OtherNumber(DataError):
    """The annotations have another number of images."""


class _Unclear:
    """Counts the images whose annotated size does not say which picture is meant, and tells of 1, 10, 100 ... of
    them."""

    def __init__(self, where: str, taken: str) -> None:
        self._where, self._taken = where, taken
        self._known: set[int] = set()
        self._lock = threading.Lock()

    def add(self, k: int, name: str) -> None:
        with self._lock:
            if k in self._known:
                return
            self._known.add(k)
            number = len(self._known)
        if str(number).strip("0") == "1":
            _LOG.warning(
                "%s: %d images so far, such as %s, have an EXIF entry that turns them, and an annotated size that fits "
                "both pictures: the boxes are taken to be for the picture as it is %s (orientation).",
                self._where,
                number,
                name,
                self._taken,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self._where, "taken": self._taken}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a copy in another process counts for itself


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


def _digest(found: Annotations, orientation: str | None) -> str:
    digest = hashlib.sha256(repr((_FORMAT, found.classes, len(found.names), orientation or "turned")).encode())
    for name in found.names:
        digest.update(name.encode() + b"\0")
    for array in (found.sizes, found.starts, found.boxes, found.labels, found.crowd):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]

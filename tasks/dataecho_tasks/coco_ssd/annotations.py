"""The content of COCO's ``instances_*.json`` as arrays: images, boxes, classes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError
from dataecho_tasks.coco_ssd.json_stream import list_elements

_LARGEST = 2**31  # pixels from the border of a picture; what is not smaller is no number, or none of pixels

_LARGEST_SHARE = 1.01  # boxes that nowhere reach further are no pixels; rounding may carry one a little beyond 1

_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class Annotations:
    """Images in the order of their numbers: ``names`` (files), ``sizes`` int64 [n, 2] (height, width). Objects in the
    order of their images and of the file: image k has those from ``starts[k]`` to ``starts[k + 1]``; ``boxes`` float32
    [m, 4], corners in pixels, cut off at the borders of their image; ``labels`` int64 [m], 1 to ``len(classes)``, in
    the order of the categories' numbers; ``crowd`` bool [m]. ``num_outside``: boxes that left their image by more than
    a pixel; ``num_empty``: boxes without any area in their image, which are left out."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    num_outside: int
    num_empty: int

    @property
    def counts(self) -> NDArray[np.int64]:
        """Objects of every image."""
        return np.diff(self.starts)

    def of_classes(self, classes: Sequence[str]) -> Annotations:
        """The same objects with the labels that their classes have in ``classes``. Raises ``ValueError`` where an
        object's class is not among them, or two categories of the file have one name."""
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise ValueError(f"the category {repeated[0]!r} comes twice, so that classes cannot say which is meant")
        number = {name: label for label, name in enumerate(classes, start=1)}
        used = {name for label, name in enumerate(self.classes, start=1) if (self.labels == label).any()}
        unknown = sorted(used - set(number))
        if unknown:
            raise ValueError(f"it has objects of classes that are not among those given: {', '.join(unknown[:5])}")
        labels = np.array([0, *(number.get(name, 0) for name in self.classes)], dtype=np.int64)[self.labels]
        return replace(self, classes=tuple(classes), labels=labels)

    def of_images(self, chosen: NDArray[np.int64], *, crowds: bool) -> Annotations:
        """Some images, with their objects; those that stand for a crowd only if so wished."""
        owner = np.repeat(np.arange(len(self.names)), self.counts)
        place = np.full(len(self.names), -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        kept = np.flatnonzero((place[owner] >= 0) & (crowds | ~self.crowd))
        kept = kept[np.argsort(place[owner[kept]], kind="stable")]
        counts = np.bincount(place[owner[kept]], minlength=len(chosen))
        return Annotations(
            classes=self.classes,
            names=tuple(self.names[number] for number in chosen.tolist()),
            sizes=self.sizes[chosen],
            starts=np.concatenate([[0], np.cumsum(counts)]),
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            crowd=self.crowd[kept],
            num_outside=self.num_outside,
            num_empty=self.num_empty,
        )


def read_annotations(pieces: Iterable[bytes], *, where: str) -> Annotations:
    """The file that comes in ``pieces``. Numbers are kept as numbers while it is read: 860,001 objects are 50 MB.

    Raises :class:`DataError`, with ``where`` and the place in the file, for what is no such JSON, for a missing field,
    a box that is no box, and for a number of an image or category that is not in the file or comes twice.
    """
    images, image_names = array("q"), list[str]()
    categories, category_names = array("q"), list[str]()
    objects, corners, crowds = array("q"), array("d"), array("b")
    found = dict.fromkeys(_FIELDS, 0)
    try:
        for name, element in list_elements(pieces, _FIELDS):
            place = f"{name}[{found[name]}]"
            found[name] += 1
            _require_fields(element, _FIELDS[name], place)
            if name == "images":
                images.extend(_whole(element, field, place) for field in ("id", "height", "width"))
                image_names.append(_plain_name(element["file_name"], place))
            elif name == "categories":
                categories.append(_whole(element, "id", place))
                category_names.append(str(element["name"]))
            else:
                objects.extend(_whole(element, field, place) for field in ("image_id", "category_id"))
                corners.extend(_box(element["bbox"], place))
                crowds.append(_is_crowd(element, place))
        missing = [name for name in ("images", "categories") if not found[name]]
        if missing:
            raise ValueError(f"it has no {' and no '.join(missing)}")
        return _joined(
            np.array(images, dtype=np.int64).reshape(-1, 3),
            image_names,
            np.array(categories, dtype=np.int64),
            category_names,
            np.array(objects, dtype=np.int64).reshape(-1, 2),
            np.array(corners, dtype=np.float64).reshape(-1, 4),
            np.array(crowds, dtype=np.bool_),
        )
    except ValueError as error:
        raise DataError(
            f"{where}: {error}. Expected is COCO's format for objects, as in instances_train2017.json: is it that "
            "file, and whole?"
        ) from error


def _joined(
    images: NDArray[np.int64],
    image_names: list[str],
    categories: NDArray[np.int64],
    category_names: list[str],
    objects: NDArray[np.int64],
    given: NDArray[np.float64],
    crowds: NDArray[np.bool_],
) -> Annotations:
    order, category_order = np.argsort(images[:, 0], kind="stable"), np.argsort(categories, kind="stable")
    images = images[order]
    owner = _places(objects[:, 0], images[:, 0], what="image", field="image_id")
    labels = _places(objects[:, 1], categories[category_order], what="category", field="category_id") + 1
    if len(given) and (np.abs(given) <= _LARGEST_SHARE).all() and images[:, 1:].min() > 1:
        raise ValueError(
            f"all {len(given):,} boxes lie between 0 and {_LARGEST_SHARE}, as shares of the picture would: a bbox is "
            "[left, top, width, height] in pixels. Multiply them by width and height"
        )
    limits = images[:, [2, 1, 2, 1]][owner].astype(np.float64)  # width, height, width, height
    inside = np.clip(given, 0, limits)
    has_area = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    kept = np.flatnonzero(has_area)
    kept = kept[np.argsort(owner[kept], kind="stable")]
    return Annotations(
        classes=tuple(category_names[number] for number in category_order.tolist()),
        names=tuple(image_names[number] for number in order.tolist()),
        sizes=images[:, 1:],
        starts=np.searchsorted(owner[kept], np.arange(len(images) + 1)),
        boxes=inside[kept].astype(np.float32),
        labels=labels[kept],
        crowd=crowds[kept],
        num_outside=int((np.abs(inside - given) > 1).any(axis=1).sum()),
        num_empty=int((~has_area).sum()),
    )


def _places(wanted: NDArray[np.int64], known: NDArray[np.int64], *, what: str, field: str) -> NDArray[np.int64]:
    """Where each of ``wanted`` stands among ``known``, which is sorted."""
    twice = known[1:][known[1:] == known[:-1]]
    if len(twice):
        raise ValueError(f"{what} {twice[0]} comes twice")
    places = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    strange = np.flatnonzero(known[places] != wanted)
    if len(strange):
        raise ValueError(f"annotations[{strange[0]}] has {field} {wanted[strange[0]]}, and there is no such {what}")
    return places


def _require_fields(element: Any, fields: tuple[str, ...], place: str) -> None:
    if not isinstance(element, Mapping):
        raise ValueError(f"{place} is no object but {str(element)[:40]!r}")
    missing = [field for field in fields if field not in element]
    if missing:
        raise ValueError(f"{place} has no {' and no '.join(map(repr, missing))}")


def _whole(element: Mapping[str, Any], field: str, place: str) -> int:
    value = element[field]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{place} has {field} {value!r}, which is no whole number from 0 to 2^63 - 1")
    return value


def _is_crowd(element: Mapping[str, Any], place: str) -> bool:
    value = element.get("iscrowd", 0)
    if type(value) not in (int, bool) or value not in (0, 1):  # "0" would count as true
        raise ValueError(f"{place} has iscrowd {value!r}, which is neither 0 nor 1")
    return bool(value)


def _box(value: Any, place: str) -> tuple[float, float, float, float]:
    """Corners of left, top, width, height."""
    numbers = list(value) if isinstance(value, list) else []
    if len(numbers) != 4 or not all(isinstance(one, int | float) and abs(one) < _LARGEST for one in numbers):
        raise ValueError(f"{place} has the bbox {value!r}, which is not [left, top, width, height]")
    left, top, width, height = numbers
    return left, top, left + width, top + height


def _plain_name(value: Any, place: str) -> str:
    """A file of the image folder: nothing else may be read by its name."""
    if not isinstance(value, str) or value.startswith("/") or ".." in value.split("/") or "://" in value or not value:
        raise ValueError(f"{place} has the file_name {value!r}, which is no name of a file in the image folder")
    return value

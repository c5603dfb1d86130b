"""Boxes, and the default boxes of SSD: where they lie, and how other boxes are written relative to them.

A box is four numbers: its corners (left, top, right, bottom), or its centre and size (x, y, width, height). Where
nothing else is said, both are shares of the image's width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require

Boxes = NDArray[np.float32]

# Offsets are divided by these, so that the network's outputs are of one size (Liu et al.'s code: "variances").
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_MAX_LOG_SIZE = 4.0  # exp of more is no size: 55 times the default box


def centres(corners: Boxes) -> Boxes:
    """Corners [..., 4] as centres and sizes."""
    low, high = corners[..., :2], corners[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def corners(centred: Boxes) -> Boxes:
    """Centres and sizes [..., 4] as corners."""
    middle, half = centred[..., :2], centred[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """Of corners [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlaps(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """Area of the intersection of corners [..., m, 4] and [..., n, 4] by that of the union: [..., m, n]."""
    one, other = first[..., :, None, :], second[..., None, :, :]
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    union = areas(one) + areas(other) - common
    return common / np.maximum(union, np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class DefaultBoxes:
    """The default boxes of Liu et al., ECCV 2016, section 2.2, for square images of ``image_size`` pixels.

    Around every place of a map of ``maps[k]`` x ``maps[k]`` places, ``steps[k]`` pixels apart: a square of ``sizes[k]``
    pixels, one of the geometric mean of ``sizes[k]`` and ``sizes[k + 1]``, and for every one of ``aspect_ratios[k]`` a
    wide and a high box of the area of the first. Numbered by map, row, column, and box.
    """

    image_size: int
    maps: Sequence[int]
    steps: Sequence[float]
    sizes: Sequence[float]
    aspect_ratios: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        for name, value, expected in (
            ("maps", self.maps, max(len(self.maps), 1)),
            ("steps", self.steps, len(self.maps)),
            ("sizes", self.sizes, len(self.maps) + 1),
            ("aspect_ratios", self.aspect_ratios, len(self.maps)),
        ):
            numbers = [number for one in value for number in one] if name == "aspect_ratios" else value
            require(
                len(value) == expected and all(number > 0 for number in numbers),
                name,
                list(value),
                allowed=f"{expected} values above 0, for {len(self.maps)} maps",
                cure="One step and one list of ratios for each map, and one size more.",
            )

    @property
    def per_place(self) -> tuple[int, ...]:
        """Boxes around each place of every map."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @cached_property
    def centred(self) -> Boxes:
        """Centres and sizes [n, 4], float32."""
        return np.concatenate([self._of_map(number) for number in range(len(self.maps))]).astype(np.float32)

    @cached_property
    def corners(self) -> Boxes:
        """The same as corners."""
        return corners(self.centred)

    def encode(self, boxes: Boxes) -> Boxes:
        """Corners [n, 4], one for every default box, as offsets from it."""
        own = centres(boxes)
        middle = (own[:, :2] - self.centred[:, :2]) / self.centred[:, 2:] / _CENTRE_VARIANCE
        size = np.log(own[:, 2:] / self.centred[:, 2:]) / _SIZE_VARIANCE
        return np.concatenate([middle, size], axis=1).astype(np.float32)

    def decode(self, offsets: Boxes, numbers: NDArray[np.int64]) -> Boxes:
        """Corners of offsets [..., 4] from the default boxes ``numbers`` [...]: the inverse."""
        own = self.centred[numbers]
        middle = own[..., :2] + offsets[..., :2] * _CENTRE_VARIANCE * own[..., 2:]
        size = own[..., 2:] * np.exp(np.minimum(offsets[..., 2:] * _SIZE_VARIANCE, _MAX_LOG_SIZE))
        return corners(np.concatenate([middle, size], axis=-1))

    def _of_map(self, number: int) -> NDArray[np.float64]:
        side, following = self.sizes[number] / self.image_size, self.sizes[number + 1] / self.image_size
        shapes = [(side, side), ((side * following) ** 0.5,) * 2]
        for ratio in self.aspect_ratios[number]:
            wide, high = side * ratio**0.5, side / ratio**0.5
            shapes += [(wide, high), (high, wide)]
        places = (np.arange(self.maps[number]) + 0.5) * self.steps[number] / self.image_size
        rows, columns, boxes = np.meshgrid(places, places, np.arange(len(shapes)), indexing="ij")
        return np.column_stack([columns.ravel(), rows.ravel(), np.array(shapes)[boxes.ravel()]])

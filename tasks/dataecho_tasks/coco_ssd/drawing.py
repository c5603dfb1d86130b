"""Draws scenes with boxes: some handwritten digits, tinted, turned and enlarged, on a piece of a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dataecho.plan.keys import KeyStream
from dataecho_tasks.shared.images.drawing import faded_piece, material, with_digit

MAX_DIGITS = 5

_NUM_TRIALS = 6  # for a place where a digit covers no other
_DRAWS_OF_SCENE = 6
_DRAWS_OF_DIGIT = 6 + 3 * _NUM_TRIALS
_VISIBLE = 0.5  # of a pixel is covered: it belongs to the digit

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class DigitScenes:
    """Scene ``index`` of a ``split``, train or eval, is [height, width, 3] RGB, uint8, with one to five digits, a
    quarter to half as high as it; each has a box (left, top, right, bottom, in whole pixels) and its class. No box
    touches another.

    A pure function of (seed, split, index). The splits share neither a digit nor a piece of a photograph.
    """

    split: str
    width: int
    height: int
    seed: int = 0

    def draw(self, index: int) -> tuple[NDArray[np.uint8], list[Box], list[int]]:
        """One scene, its boxes and their classes."""
        draws = self._stream.uniform(index, np.arange(_DRAWS_OF_SCENE + MAX_DIGITS * _DRAWS_OF_DIGIT))
        photographs, digits, labels = self._material
        photograph = photographs[int(draws[0] * len(photographs))]
        image = faded_piece(photograph, draws[1:5], width=self.width, height=self.height)
        boxes: list[Box] = []
        classes: list[int] = []
        for number in range(1 + int(draws[5] * MAX_DIGITS)):
            start = _DRAWS_OF_SCENE + number * _DRAWS_OF_DIGIT
            own, trials = draws[start : start + 6], draws[start + 6 : start + _DRAWS_OF_DIGIT].reshape(_NUM_TRIALS, 3)
            which = int(own[0] * len(digits))
            for size, right, down in trials.tolist():
                size = self.height * (0.25 + 0.25 * size)
                centre = size / 2 + (np.array([self.width, self.height]) - size) * np.array([right, down])
                drawn, coverage = with_digit(
                    image, digits[which], size=size, turn=own[1], centre=centre, colours=own[2:]
                )
                box = _box(coverage)
                if not any(_touch(box, other) for other in boxes):
                    image = drawn
                    boxes.append(box)
                    classes.append(int(labels[which]))
                    break
        return image, boxes, classes

    @cached_property
    def _stream(self) -> KeyStream:
        return KeyStream(self.seed, f"digit_scenes.{self.split}")

    @cached_property
    def _material(self) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.int64]]:
        return material(self.split)


def _box(coverage: NDArray[np.float32]) -> Box:
    visible = coverage > _VISIBLE
    columns, rows = visible.any(axis=0).nonzero()[0], visible.any(axis=1).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _touch(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]

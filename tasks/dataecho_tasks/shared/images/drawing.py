"""Draws scenes: a handwritten digit, tinted, turned and enlarged, somewhere on a piece of a photograph.

Both are shipped with scikit-learn: 1,797 digits of 8 x 8 pixels, and two photographs of 640 x 427 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Permutation

SPLITS = ("train", "eval")

_NUM_EVAL_DIGITS = 500
_EVAL_SHARE = 0.25  # of the width of a photograph, at its right end
_NUM_DRAWS = 14
_FADED = 0.5  # of a photograph's contrast stays
_MAX_VALUE = 16.0  # of a digit's pixels


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scene ``index`` of a ``split``, train or eval, is [pixels, pixels, 3] RGB, uint8; its class is the digit.

    A pure function of (seed, split, index). The splits share neither a digit nor a piece of a photograph.
    """

    split: str
    pixels: int
    seed: int = 0

    def draw(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """One scene and its class."""
        draws = self._stream.uniform(index, np.arange(_NUM_DRAWS))
        photographs, digits, labels = self._material
        which = int(draws[0] * len(digits))
        photograph = photographs[int(draws[1] * len(photographs))]
        background = faded_piece(photograph, draws[2:6], width=self.pixels, height=self.pixels)
        size = self.pixels * (0.55 + 0.25 * draws[6])
        centre = size / 2 + (self.pixels - size) * draws[8:10]
        image, _ = with_digit(background, digits[which], size=size, turn=draws[7], centre=centre, colours=draws[10:])
        return image, int(labels[which])

    @cached_property
    def _stream(self) -> KeyStream:
        return KeyStream(self.seed, f"scenes.{self.split}")

    @cached_property
    def _material(self) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.int64]]:
        return material(self.split)


def material(split: str) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.int64]]:
    """The material of a split: pieces of photographs [height, width, 3], digits [n, 8, 8] from 0 to 1, and their
    classes [n]."""
    from sklearn.datasets import load_digits, load_sample_images  # a second of import that few pay

    pixels, labels = load_digits(return_X_y=True)
    # Neighbours in the file were written by the same person: the split is a fixed permutation, whatever the seed.
    order = Permutation.of(len(labels), KeyStream(0, "digits.split"), 0)(np.arange(len(labels)))
    mine = order[_NUM_EVAL_DIGITS:] if split == "train" else order[:_NUM_EVAL_DIGITS]
    digits = (pixels.reshape(-1, 8, 8)[mine] / _MAX_VALUE).astype(np.float32)
    return [_part(photograph, split) for photograph in load_sample_images().images], digits, labels[mine]


def faded_piece(
    photograph: NDArray[np.uint8], draws: NDArray[np.float64], *, width: int, height: int
) -> NDArray[np.uint8]:
    """[height, width, 3]: a piece, small or large, at times seen in a mirror, with half of its contrast; by four
    ``draws`` from 0 to 1."""
    rows, columns = photograph.shape[:2]
    high = min(0.2 * rows * (1 + 2 * draws[0]), columns * height / width)
    high, wide = int(high), int(high * width / height)
    top, left = int(draws[1] * (rows - high + 1)), int(draws[2] * (columns - wide + 1))
    piece = photograph[top : top + high, left : left + wide]
    method = cv2.INTER_AREA if high > height else cv2.INTER_LINEAR
    scaled = cv2.resize(piece, (width, height), interpolation=method)
    faded = cv2.addWeighted(scaled, _FADED, np.full_like(scaled, scaled.mean()), 1 - _FADED, 0)
    return cv2.flip(faded, 1) if draws[3] < 0.5 else faded


def with_digit(
    background: NDArray[np.uint8],
    digit: NDArray[np.float32],
    *,
    size: float,
    turn: float,
    centre: NDArray[np.float64],
    colours: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture with ``digit``, ``size`` pixels wide and high around ``centre`` (x, y), turned by up to 15 degrees,
    in a colour that stands out from what lies under it; ``turn`` and four ``colours`` are draws from 0 to 1. And how
    much of every pixel it covers, [height, width]."""
    height, width = background.shape[:2]
    angle = np.deg2rad(-15 + 30 * turn)
    cosine, sine = size / 8 * np.cos(angle), size / 8 * np.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    place = np.column_stack([rotation, centre - rotation @ np.array([3.5, 3.5])])
    spread = cv2.warpAffine(digit, place, (width, height), flags=cv2.INTER_CUBIC)
    coverage = np.clip(1.5 * spread - 0.2, 0, 1)  # enlarged so much, a digit is blurred: make its edges steeper
    under = np.array(cv2.mean(background, mask=(coverage > 0.5).astype(np.uint8))[:3]).mean()
    step = 90 + 50 * colours[0]
    tint = 80 * (colours[1:4] - 0.5)
    colour = np.clip(under + (step if under < 128 else -step) + tint, 0, 255).astype(np.float32)
    return np.rint(background + coverage[..., None] * (colour - background)).astype(np.uint8), coverage


def _part(photograph: NDArray[np.uint8], split: str) -> NDArray[np.uint8]:
    boundary = int(photograph.shape[1] * (1 - _EVAL_SHARE))
    return photograph[:, :boundary] if split == "train" else photograph[:, boundary:]

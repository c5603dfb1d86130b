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
        background = self._background(photographs[int(draws[1] * len(photographs))], draws[2:6])
        return self._pasted(background, digits[which], draws[6:]), int(labels[which])

    def _background(self, photograph: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A square piece, small or large, at times seen in a mirror, with half of its contrast."""
        height, width = photograph.shape[:2]
        side = int(min(0.2 * height * (1 + 2 * draws[0]), width))
        top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
        piece = photograph[top : top + side, left : left + side]
        method = cv2.INTER_AREA if side > self.pixels else cv2.INTER_LINEAR
        scaled = cv2.resize(piece, (self.pixels, self.pixels), interpolation=method)
        faded = cv2.addWeighted(scaled, _FADED, np.full_like(scaled, scaled.mean()), 1 - _FADED, 0)
        return cv2.flip(faded, 1) if draws[3] < 0.5 else faded

    def _pasted(
        self, background: NDArray[np.uint8], digit: NDArray[np.float32], draws: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """The digit, turned by up to 15 degrees, in a colour that stands out from what lies under it."""
        size = self.pixels * (0.55 + 0.25 * draws[0])
        angle = np.deg2rad(-15 + 30 * draws[1])
        cosine, sine = size / 8 * np.cos(angle), size / 8 * np.sin(angle)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        centre = size / 2 + (self.pixels - size) * draws[2:4]
        place = np.column_stack([turn, centre - turn @ np.array([3.5, 3.5])])
        spread = cv2.warpAffine(digit, place, (self.pixels, self.pixels), flags=cv2.INTER_CUBIC)
        coverage = np.clip(1.5 * spread - 0.2, 0, 1)  # enlarged so much, a digit is blurred: make its edges steeper
        under = np.array(cv2.mean(background, mask=(coverage > 0.5).astype(np.uint8))[:3]).mean()
        step = 90 + 50 * draws[4]
        tint = 80 * (draws[5:8] - 0.5)
        colour = np.clip(under + (step if under < 128 else -step) + tint, 0, 255).astype(np.float32)
        return np.rint(background + coverage[..., None] * (colour - background)).astype(np.uint8)

    @cached_property
    def _stream(self) -> KeyStream:
        return KeyStream(self.seed, f"scenes.{self.split}")

    @cached_property
    def _material(self) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.int64]]:
        from sklearn.datasets import load_digits, load_sample_images  # a second of import that few pay

        pixels, labels = load_digits(return_X_y=True)
        # Neighbours in the file were written by the same person: the split is a fixed permutation, whatever the seed.
        order = Permutation.of(len(labels), KeyStream(0, "digits.split"), 0)(np.arange(len(labels)))
        mine = order[_NUM_EVAL_DIGITS:] if self.split == "train" else order[:_NUM_EVAL_DIGITS]
        digits = (pixels.reshape(-1, 8, 8)[mine] / _MAX_VALUE).astype(np.float32)
        return [self._part(photograph) for photograph in load_sample_images().images], digits, labels[mine]

    def _part(self, photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
        boundary = int(photograph.shape[1] * (1 - _EVAL_SHARE))
        return photograph[:, :boundary] if self.split == "train" else photograph[:, boundary:]

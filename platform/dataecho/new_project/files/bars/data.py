"""Bars in noise: the data, their stages and the metric. Put your own data in the place of :func:`draw_bars`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho import ArraySource, Evaluator, Source, Stage, Task, WeightedMeans, keys
from dataecho.training.shown import Shown

Arrays = dict[str, NDArray[Any]]

_SIZE = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class Bars(Task):
    """Pictures ``image`` float32 [1, 16, 16] in [0, 1] of one bar, and its direction as ``label`` int64: 0 across, 1
    upright, 2 falling, 3 rising. ``noise``: standard deviation of the grey background."""

    noise: float = 0.3

    name = "bars"  # the name of this folder
    metric = "accuracy"
    higher_is_better = True

    def train_source(self) -> Source:
        return ArraySource(draw_bars(2000, noise=self.noise, seed=1))

    def eval_source(self) -> Source:
        return ArraySource(draw_bars(500, noise=self.noise, seed=2))

    def stages(self) -> Sequence[Stage]:
        # Each name is an echo point: echo=stage echo.after=decode. The key is new for every use after the echo point.
        return (*self.eval_stages(), Stage("shift", shift, random=True, mutates_input=False))

    def eval_stages(self) -> Sequence[Stage]:
        return (Stage("decode", decode, mutates_input=False),)

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})

    def show(self, example: Arrays) -> Shown:
        image = example["image"][0]
        pixels = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
        return Shown(image=pixels, caption=("across", "upright", "falling", "rising")[int(example["label"])])


def decode(example: Arrays) -> Arrays:
    """Pixels as numbers from 0 to 1."""
    return {**example, "image": example["image"].astype(np.float32) / np.float32(255)}


def shift(example: Arrays, key: np.uint64) -> Arrays:
    """The picture, moved by up to two pixels in both directions; what leaves at one side enters at the other."""
    down, right = (int(keys.integers(key, draw=draw, high=5)) - 2 for draw in range(2))
    return {**example, "image": np.roll(example["image"], (down, right), axis=(1, 2))}


def draw_bars(num_examples: int, *, noise: float, seed: int) -> Arrays:
    """``image`` uint8 [n, 1, 16, 16] and ``label`` int64 [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=num_examples)
    rows, columns = np.mgrid[:_SIZE, :_SIZE]
    places = np.stack([rows, columns, rows - columns, rows + columns])[labels]  # [n, 16, 16]
    centres = np.array([_SIZE // 2, _SIZE // 2, 0, _SIZE - 1])[labels] + rng.integers(-4, 5, size=num_examples)
    on_bar = np.abs(places - centres[:, None, None]) <= 1
    grey = 0.3 + 0.4 * on_bar + rng.normal(scale=noise, size=on_bar.shape)
    return {"image": (255 * grey.clip(0, 1)).astype(np.uint8)[:, None], "label": labels}

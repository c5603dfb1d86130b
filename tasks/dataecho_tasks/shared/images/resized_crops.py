"""Photographs of any size, augmented as is usual for ImageNet: a resized crop, a mirror image, other colours."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.stage import Stage
from dataecho.plan.keys import Keys
from dataecho.training.contracts import Arrays
from dataecho_tasks.shared.images.classification import ImageClassification
from dataecho_tasks.shared.images.pixels import central_crop, published_crop, random_colour, random_crop, random_flip

#: How a random crop is chosen, by the name of the rule.
CROPS = {"published": published_crop, "fitted": random_crop}


@dataclass(frozen=True, kw_only=True)
class ResizedCrops(ImageClassification, abc.ABC):
    """Batches of ``image`` uint8 [b, size, size, 3], RGB, and ``label`` int64; the model scales the pixels.

    Augmentation: a random crop of at least ``min_area`` of the image, a mirror image (``flip``), and colours changed by
    up to ``colour``, each a stage. ``crop_rule``: ``published`` draws a crop again that does not fit into the image, as
    is usual for ImageNet; ``fitted`` makes it fit, which takes larger and longer ones. Evaluation: the square in the
    middle, ``eval_crop`` of the shorter side.
    """

    image_size: int = 64
    crop_rule: str = "fitted"
    min_area: float = 0.08
    flip: bool = False
    colour: float = 0.4
    eval_crop: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed, fits in (
            ("image_size", ">= 8", self.image_size >= 8),
            ("min_area", "shares in (0, 1]", 0 < self.min_area <= 1),
            ("colour", "shares in [0, 1)", 0 <= self.colour < 1),
            ("eval_crop", "shares in (0, 1]", 0 < self.eval_crop <= 1),
        ):
            require(fits, f"task.{name}", getattr(self, name), allowed=allowed, cure=f"Set task.{name}.")
        require(
            self.crop_rule in CROPS,
            "task.crop_rule",
            self.crop_rule,
            allowed=", ".join(CROPS),
            cure="Use task.crop_rule=published.",
        )

    def stages(self) -> Sequence[Stage]:
        crop = partial(_crop, rule=self.crop_rule, size=self.image_size, min_area=self.min_area)
        flip = [Stage("flip", flipped, random=True, batched=True, mutates_input=False)] if self.flip else []
        colour = [
            Stage("colour", partial(coloured, strength=self.colour), random=True, batched=True, mutates_input=False)
        ]
        return (
            self.decode(),
            Stage("crop", crop, random=True, mutates_input=False),
            *flip,
            *(colour if self.colour else []),
        )

    def eval_stages(self) -> Sequence[Stage]:
        return (
            self.decode(),
            Stage("crop", partial(_centre, size=self.image_size, share=self.eval_crop), mutates_input=False),
        )


def flipped(chunk: Arrays, keys: Keys) -> Arrays:
    """The stage's function: every second image in a mirror."""
    return {**chunk, "image": random_flip(chunk["image"], keys)}


def coloured(chunk: Arrays, keys: Keys, *, strength: float) -> Arrays:
    """The stage's function: brightness, contrast and saturation changed by up to ``strength``."""
    return {**chunk, "image": random_colour(chunk["image"], keys, strength=strength)}


def _crop(example: dict[str, Any], key: np.uint64, *, rule: str, size: int, min_area: float) -> dict[str, Any]:
    return {**example, "image": CROPS[rule](example["image"], key, size=size, min_area=min_area)}


def _centre(example: dict[str, Any], *, size: int, share: float) -> dict[str, Any]:
    return {**example, "image": central_crop(example["image"], size=size, share=share)}

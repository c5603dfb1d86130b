"""Image classification: any source of images and labels, one network, one metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage
from dataecho.plan.keys import Keys
from dataecho.sources.map_style import MapStyle, MapStyleSource
from dataecho.training.contracts import Arrays, Evaluator, Task, WeightedMeans
from tasks.images.pixels import as_rgb, central_crop, decode_image, random_colour, random_crop, random_flip


@dataclass(frozen=True, kw_only=True)
class Images(Task):
    """Batches of ``image`` uint8 [b, size, size, 3], RGB, and ``label`` int64; the model scales the pixels.

    ``train`` and ``eval``: a :class:`Source`, or an object with a length and an index, whose records have ``image``
    (the bytes of a JPEG or PNG file, or uint8 pixels) and ``label`` (0 to ``num_classes`` - 1); other fields are left
    out. Augmentation: a random crop of at least ``min_area`` of the image, a mirror image (``flip``), and colours
    changed by up to ``colour``. Evaluation: the square in the middle, ``eval_crop`` of the shorter side.
    """

    train: Any
    eval: Any
    num_classes: int
    image_size: int = 64
    min_area: float = 0.08
    flip: bool = False
    colour: float = 0.4
    eval_crop: float = 0.875
    max_pixels: int = 89_478_485  # as PIL has it: 256 MiB of RGB

    name = "images"
    metric = "accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed, fits in (
            ("num_classes", ">= 2", self.num_classes >= 2),
            ("image_size", ">= 8", self.image_size >= 8),
            ("min_area", "shares in (0, 1]", 0 < self.min_area <= 1),
            ("colour", "shares in [0, 1)", 0 <= self.colour < 1),
            ("eval_crop", "shares in (0, 1]", 0 < self.eval_crop <= 1),
            ("max_pixels", ">= 1", self.max_pixels >= 1),
        ):
            require(fits, f"task.{name}", getattr(self, name), allowed=allowed, cure=f"Set task.{name}.")
        for name in ("train", "eval"):
            object.__setattr__(self, name, _as_source(getattr(self, name), key=f"task.{name}"))

    def train_source(self) -> Source:
        return self.train

    def eval_source(self) -> Source:
        return self.eval

    def stages(self) -> Sequence[Stage]:
        crop = partial(_crop, size=self.image_size, min_area=self.min_area)
        flip = [Stage("flip", _flip, random=True, batched=True)] if self.flip else []
        colour = [Stage("colour", partial(_colour, strength=self.colour), random=True, batched=True)]
        return (self._decode(), Stage("crop", crop, random=True), *flip, *(colour if self.colour else []))

    def eval_stages(self) -> Sequence[Stage]:
        return (self._decode(), Stage("crop", partial(_centre, size=self.image_size, share=self.eval_crop)))

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})

    def _decode(self) -> Stage:
        return Stage("decode", partial(_decode, num_classes=self.num_classes, max_pixels=self.max_pixels))


def _as_source(data: Any, *, key: str) -> Source:
    if isinstance(data, Source):
        return data
    require(
        isinstance(data, MapStyle) and not isinstance(data, Mapping | str),
        key,
        data if isinstance(data, Mapping | str | None) else type(data).__name__,
        allowed="a node with a _target_ that gives a source, or an object with a length and an index",
        cure=f"For instance {key}={{_target_: dataecho.sources.folder.FolderSource, url: ...}}.",
    )
    return MapStyleSource(data)


def _decode(record: Mapping[str, Any], *, num_classes: int, max_pixels: int) -> dict[str, Any]:
    missing = [name for name in ("image", "label") if name not in record]
    if missing:
        raise ValueError(
            f"no {' and no '.join(missing)} in a record of {', '.join(record)}: rename the source's fields"
        )
    image, label = record["image"], record["label"]
    if not (isinstance(label, int | np.integer) and 0 <= label < num_classes):
        raise ValueError(f"label {label!r} is no whole number from 0 to {num_classes - 1}: see task.num_classes")
    pixels = as_rgb(image) if isinstance(image, np.ndarray) else decode_image(image, max_pixels=max_pixels)
    return {"image": pixels, "label": np.int64(label)}


def _crop(example: dict[str, Any], key: np.uint64, *, size: int, min_area: float) -> dict[str, Any]:
    return {**example, "image": random_crop(example["image"], key, size=size, min_area=min_area)}


def _centre(example: dict[str, Any], *, size: int, share: float) -> dict[str, Any]:
    return {**example, "image": central_crop(example["image"], size=size, share=share)}


def _flip(chunk: Arrays, keys: Keys) -> Arrays:
    return {**chunk, "image": random_flip(chunk["image"], keys)}


def _colour(chunk: Arrays, keys: Keys, *, strength: float) -> Arrays:
    return {**chunk, "image": random_colour(chunk["image"], keys, strength=strength)}

"""COCO: photographs of any size with boxes around objects of 80 classes; cropped, mirrored, in other colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.plan.keys import Keys
from dataecho.training.contracts import Arrays, Evaluator, Predict, Task
from dataecho.training.shown import Box, Shown
from dataecho_tasks.coco_ssd.backbone import with_backbone
from dataecho_tasks.coco_ssd.boxes import DefaultBoxes
from dataecho_tasks.coco_ssd.detections import MeanAveragePrecision, detected
from dataecho_tasks.coco_ssd.matching import targets
from dataecho_tasks.coco_ssd.windows import crop, crop_in_one_draw, cut, expand, seen, whole_pixels
from dataecho_tasks.shared.images.classification import as_source, classes_of, pixels_of, require_classes
from dataecho_tasks.shared.images.pixels import is_mirrored, random_flip
from dataecho_tasks.shared.images.resized_crops import coloured

_CROPS = {"published": crop, "one_draw": crop_in_one_draw}
_FIELDS = ("image", "size", "boxes", "labels", "crowd")  # of a record
_SHOWN_SCORE = 0.3  # what a model is less sure of is not drawn


@dataclass(frozen=True, kw_only=True)
class CocoSsd(Task):
    """Batches of ``image`` uint8 [b, size, size, 3], RGB; what the network should say of every default box, ``offsets``
    float32 [b, n, 4] and ``classes`` int64 [b, n] (0: nothing); and the objects themselves, for the metric: ``boxes``
    float32 [b, max_objects, 4] (corners, as shares of the image), ``labels`` int64 and ``crowd`` bool
    [b, max_objects], filled up with label 0.

    Augmentation, each a stage: the window may ``expand`` (up to ``max_expand``; 1: never), is ``crop``-ped (to sides of
    ``min_crop`` at least; 1: never; ``crop_rule``: as the authors' code does it, ``published``, or less often, in
    ``one_draw``), and is cut out (``resize``); a mirror image (``flip``); colours changed by up to
    ``colour``. Then ``targets``. ``train`` and ``eval`` are sources of records as those of
    :class:`dataecho_tasks.coco_ssd.source.CocoSource`.
    """

    train: Any
    eval: Any
    default_boxes: Any
    num_classes: int = 80
    max_objects: int = 100
    max_expand: float = 4.0
    min_crop: float = 0.3
    crop_rule: str = "one_draw"
    flip: bool = True
    colour: float = 0.4
    max_pixels: int = 89_478_485  # as PIL has it: 256 MiB of RGB

    name = "coco_ssd"
    metric = "mAP"
    higher_is_better = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed, fits in (
            ("num_classes", ">= 1", self.num_classes >= 1),
            ("max_objects", ">= 1", self.max_objects >= 1),
            ("max_expand", ">= 1", self.max_expand >= 1),
            ("min_crop", "shares in (0, 1]", 0 < self.min_crop <= 1),
            ("colour", "shares in [0, 1)", 0 <= self.colour < 1),
            ("max_pixels", ">= 1", self.max_pixels >= 1),
        ):
            require(fits, f"task.{name}", getattr(self, name), allowed=allowed, cure=f"Set task.{name}.")
        require(
            self.crop_rule in _CROPS,
            "task.crop_rule",
            self.crop_rule,
            allowed=", ".join(_CROPS),
            cure="Use task.crop_rule=published.",
        )
        require(
            isinstance(self.default_boxes, DefaultBoxes),
            "task.default_boxes",
            type(self.default_boxes).__name__,
            allowed="a node whose _target_ is dataecho_tasks.coco_ssd.boxes.DefaultBoxes",
            cure="See conf/task/coco_ssd.yaml.",
        )
        for name in ("train", "eval"):
            object.__setattr__(self, name, as_source(getattr(self, name), key=f"task.{name}", fields=_FIELDS))
        require_classes(self.train, self.eval, num_classes=self.num_classes)

    def train_source(self) -> Source:
        return self.train

    def eval_source(self) -> Source:
        return self.eval

    def stages(self) -> Sequence[Stage]:
        larger = Stage("expand", partial(expand, largest=self.max_expand), random=True, mutates_input=False)
        smaller = Stage(
            "crop", partial(_CROPS[self.crop_rule], least_side=self.min_crop), random=True, mutates_input=False
        )
        flip = Stage("flip", _flipped, random=True, batched=True, mutates_input=False)
        colour = Stage(
            "colour", partial(coloured, strength=self.colour), random=True, batched=True, mutates_input=False
        )
        return (
            self._decode(),
            *([larger] if self.max_expand > 1 else []),
            *([smaller] if self.min_crop < 1 else []),
            self._resize(),
            *([flip] if self.flip else []),
            *([colour] if self.colour else []),
            self._targets(),
        )

    def eval_stages(self) -> Sequence[Stage]:
        return (self._decode(), self._resize(), self._targets())

    def evaluator(self) -> Evaluator:
        return MeanAveragePrecision(self.default_boxes, num_classes=self.num_classes)

    def starting_weights(self, given: Arrays, own: Arrays) -> Arrays:
        return with_backbone(given, own)

    def show(self, example: Mapping[str, Any]) -> Shown:
        image = example["image"]
        if "size" in example:  # a record, not decoded yet
            words = f"{len(image) / 1000:.1f} kB" if isinstance(image, bytes) else "pixels"
            stored = bool(example.get("stored", False))
            pixels = pixels_of(image, max_pixels=self.max_pixels, as_stored=stored)
            origin, scale = (0, 0), 1.0
        elif "window" in example:
            window = whole_pixels(example["window"])
            left, top, right, bottom = window
            pixels, origin, scale = seen(image, window, height=bottom - top, width=right - left), (left, top), 1.0
            words = "{1} x {0}".format(*pixels.shape)
        else:
            pixels, origin, scale = image, (0, 0), float(len(image))
            words = "{1} x {0}".format(*pixels.shape)
        if "classes" in example:
            words = f"{np.count_nonzero(example['classes'])} of {len(example['classes']):,} default boxes"
        boxes = scale * example["boxes"] - np.array(origin * 2)
        objects = zip(boxes.tolist(), example["labels"].tolist(), example["crowd"].tolist(), strict=True)
        drawn = tuple(self._box(box, label, is_crowd=is_crowd) for box, label, is_crowd in objects if label > 0)
        return Shown(image=pixels, boxes=drawn, caption=words)

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        outputs = predict(examples)
        shown = []
        for number, example in enumerate(as_examples(examples)):
            row = {name: values[number] for name, values in outputs.items()}
            labels, boxes, scores = detected(row, self.default_boxes, num_classes=self.num_classes)
            found = zip((len(example["image"]) * boxes).tolist(), labels.tolist(), scores.tolist(), strict=True)
            drawn = [self._box(box, label, score=score) for box, label, score in found if score >= _SHOWN_SCORE]
            true = self.show(example)
            words = f"{len(drawn)} found, {len(true.boxes)} there"
            shown.append(replace(true, boxes=(*true.boxes, *drawn), caption=words))
        return shown

    def _box(self, corners: list[float], label: int, *, is_crowd: bool = False, score: float | None = None) -> Box:
        left, top, right, bottom = corners
        names = classes_of(self.train)
        name = str(label) if names is None else names[label - 1]
        name = f"crowd: {name}" if is_crowd else name
        return Box(left=left, top=top, right=right, bottom=bottom, label=name, score=score)

    def _decode(self) -> Stage:
        facts = {"num_classes": self.num_classes, "max_objects": self.max_objects, "max_pixels": self.max_pixels}
        return Stage("decode", partial(_decode, **facts), mutates_input=False)

    def _resize(self) -> Stage:
        return Stage("resize", partial(cut, size=self.default_boxes.image_size), mutates_input=False)

    def _targets(self) -> Stage:
        return Stage("targets", partial(_with_targets, defaults=self.default_boxes), mutates_input=False)


def _decode(record: Mapping[str, Any], *, num_classes: int, max_objects: int, max_pixels: int) -> dict[str, Any]:
    missing = [name for name in _FIELDS if name not in record]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)} in a record of {', '.join(record)}")
    image = pixels_of(record["image"], max_pixels=max_pixels, as_stored=bool(record.get("stored", False)))
    height, width = image.shape[:2]
    if (height, width) != tuple(record["size"].tolist()):
        raise ValueError(
            f"the image has {width} x {height} pixels, its annotations are for {record['size'][1]} x "
            f"{record['size'][0]}: the boxes do not fit"
        )
    labels, number = record["labels"], len(record["labels"])
    if number > max_objects:
        raise ValueError(f"{number} objects are more than task.max_objects={max_objects}")
    if number and not 1 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(f"label {labels.max()} is no whole number from 1 to {num_classes}: see task.num_classes")
    padding = (0, max_objects - number)
    return {
        "image": image,
        "window": np.array([0, 0, width, height], dtype=np.float32),
        "boxes": np.pad(record["boxes"].astype(np.float32), (padding, (0, 0))),
        "labels": np.pad(labels.astype(np.int64), padding),
        "crowd": np.pad(record["crowd"].astype(np.bool_), padding),
    }


def _flipped(chunk: Arrays, keys: Keys) -> Arrays:
    boxes = chunk["boxes"]
    mirrored = np.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], axis=-1)
    turned = is_mirrored(keys)[:, None, None] & (chunk["labels"] > 0)[..., None]
    return {**chunk, "image": random_flip(chunk["image"], keys), "boxes": np.where(turned, mirrored, boxes)}


def _with_targets(example: dict[str, Any], *, defaults: DefaultBoxes) -> dict[str, Any]:
    boxes = example["boxes"]
    real = (example["labels"] > 0) & ~example["crowd"] & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    offsets, classes = targets(boxes[real], example["labels"][real], defaults)
    return {**example, "offsets": offsets, "classes": classes}

"""What every task that classifies images has in common: sources of images and labels, their decoding, the metric."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.sources.map_style import MapStyle, MapStyleSource
from dataecho.training.contracts import Arrays, Evaluator, Predict, Task, WeightedMeans
from dataecho.training.shown import Shown, classified
from tasks.images.pixels import Images, as_rgb, decode_image


@runtime_checkable
class NamedClasses(Protocol):
    """A source that knows what its labels are called."""

    @property
    def classes(self) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Task, abc.ABC):
    """``train`` and ``eval``: a :class:`Source`, or an object with a length and an index, whose records have ``image``
    (the bytes of a JPEG or PNG file, or uint8 pixels) and ``label`` (0 to ``num_classes`` - 1); other fields are left
    out. A file that claims more than ``max_pixels`` is broken. ``class_names``: what the labels are called in pictures;
    None: as the source calls them, or their numbers."""

    train: Any
    eval: Any
    num_classes: int
    max_pixels: int = 89_478_485  # as PIL has it: 256 MiB of RGB
    class_names: list[str] | None = None

    metric = "accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed, fits in (
            ("num_classes", ">= 2", self.num_classes >= 2),
            ("max_pixels", ">= 1", self.max_pixels >= 1),
        ):
            require(fits, f"task.{name}", getattr(self, name), allowed=allowed, cure=f"Set task.{name}.")
        names = self.class_names
        require(
            names is None or len(names) == self.num_classes,
            "task.class_names",
            names,
            allowed=f"a list of {self.num_classes} names, one for each class",
            cure="Leave it out for the names of the source, or the numbers.",
        )
        for name in ("train", "eval"):
            object.__setattr__(self, name, as_source(getattr(self, name), key=f"task.{name}"))

    def train_source(self) -> Source:
        return self.train

    def eval_source(self) -> Source:
        return self.eval

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})

    def show(self, example: Mapping[str, Any]) -> Shown:
        image = example["image"]
        pixels = _pixels(image, max_pixels=self.max_pixels)
        size = f"{len(image) / 1000:.1f} kB" if isinstance(image, bytes) else "{1} x {0}".format(*pixels.shape)
        names = self._names
        label = int(example["label"])
        return Shown(image=pixels, caption=f"{label if names is None else names[label]}, {size}")

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        shown = [self.show(example) for example in as_examples(examples)]
        return classified(shown, examples["label"], predict(examples), names=self._names)

    def decode(self) -> Stage:
        """The first stage: ``image`` uint8 [height, width, 3], RGB, and ``label`` int64."""
        return Stage(
            "decode", partial(_decode, num_classes=self.num_classes, max_pixels=self.max_pixels), mutates_input=False
        )

    @property
    def _names(self) -> Sequence[str] | None:
        if self.class_names is not None:
            return self.class_names
        return self.train.classes if isinstance(self.train, NamedClasses) else None


def as_source(data: Any, *, key: str) -> Source:
    """``data`` if it is a source, else a source of an object with a length and an index."""
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
    return {"image": _pixels(image, max_pixels=max_pixels), "label": np.int64(label)}


def _pixels(image: Any, *, max_pixels: int) -> Images:
    return as_rgb(image) if isinstance(image, np.ndarray) else decode_image(image, max_pixels=max_pixels)

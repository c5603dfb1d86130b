"""The base of tasks that classify images: sources of images and labels, their decoding, the metric."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dataecho.errors import SettingError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.sources.map_style import MapStyle, MapStyleSource
from dataecho.training.contracts import Arrays, Evaluator, Predict, Task, WeightedMeans
from dataecho.training.shown import Shown, classified
from dataecho_tasks.shared.images.pixels import Images, as_rgb, decode_image


@runtime_checkable
class NamedClasses(Protocol):
    """A source that knows what its labels are called; None where its data do not say."""

    @property
    def classes(self) -> Sequence[str] | None: ...


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Task, abc.ABC):
    """``train`` and ``eval``: a :class:`Source`, or an object with a length and an index, whose records have ``image``
    (the bytes of a JPEG, PNG, WebP or BMP file, or uint8 pixels) and ``label`` (0 to ``num_classes`` - 1, or one of
    ``class_names``); other fields are left out. A file that claims more than ``max_pixels`` is broken. ``class_names``:
    what the labels are called, in data that have text for labels and in pictures; None: as the source calls them, or
    their numbers. Sources that know their classes must agree: on their names, in this order, and on ``num_classes``."""

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
        # Names that were given count more than those that a dataset has for itself.
        require_classes(self.train, self.eval, num_classes=self.num_classes if names is None else None)

    def train_source(self) -> Source:
        return self.train

    def eval_source(self) -> Source:
        return self.eval

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})

    def show(self, example: Mapping[str, Any]) -> Shown:
        image = example["image"]
        pixels = pixels_of(image, max_pixels=self.max_pixels)
        size = f"{len(image) / 1000:.1f} kB" if isinstance(image, bytes) else "{1} x {0}".format(*pixels.shape)
        names, label = self._names, example["label"]
        name = label if isinstance(label, str) or names is None else names[int(label)]
        return Shown(image=pixels, caption=f"{name}, {size}")

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        shown = [self.show(example) for example in as_examples(examples)]
        return classified(shown, examples["label"], predict(examples), names=self._names)

    def decode(self) -> Stage:
        """The first stage: ``image`` uint8 [height, width, 3], RGB, and ``label`` int64."""
        facts = {"num_classes": self.num_classes, "names": self.class_names, "max_pixels": self.max_pixels}
        return Stage("decode", partial(_decode, **facts), mutates_input=False)

    @property
    def _names(self) -> Sequence[str] | None:
        if self.class_names is not None:
            return self.class_names
        return classes_of(self.train)


def classes_of(source: Source) -> Sequence[str] | None:
    """The names of a source's classes in the order of their numbers; None where it does not know them."""
    return source.classes if isinstance(source, NamedClasses) else None


def require_classes(train: Source, held_out: Source, *, num_classes: int | None) -> None:
    """Raise :class:`SettingError` where two sources number their classes differently, or have another number of them
    than ``num_classes`` (None: any): the held-out labels would mean something else than those that were trained."""
    known = {name: classes_of(source) for name, source in (("task.train", train), ("task.eval", held_out))}
    trained, evaluated = known.values()
    if trained is not None and evaluated is not None and list(trained) != list(evaluated):
        raise SettingError(
            "task.eval",
            f"{len(evaluated)} classes",
            allowed=f"the {len(trained)} classes of task.train, in the same order",
            cure=_difference(trained, evaluated),
        )
    for name, classes in known.items():
        require(
            classes is None or num_classes is None or len(classes) == num_classes,
            "task.num_classes",
            num_classes,
            allowed=f"{len(classes or ())}, the number of classes in {name}",
            cure=f"Set task.num_classes={len(classes or ())}, or check what {name} reads.",
        )


def _difference(trained: Sequence[str], evaluated: Sequence[str]) -> str:
    missing = [name for name in trained if name not in set(evaluated)]
    strange = [name for name in evaluated if name not in set(trained)]
    found = [
        f"Only in {side}: {_few(names)}." for side, names in (("task.train", missing), ("task.eval", strange)) if names
    ]
    if not found:
        number = next(k for k, (one, other) in enumerate(zip(trained, evaluated, strict=True)) if one != other)
        found = [f"Class {number} is {trained[number]} in task.train and {evaluated[number]} in task.eval."]
    if strange and all(name.isdigit() for name in strange) and not all(name.isdigit() for name in trained):
        found.append(
            "These are numbers, such as those of ImageNet's devkit: sort the images by the names of task.train."
        )
    return " ".join([*found, "Bring both sides into agreement, or give the list of classes to both (classes=[...])."])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def as_source(data: Any, *, key: str, fields: Sequence[str] = ("image", "label")) -> Source:
    """``data`` if it is a source, else a source of an object with a length and an index, whose examples are
    dictionaries, or tuples of ``fields``."""
    if isinstance(data, Source):
        return data
    require(
        isinstance(data, MapStyle) and not isinstance(data, Mapping | str),
        key,
        data if isinstance(data, Mapping | str | None) else type(data).__name__,
        allowed="a node with a _target_ that gives a source, or an object with a length and an index",
        cure=f"For instance {key}={{_target_: dataecho.sources.folder.FolderSource, url: ...}}.",
    )
    return MapStyleSource(data, fields=list(fields) if _gives_tuples(data, len(fields)) else None)


def _gives_tuples(data: MapStyle, length: int) -> bool:
    try:
        first = data[0]
    except Exception:  # told by whoever reads it next
        return False
    return isinstance(first, tuple | list) and len(first) == length


def _decode(
    record: Mapping[str, Any], *, num_classes: int, names: Sequence[str] | None, max_pixels: int
) -> dict[str, Any]:
    missing = [name for name in ("image", "label") if name not in record]
    if missing:
        raise ValueError(
            f"no {' and no '.join(missing)} in a record of {', '.join(record)}: rename the source's fields"
        )
    image, label = record["image"], record["label"]
    if isinstance(label, str):
        label = _number_of(label, names)
    if not (isinstance(label, int | np.integer) and 0 <= label < num_classes):
        raise ValueError(f"label {label!r} is no whole number from 0 to {num_classes - 1}: see task.num_classes")
    return {"image": pixels_of(image, max_pixels=max_pixels), "label": np.int64(label)}


def _number_of(label: str, names: Sequence[str] | None) -> int:
    if names is None:
        raise ValueError(f"label {label!r} is text: list all classes, by their numbers, in task.class_names")
    if label not in names:
        raise ValueError(f"label {label!r} is none of the {len(names)} names in task.class_names")
    return names.index(label)


def pixels_of(image: Any, *, max_pixels: int, as_stored: bool = False) -> Images:
    """RGB [height, width, 3] of the bytes of a file, or of pixels; ``as_stored``: a file's EXIF entry turns nothing.
    Raises ``ValueError`` for anything else."""
    if isinstance(image, np.ndarray):
        return as_rgb(image)
    if not isinstance(image, bytes):
        raise ValueError(f"an image must be the bytes of a file, or pixels, not a {type(image).__name__}")
    return decode_image(image, max_pixels=max_pixels, as_stored=as_stored)

"""The visible content of an example, which :mod:`dataecho.pictures` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle on an image, in pixels from its upper left corner. ``score``: of a predicted box; None for a true
    one."""

    left: float
    top: float
    right: float
    bottom: float
    label: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """``image`` uint8 [height, width] or [height, width, 3], RGB, with ``boxes`` on it; or ``text``, and the
    ``continuation`` that a model has written. ``caption``: a few words below. ``is_right``: whether a prediction is
    right; None where that is undefined."""

    image: NDArray[np.uint8] | None = None
    boxes: tuple[Box, ...] = ()
    text: str = ""
    continuation: str = ""
    caption: str = ""
    is_right: bool | None = None


def described(example: Any) -> Shown:
    """The fields of an example in words, for tasks without a picture of their own."""
    if not isinstance(example, Mapping):
        return Shown(text=_in_words(example))
    return Shown(text="\n".join(f"{name}: {_in_words(value)}" for name, value in example.items()))


def in_numbers(outputs: Mapping[str, NDArray[Any]], row: int) -> str:
    """A model's outputs for one row that are single numbers."""
    return ", ".join(f"{name} {values[row]:.3g}" for name, values in outputs.items() if values.ndim == 1)


def classified(
    examples: Sequence[Shown],
    labels: NDArray[np.integer],
    outputs: Mapping[str, NDArray[Any]],
    *,
    names: Sequence[str] | None = None,
) -> list[Shown]:
    """``examples`` of these ``labels`` with the classes that a model's output ``predicted`` says; ``names`` of the
    classes, or None for their numbers. Raises ``ValueError`` for a model without that output."""
    if "predicted" not in outputs:
        raise ValueError(
            f"the model's outputs {', '.join(outputs)} lack 'predicted', the number of a class for each row"
        )
    named = str if names is None else names.__getitem__
    shown = []
    for example, label, predicted in zip(examples, labels.tolist(), outputs["predicted"].astype(int), strict=True):
        is_right = label == predicted
        caption = named(label) if is_right else f"{named(int(predicted))}, is {named(label)}"
        shown.append(replace(example, caption=caption, is_right=bool(is_right)))
    return shown


def _in_words(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    array = np.asarray(value)
    if array.dtype.hasobject:
        return type(value).__name__
    return f"{array.dtype} {list(array.shape)}" if array.ndim else str(array)

"""Choose a window of an image with boxes, larger or smaller than the image, and cut it out.

An example has ``image`` uint8 [height, width, 3], ``window`` float32 (left, top, right, bottom), the part of the plane
to be seen, ``boxes`` float32 [m, 4], corners, all in pixels of the image, and ``labels`` int64 [m], 0 for no object.
Only :func:`cut` computes pixels: what is chosen before it costs nothing to keep.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.plan import keys as draws
from dataecho_tasks.coco_ssd.boxes import Boxes, overlaps
from dataecho_tasks.shared.images.pixels import Images, scaled

Example = dict[str, Any]

#: Least overlaps with an object that a crop may have to keep (Liu et al., section 2.2).
LEAST_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)
_LEAST = (*LEAST_OVERLAPS, 0.0)
_NUM_TRIALS = 50
_MAX_ASPECT = 2.0
_FILL = (124, 116, 104)  # the mean of ImageNet's photographs, where a window leaves the image


def expand(example: Example, key: np.uint64, *, largest: float) -> Example:
    """Every second time the window grows, up to ``largest`` times its width and height, in a random direction: objects
    become small (Liu et al., section 3.6)."""
    whether, ratio, right, down = _uniform(key, (4,), draw=0).tolist()
    if whether < 0.5:
        return example
    left, top, width, height = _place_and_size(example["window"])
    grown = 1 + (largest - 1) * ratio
    left, top = left - right * (grown - 1) * width, top - down * (grown - 1) * height
    return {**example, "window": _window(left, top, grown * width, grown * height)}


def crop(example: Example, key: np.uint64, *, least_side: float) -> Example:
    """The window, or a part of it, as the authors' code chooses it (Liu et al., section 2.2).

    Fifty random parts are tried for each of the least overlaps 0.1, 0.3, 0.5, 0.7 and 0.9 with an object, and for none;
    the first that overlaps one so much is a candidate, and so is the window as it is. One of the candidates is drawn.
    Relative to the window, the mean of a part's sides (geometric) is at least ``least_side``, its shape uniform from
    1 : 2 to 2 : 1. Objects with their centre outside of it are gone, all of them where it is so.
    """
    is_object = example["labels"] > 0
    if not is_object.any():
        return example
    side, shape, right, down = _uniform(key, (4, len(_LEAST), _NUM_TRIALS), draw=1)
    side = least_side + (1 - least_side) * side
    # No part is wider or higher than the window.
    narrowest, widest = np.maximum(1 / _MAX_ASPECT, side**2), np.minimum(_MAX_ASPECT, 1 / side**2)
    root = np.sqrt(narrowest + (widest - narrowest) * shape)
    parts = _parts_at(example["window"], side * root, side / root, right, down)
    best = overlaps(parts.reshape(-1, 4), example["boxes"][is_object]).max(axis=1).reshape(parts.shape[:2])
    fits = best >= np.array(_LEAST)[:, None]
    found = np.flatnonzero(fits.any(axis=1))
    choice = int(draws.integers(key, draw=0, high=1 + len(found)))
    if choice == 0:
        return example
    row = found[choice - 1]
    return _with_window(example, parts[row, fits[row].argmax()])


def crop_in_one_draw(example: Example, key: np.uint64, *, least_side: float) -> Example:
    """One of seven choices (Liu et al., section 2.2): the window as it is; a part of it that overlaps an object by at
    least 0.1, 0.3, 0.5, 0.7 or 0.9; or any part. Relative to the window the mean of its sides (geometric) is at least
    ``least_side``, its shape from 1 : 2 to 2 : 1, and the centre of an object lies in it. Objects with their centre
    outside of it are gone. Where 50 trials find no such part, the window stays.
    """
    choice = int(draws.integers(key, draw=0, high=len(LEAST_OVERLAPS) + 2))
    is_object = example["labels"] > 0
    if choice == 0 or not is_object.any():
        return example
    least = _LEAST[choice - 1]
    parts = _parts(example["window"], key, least_side)
    objects = example["boxes"][is_object]
    inside = _centres_inside(parts, objects)
    fits = inside.any(axis=1) & (overlaps(parts, objects).max(axis=1) >= least)
    if not fits.any():
        return example
    return _with_window(example, parts[fits.argmax()])


def cut(example: Example, *, size: int) -> Example:
    """``image`` [size, size, 3] of what is in the window, and ``boxes`` as shares of it, cut off at its borders; the
    window is gone."""
    window = whole_pixels(example["window"])
    left, top, right, bottom = window
    origin = np.array([left, top, left, top], dtype=np.float32)
    scale = np.array([right - left, bottom - top] * 2, dtype=np.float32)
    boxes = np.clip((example["boxes"] - origin) / scale, 0, 1)
    boxes[example["labels"] == 0] = 0
    rest = {name: value for name, value in example.items() if name != "window"}
    return {**rest, "image": seen(example["image"], window, height=size, width=size), "boxes": boxes}


def whole_pixels(window: Boxes) -> tuple[int, int, int, int]:
    """The window that is cut out: left, top, right, bottom; at least one pixel."""
    left, top, right, bottom = (round(float(side)) for side in window)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def seen(image: Images, window: tuple[int, int, int, int], *, height: int, width: int) -> Images:
    """The content of the window, scaled to [height, width, 3]; pixels outside of the image have one colour."""
    left, top, right, bottom = window
    rows, columns = image.shape[:2]
    x0, x1, y0, y1 = max(left, 0), min(right, columns), max(top, 0), min(bottom, rows)
    if (x0, y0, x1, y1) == window:
        return scaled(image[y0:y1, x0:x1], height=height, width=width)
    # Only the part with pixels is scaled; the rest is one colour.
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[:] = _FILL
    across, down = width / (right - left), height / (bottom - top)
    c0, c1 = round((x0 - left) * across), round((x1 - left) * across)
    r0, r1 = round((y0 - top) * down), round((y1 - top) * down)
    if c1 > c0 and r1 > r0:
        picture[r0:r1, c0:c1] = scaled(image[y0:y1, x0:x1], height=r1 - r0, width=c1 - c0)
    return picture


def _parts(window: Boxes, key: np.uint64, least_side: float) -> Boxes:
    """Trials [50, 4]."""
    side, shape, right, down = _uniform(key, (4, _NUM_TRIALS), draw=1)
    left, top, width, height = _place_and_size(window)
    side = least_side + (1 - least_side) * side
    # No part is wider or higher than the window.
    limit = np.minimum(_MAX_ASPECT, 1 / side**2)
    root = np.sqrt(limit ** (2 * shape - 1))
    widths, heights = side * root * width, side / root * height
    lefts, tops = left + right * (width - widths), top + down * (height - heights)
    return np.stack([lefts, tops, lefts + widths, tops + heights], axis=1).astype(np.float32)


def _parts_at(
    window: Boxes,
    widths: NDArray[np.float64],
    heights: NDArray[np.float64],
    right: NDArray[np.float64],
    down: NDArray[np.float64],
) -> Boxes:
    """Parts [..., 4] of these sizes [...], shares of the window's; ``right`` and ``down`` [...] say where: 0 to 1."""
    left, top, width, height = _place_and_size(window)
    lefts, tops = left + right * (1 - widths) * width, top + down * (1 - heights) * height
    return np.stack([lefts, tops, lefts + widths * width, tops + heights * height], axis=-1).astype(np.float32)


def _with_window(example: Example, window: Boxes) -> Example:
    """Objects with their centre outside of the new window are gone."""
    kept = (example["labels"] > 0) & _centres_inside(window[None], example["boxes"])[0]
    return {**example, "window": window, "labels": np.where(kept, example["labels"], 0)}


def _centres_inside(parts: Boxes, boxes: Boxes) -> NDArray[np.bool_]:
    """Whether the centre of every box [m, 4] is in every part [n, 4]: [n, m]."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((parts[:, None, :2] < middle) & (middle < parts[:, None, 2:])).all(axis=2)


def _uniform(key: np.uint64, shape: tuple[int, ...], *, draw: int) -> NDArray[np.float64]:
    # Keys beside each other and one call: a call costs more than what it draws.
    count = int(np.prod(shape))
    values: NDArray[np.float64] = draws.uniform(key + np.arange(count, dtype=np.uint64), draw=draw)
    return values.reshape(shape)


def _place_and_size(window: Boxes) -> tuple[float, float, float, float]:
    left, top, right, bottom = window.tolist()
    return left, top, right - left, bottom - top


def _window(left: float, top: float, width: float, height: float) -> Boxes:
    return np.array([left, top, left + width, top + height], dtype=np.float32)

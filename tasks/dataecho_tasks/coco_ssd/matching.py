"""Which default box is to find which object: matching and encoding, once for every framework."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataecho_tasks.coco_ssd.boxes import Boxes, DefaultBoxes, overlaps

_TAKEN = -1.0
NOTHING = -1


def matched(objects: Boxes, defaults: Boxes, *, threshold: float = 0.5) -> NDArray[np.int64]:
    """For every default box [n, 4] the number of its object of [m, 4], or -1 (Liu et al., section 2.2).

    Every object first gets a default box of its own: pair by pair, the largest overlap of what is left. Any other
    default box belongs to the object that it overlaps most, if by more than ``threshold``. With more objects than
    default boxes the last ones get none.
    """
    found = np.full(len(defaults), NOTHING, dtype=np.int64)
    if not len(objects):
        return found
    shares = overlaps(objects, defaults)
    nearest = shares.argmax(axis=0)
    found = np.where(shares.max(axis=0) > threshold, nearest, NOTHING)
    best = shares.argmax(axis=1)
    if len(np.unique(best)) == len(best):  # nearly always: no two objects want the same one
        found[best] = np.arange(len(objects))
        return found
    shares = shares.copy()
    for _ in range(min(shares.shape)):
        number, default = np.unravel_index(shares.argmax(), shares.shape)
        found[default] = number
        shares[number] = shares[:, default] = _TAKEN
    return found


def targets(objects: Boxes, labels: NDArray[np.int64], defaults: DefaultBoxes) -> tuple[Boxes, NDArray[np.int64]]:
    """The training targets of every default box: ``offsets`` float32 [n, 4], zeros where there is no object, and
    ``classes`` int64 [n], 0 where there is none. ``objects``: corners [m, 4]; ``labels``: their classes, from 1 on."""
    found = matched(objects, defaults.corners)
    offsets = np.zeros((len(found), 4), dtype=np.float32)
    classes = np.zeros(len(found), dtype=np.int64)
    has = found != NOTHING
    if has.any():
        offsets[has] = defaults.encode(np.where(has[:, None], objects[found], defaults.corners))[has]
        classes[has] = labels[found[has]]
    return offsets, classes

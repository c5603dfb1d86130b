"""The shape of the network, said once for both frameworks: which map follows from which."""

from __future__ import annotations

from collections.abc import Sequence

from dataecho.errors import require
from dataecho_tasks.coco_ssd.boxes import DefaultBoxes

#: Negatives for every positive, at most (Liu et al., section 2.2, hard negative mining).
NEGATIVES = 3


def extra_strides(
    backend: str,
    *,
    default_boxes: DefaultBoxes,
    num_blocks: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[int],
    extras: Sequence[Sequence[int]],
) -> list[tuple[int, int]]:
    """Stride and margin of the 3 x 3 convolution that leads to every map but the first. A map that is smaller by two
    has neither; one of half the size has stride 2 and one row of zeros around.

    Raises :class:`SettingError` for a network whose maps are not those of the default boxes.
    """
    key = f"task.models.{backend}"
    require(
        len(widths) >= 1 and min(widths) >= 1,
        f"{key}.widths",
        list(widths),
        allowed="one or more whole numbers >= 1",
        cure="[64, 128, 256] are ResNet-34's first groups.",
    )
    for name, values in (("num_blocks", num_blocks), ("strides", strides)):
        require(
            len(values) == len(widths) and min(values) >= 1,
            f"{key}.{name}",
            list(values),
            allowed=f"{len(widths)} whole numbers >= 1, one for each of {key}.widths",
            cure="[3, 4, 6] and [1, 2, 1] are those of SSD with ResNet-34.",
        )
    maps = list(default_boxes.maps)
    require(
        len(extras) == len(maps) - 1 and all(len(pair) == 2 and min(pair) >= 1 for pair in extras),
        f"{key}.extras",
        [list(pair) for pair in extras],
        allowed=f"{len(maps) - 1} pairs of whole numbers >= 1, one for each map but the first",
        cure="A pair is the width of a 1 x 1 and of a 3 x 3 convolution.",
    )
    side = default_boxes.image_size
    for stride in (2, 2, *strides):  # the first convolution, the maximum, the groups
        side = -(-side // stride)
    found = [side]
    layers = []
    for following in maps[1:]:
        stride, margin = (1, 0) if following == found[-1] - 2 else (2, 1)
        layers.append((stride, margin))
        found.append(found[-1] - 2 if stride == 1 else -(-found[-1] // 2))
    require(
        found == maps,
        "task.default_boxes.maps",
        maps,
        allowed=f"{found}, what the network makes of {default_boxes.image_size} pixels",
        cure=f"Change one of task.default_boxes, {key}.strides and {key}.extras.",
    )
    return layers

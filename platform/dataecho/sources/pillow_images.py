"""Pixels of Pillow's images, by the same rules as those of a file's bytes. Pillow is imported only by its users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORIENTATION = 0x0112  # the EXIF entry that says how a picture is to be turned
_PALETTES_AND_INKS = frozenset({"1", "P", "PA", "LA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})


def pixels_of(image: Any) -> NDArray[np.uint8]:
    """uint8 [height, width] of a grey image, [height, width, 3] (RGB) of any other, turned as its EXIF entry says.
    Transparency is dropped; of 16 bits the upper 8 stay. Raises ``ValueError`` for modes of no known range."""
    image = _turned(image)
    if image.mode in ("L", "RGB"):
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in _PALETTES_AND_INKS:
        return np.asarray(image.convert("RGB"))  # a palette's numbers are no colours
    raise ValueError(
        f"an image of the mode {image.mode!r}, whose numbers may be of any range: scale it to 0 to 255 in the dataset, "
        "and give it as mode 'L' or 'RGB'"
    )


def _turned(image: Any) -> Any:
    from PIL import ImageOps

    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged entry, of which Pillow says so in many ways, turns nothing: as OpenCV has it
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)

"""Pure functions on single images or a few together. They release the GIL while they work."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataecho.plan import keys as draws
from dataecho.plan.keys import Keys
from dataecho_tasks.shared.images.headers import image_size

Images = NDArray[np.uint8]

# The workers of the executor are the threads: OpenCV must not start its own under each of them. It counts for the whole
# process, and every process that uses these functions imports this module.
cv2.setNumThreads(1)

_NUM_TRIES, _MAX_ASPECT = 10, 4 / 3  # of a published crop
_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


def decode_image(data: bytes, *, max_pixels: int, as_stored: bool = False) -> Images:
    """A JPEG, PNG, WebP or BMP file as RGB [height, width, 3], turned as its EXIF entry says, unless it is wanted
    ``as_stored``; greys have three equal channels, transparency is dropped, of 16 bits the upper 8 stay.

    Raises ``ValueError`` for anything else, for a file that is cut short or damaged, and for more than ``max_pixels``,
    before memory is taken for them. Damage inside of a JPEG file's compressed data may go unnoticed: there is no
    checksum.
    """
    height, width = image_size(data)
    if height * width > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than max_pixels={max_pixels}")
    how = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), how)
    except cv2.error as error:
        raise ValueError(f"the image cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError("the image cannot be decoded: its data are damaged")
    return image


def as_rgb(pixels: NDArray[Any]) -> Images:
    """RGB of an image that a source has already decoded, uint8 [height, width], [height, width, 1] or [height, width,
    3]. Raises ``ValueError`` for other arrays."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        cure = ""
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            cure = (
                ". It has its channels first, as torchvision's ToTensor leaves them: take ToTensor and Normalize out "
                "of the dataset, the task does what they do"
            )
        raise ValueError(
            f"an image must be uint8 [height, width, 3] or [height, width], not {pixels.dtype} {pixels.shape}{cure}"
        )
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def random_crop(image: Images, key: np.uint64, *, size: int, min_area: float, max_aspect: float = 4 / 3) -> Images:
    """A piece of at least ``min_area`` of the image, scaled to [size, size, 3] (Szegedy et al., CVPR 2015, section 6).

    Share of the area: uniform; width / height: from 1 / ``max_aspect`` to ``max_aspect``, uniform in its logarithm, and
    where such a piece is longer than the image, as near to that as fits.
    """
    height, width = image.shape[:2]
    area, aspect, down, right = draws.uniforms(key, 4)
    share = (min_area + (1 - min_area) * area) * height * width
    ratio = min(max(max_aspect ** (2 * aspect - 1), share / height**2), width**2 / share)
    piece_width = max(1, min(width, round((share * ratio) ** 0.5)))
    piece_height = max(1, min(height, round((share / ratio) ** 0.5)))
    top, left = int(down * (height - piece_height + 1)), int(right * (width - piece_width + 1))
    return scaled(image[top : top + piece_height, left : left + piece_width], height=size, width=size)


def published_crop(image: Images, key: np.uint64, *, size: int, min_area: float) -> Images:
    """A piece of the image, scaled to [size, size, 3], by the rule that is usual for ImageNet (Szegedy et al., CVPR
    2015, section 6, as torchvision's RandomResizedCrop draws it).

    Share of the area: uniform from ``min_area`` on; width / height: from 3/4 to 4/3, uniform in its logarithm. A piece
    that does not fit into the image is drawn again, ten times at most; then it is the largest one of such a shape in
    the middle.
    """
    height, width = image.shape[:2]
    for number in range(_NUM_TRIES):
        area, aspect, down, right = draws.uniforms(np.uint64((int(key) + 4 * number) % 2**64), 4)
        share, ratio = (min_area + (1 - min_area) * area) * height * width, _MAX_ASPECT ** (2 * aspect - 1)
        piece_width, piece_height = round((share * ratio) ** 0.5), round((share / ratio) ** 0.5)
        if 0 < piece_width <= width and 0 < piece_height <= height:
            top, left = int(down * (height - piece_height + 1)), int(right * (width - piece_width + 1))
            break
    else:
        piece_width = min(width, max(1, round(height * _MAX_ASPECT)))
        piece_height = min(height, max(1, round(width * _MAX_ASPECT)))
        top, left = (height - piece_height) // 2, (width - piece_width) // 2
    return scaled(image[top : top + piece_height, left : left + piece_width], height=size, width=size)


def padded_crop(images: Images, keys: Keys, *, padding: int) -> Images:
    """[n, height, width, 3] moved by up to ``padding`` pixels in both directions; what comes from outside is black.
    The same as a random crop of the images' own size from images with so many black pixels on every side."""
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * padding, width + 2 * padding, channels), dtype=np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    tops, lefts = (draws.integers(keys, draw=draw, high=2 * padding + 1).tolist() for draw in range(2))
    moved = np.empty(images.shape, dtype=np.uint8)
    for target, image, top, left in zip(moved, padded, tops, lefts, strict=True):
        target[:] = image[top : top + height, left : left + width]
    return moved


def central_crop(image: Images, *, size: int, share: float) -> Images:
    """The square in the middle, its side ``share`` of the image's shorter one, scaled to [size, size, 3]."""
    height, width = image.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return scaled(image[top : top + side, left : left + side], height=size, width=size)


def random_flip(images: Images, keys: Keys) -> Images:
    """Every second of [n, height, width, 3], on average, seen in a mirror."""
    return np.where(is_mirrored(keys)[:, None, None, None], images[:, :, ::-1], images)


def is_mirrored(keys: Keys) -> NDArray[np.bool_]:
    """Whether :func:`random_flip` mirrors the image of each key."""
    mirrored: NDArray[np.bool_] = draws.uniform(keys, draw=0) < 0.5
    return mirrored


def random_colour(images: Images, keys: Keys, *, strength: float) -> Images:
    """Brightness, contrast (about the middle grey) and saturation of [n, height, width, 3], each times a number that is
    uniform in [1 - strength, 1 + strength]."""
    brightness, contrast, saturation = (
        1 + strength * (2 * draws.uniform(keys, draw=draw)[:, None, None] - 1) for draw in range(3)
    )
    mixed = saturation * np.eye(3) + (1 - saturation) * _GREY
    turn = np.concatenate(
        [brightness * contrast * mixed, np.broadcast_to(127.5 * brightness * (1 - contrast), (len(keys), 3, 1))], axis=2
    )
    coloured = np.empty(images.shape, dtype=np.uint8)
    for image, matrix, target in zip(images, turn, coloured, strict=True):
        cv2.transform(image, matrix, dst=target)
    return coloured


def scaled(piece: Images, *, height: int, width: int) -> Images:
    """[height, width, 3]."""
    # Averaging costs five times as much, and is worth it only where most pixels would be left out.
    method = cv2.INTER_AREA if piece.shape[0] > 2 * height and piece.shape[1] > 2 * width else cv2.INTER_LINEAR
    return cv2.resize(piece, (width, height), interpolation=method)

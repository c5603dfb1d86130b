"""The work of every loader of ``loaders/compare.py``: the data, and the functions that all of them call.

The functions are pure: chance comes in as numbers in [0, 1), which every loader draws in its own way.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

NUM_JPEGS, JPEG_SIDE, CROP_SIDE, JPEG_QUALITY, NUM_SHARDS = 4096, 256, 160, 90, 8
NUM_SMALL, SMALL_SIDE, PADDING = 50_000, 32, 4
NUM_TOKENS, ROW_LENGTH, VOCABULARY = 20_000_000, 256, 50_000
MEAN, SCALE = np.float32(112.9), np.float32(1 / 83.6)

BATCH_SIZES = {"jpeg": 64, "small": 128, "tokens": 64}
#: Draws per example.
NUM_JPEG_DRAWS, NUM_SMALL_DRAWS = 5, 3

Arrays = dict[str, NDArray[Any]]
#: Opens a loader: an endless iterator of batches, each a mapping of arrays or tensors; closing it stops its workers.
OpenLoader = Callable[[], Iterator[Mapping[str, Any]]]
#: What the table calls a loader -> what is set -> how it is opened.
Arms = dict[str, dict[str, OpenLoader]]

_FIELDS = {
    "jpeg": {"image": (np.uint8, (CROP_SIDE, CROP_SIDE, 3)), "label": (np.int64, ())},
    "small": {"image": (np.float32, (SMALL_SIDE, SMALL_SIDE, 3)), "label": (np.int64, ())},
    "tokens": {"inputs": (np.int32, (ROW_LENGTH,)), "targets": (np.int32, (ROW_LENGTH,))},
}


def decode(data: bytes) -> NDArray[np.uint8]:
    """JPEG bytes to uint8 [height, width, 3]."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def random_resized_crop(image: NDArray[np.uint8], chance: Any) -> NDArray[np.uint8]:
    """A window of 8 to 100 % of the area and an aspect of 3/4 to 4/3, scaled to ``CROP_SIDE``, flipped or not."""
    height, width = image.shape[:2]
    area, aspect, x, y, flip = (float(number) for number in chance)
    side = (height * width * (0.08 + 0.92 * area)) ** 0.5
    stretch = (3 / 4) ** (aspect - 0.5)
    rows, columns = min(height, round(side * stretch)), min(width, round(side / stretch))
    top, left = int(y * (height - rows + 1)), int(x * (width - columns + 1))
    scaled = cv2.resize(image[top : top + rows, left : left + columns], (CROP_SIDE, CROP_SIDE))
    return cv2.flip(scaled, 1) if flip < 0.5 else scaled


def crop_and_flip(images: NDArray[np.uint8], chance: NDArray[np.float64]) -> NDArray[np.float32]:
    """Small images [n, 32, 32, 3] and ``chance`` [n, 3] to shifted, maybe flipped, normalised float32."""
    # Whole-array operations, which leave Python's lock to others: threads help every loader.
    padded = np.zeros((len(images), SMALL_SIDE + 2 * PADDING, SMALL_SIDE + 2 * PADDING, 3), np.uint8)
    padded[:, PADDING:-PADDING, PADDING:-PADDING] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SMALL_SIDE, SMALL_SIDE), axis=(1, 2))
    top, left = (chance[:, :2] * (2 * PADDING + 1)).astype(np.intp).T
    cropped = windows.transpose(0, 1, 2, 4, 5, 3)[np.arange(len(images)), top, left]
    flipped = chance[:, 2] < 0.5
    cropped[flipped] = cropped[flipped][:, :, ::-1]
    result = np.subtract(cropped, MEAN, dtype=np.float32)
    result *= SCALE
    return result


def shift(rows: NDArray[np.int32]) -> Arrays:
    """Token rows [n, 257] to inputs and targets [n, 256]."""
    return {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


@dataclass(frozen=True)
class Data:
    """Everything in one folder, made once by :func:`make_data`; small images and tokens are held in memory."""

    folder: Path

    @cached_property
    def paths(self) -> list[str]:
        return [str(self.folder / "jpeg" / f"{number:05d}.jpg") for number in range(NUM_JPEGS)]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(NUM_JPEGS) % 10

    @cached_property
    def small(self) -> NDArray[np.uint8]:
        return np.load(self.folder / "small.npy")

    @cached_property
    def small_labels(self) -> NDArray[np.int64]:
        return np.arange(NUM_SMALL) % 10

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """Views [n, 257] into one array of tokens; neighbours share one token."""
        tokens = np.load(self.folder / "tokens.npy")
        return np.lib.stride_tricks.sliding_window_view(tokens, ROW_LENGTH + 1)[::ROW_LENGTH]

    def shards(self, workload: str) -> list[str]:
        """The same examples as tar shards."""
        return [str(path) for path in sorted((self.folder / f"{workload}-shards").iterdir())]

    def read(self, k: int) -> bytes:
        """The ``k``-th JPEG file."""
        with open(self.paths[k], "rb", buffering=0) as file:
            return file.read()

    def small_batch(self, ks: Any, chance: NDArray[np.float64]) -> Arrays:
        """Small images by position, augmented."""
        return {"image": crop_and_flip(self.small[ks], chance), "label": self.small_labels[ks]}

    def token_batch(self, ks: Any) -> Arrays:
        """Token rows by position, shifted."""
        return shift(self.rows[ks])


def check(workload: str, batch: Mapping[str, Any]) -> None:
    """Fail unless this is a batch of the workload: fields, types, shapes, and values that the functions have made."""
    arrays = {name: np.asarray(values) for name, values in batch.items()}
    found = {name: (values.dtype.type, values.shape) for name, values in arrays.items()}
    wanted = {name: (dtype, (BATCH_SIZES[workload], *shape)) for name, (dtype, shape) in _FIELDS[workload].items()}
    assert found == wanted, f"{found} instead of {wanted}"
    if workload == "tokens":
        assert (arrays["inputs"][:, 1:] == arrays["targets"][:, :-1]).all()
        assert (arrays["inputs"][:, :-1] != arrays["inputs"][:, 1:]).any()
    else:
        low, high = {"jpeg": (80, 150), "small": (-0.5, 0.5)}[workload]
        assert low < arrays["image"].mean() < high and (arrays["image"][0] != arrays["image"][1]).any()
        assert len(np.unique(arrays["label"])) > 4  # all that one of eight shards has


def make_data(folder: Path) -> Data:
    """Write the data into ``folder`` if it is not there yet: photographs cut, tinted and numbered; tokens."""
    data = Data(folder)
    if not (folder / "complete").exists():
        random = np.random.default_rng(0)
        (folder / "jpeg").mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(data.paths):
            Path(path).write_bytes(_jpeg(random, number % 10))
        np.save(folder / "small.npy", _small(random))
        np.save(folder / "tokens.npy", random.integers(0, VOCABULARY, NUM_TOKENS, dtype=np.int32))
        _write_shards(data)
        (folder / "complete").touch()
    return data


@cache
def _photographs() -> list[NDArray[np.uint8]]:
    folder = files("sklearn.datasets") / "images"
    return [decode((folder / name).read_bytes()) for name in ("china.jpg", "flower.jpg")]


@cache
def _digits(digit: int) -> NDArray[np.uint8]:
    images, digits = load_digits(return_X_y=True)
    return (images[digits == digit].reshape(-1, 8, 8) * 15).astype(np.uint8)


def _window(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    photograph = _photographs()[random.integers(2)]
    size = int(random.integers(side, photograph.shape[0] + 1))
    top, left = (int(random.integers(length - size + 1)) for length in photograph.shape[:2])
    window = cv2.resize(photograph[top : top + size, left : left + size], (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(window * random.uniform(0.7, 1.3, 3), 0, 255).astype(np.uint8)


def _jpeg(random: np.random.Generator, digit: int) -> bytes:
    image = _window(random, JPEG_SIDE)
    stroke = cv2.resize(random.choice(_digits(digit)), (96, 96))[:, :, None]
    top, left = random.integers(0, JPEG_SIDE - 96, 2)
    np.maximum(image[top : top + 96, left : left + 96], stroke, out=image[top : top + 96, left : left + 96])
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _small(random: np.random.Generator) -> NDArray[np.uint8]:
    large = [_window(random, 256) for _ in range(200)]
    tops = random.integers(0, 256 - SMALL_SIDE, (NUM_SMALL, 2)).tolist()
    cuts = [large[k % 200][top : top + SMALL_SIDE, left : left + SMALL_SIDE] for k, (top, left) in enumerate(tops)]
    return np.stack(cuts)


def _write_shards(data: Data) -> None:
    members = {
        "jpeg": ((f"{k:05d}", {"jpg": data.read(k), "cls": str(data.labels[k]).encode()}) for k in range(NUM_JPEGS)),
        "small": (
            (f"{k:05d}", {"raw": data.small[k].tobytes(), "cls": str(data.small_labels[k]).encode()})
            for k in range(NUM_SMALL)
        ),
        "tokens": ((f"{k:05d}", {"raw": row.tobytes()}) for k, row in enumerate(data.rows)),
    }
    for workload, examples in members.items():
        folder = data.folder / f"{workload}-shards"
        folder.mkdir(exist_ok=True)
        with ExitStack() as stack:
            paths = [folder / f"{number}.tar" for number in range(NUM_SHARDS)]
            shards = [stack.enter_context(tarfile.open(path, "w")) for path in paths]
            for number, (key, contents) in enumerate(examples):
                for suffix, content in contents.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    shards[number % NUM_SHARDS].addfile(member, io.BytesIO(content))

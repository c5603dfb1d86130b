"""CIFAR-10's binary version: files of records of 3,073 bytes, here or behind URLs.

A record is the class (one byte), then the red, the green and the blue pixels of 32 rows of 32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Example
from dataecho.sources.options import ShardOptions, takes
from dataecho.sources.shard_file import LocalFile, ShardFile
from dataecho.sources.shards import ShardSource
from dataecho.sources.urls import is_local, local_path, shown_url

SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE

#: The files of the published archive, 10,000 records each.
FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "eval": ("test_batch.bin",)}
EXAMPLES_PER_FILE = 10_000

_GET = (
    "Get cifar-10-binary.tar.gz (170 MB) from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and name its "
    "folder cifar-10-batches-bin."
)


def cifar10(
    folder: str,
    *,
    split: str,
    cache_dir: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> CifarBinarySource:
    """The published files of a ``split`` (train: five, eval: ``test_batch.bin``) in ``folder``, a path or a URL.

    Raises :class:`SettingError` for another split and where a local file is missing, and says where to get it;
    :class:`DataError` for a file of another length than 10,000 records.
    """
    require(split in FILES, "split", split, allowed=", ".join(FILES), cure="eval is test_batch.bin.")
    urls = [f"{folder.rstrip('/')}/{name}" for name in FILES[split]]
    if is_local(folder):
        missing = [Path(url).name for url in urls if not Path(local_path(url)).is_file()]
        require(
            not missing,
            "folder",
            shown_url(folder),
            allowed=f"a folder with {', '.join(FILES[split])}",
            cure=f"Not there: {', '.join(missing)}. {_GET}",
        )
    return CifarBinarySource(
        urls, examples_per_file=EXAMPLES_PER_FILE, cache_dir=cache_dir, storage_options=storage_options
    )


class CifarBinarySource(ShardSource[int]):
    """Records ``image`` (uint8 [32, 32, 3], RGB) and ``label`` (int64), one shard per file, any order.

    ``examples_per_file``: what every file must have; None: any whole number of records. Files behind URLs are fetched
    whole and kept as :class:`dataecho.sources.shards.ShardSource` says. The digest is that of the names and, where
    files lie here, of their content. Raises :class:`DataError` for a file of another length, at once where it is here.
    """

    @takes(ShardOptions)
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        examples_per_file: int | None = None,
        **options: Any,
    ) -> None:
        self._examples_per_file = examples_per_file
        super().__init__(
            urls,
            layout="cifar",
            digested="",
            options=ShardOptions(**options),
        )
        digest = hashlib.sha256(super().digest.encode())
        for path in (local_path(url) for url in self._urls if is_local(url)):
            self._checked_length(LocalFile(path).stat.size or 0, path)
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        self._content_digest = digest.hexdigest()[:32]

    @property
    def random_access(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return self._content_digest

    def _scanned(self, path: str | Path, where: str) -> int:
        return self._checked_length(Path(path).stat().st_size, where)

    def _dumped(self, index: int) -> dict[str, Any]:
        return {"num_examples": index}

    def _loaded(self, content: dict[str, Any], size: int) -> int:
        length = int(content["num_examples"])
        if size != length * RECORD_BYTES or length != (self._examples_per_file or length):
            raise ValueError("no index of this file")
        return length

    def _length(self, index: int) -> int:
        return index

    def _key(self, index: int, k: int) -> str:
        return f"record {k}"

    def _records(self, shard: int, index: int, file: ShardFile, ks: Sequence[int]) -> list[Example]:
        return [_record(file.read_at(k * RECORD_BYTES, RECORD_BYTES)) for k in ks]

    def _checked_length(self, size: int, where: str) -> int:
        """Number of records in a file of ``size`` bytes."""
        length, rest = divmod(size, RECORD_BYTES)
        if rest or length != (self._examples_per_file or max(length, 1)):
            expected = (
                f"a whole number of records of {RECORD_BYTES:,} bytes"
                if self._examples_per_file is None
                else f"{self._examples_per_file * RECORD_BYTES:,}, {self._examples_per_file:,} records of "
                f"{RECORD_BYTES:,} bytes"
            )
            raise DataError(
                f"{where} has {size:,} bytes, expected are {expected}. It is cut short, or another file. {_GET}"
            )
        return length


def _record(data: bytes) -> dict[str, Any]:
    pixels = np.frombuffer(data, dtype=np.uint8, offset=1).reshape(3, SIDE, SIDE)
    return {"image": np.ascontiguousarray(pixels.transpose(1, 2, 0)), "label": np.int64(data[0])}


def as_record(image: NDArray[np.uint8], label: int) -> bytes:
    """The bytes of one example; ``image`` uint8 [32, 32, 3], RGB."""
    return bytes([label]) + np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()

"""Which bytes of a tar file are which field of which example. Reads headers only; nothing is ever extracted."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError

_BLOCK = 512
_MAX_PLACES = 10**7  # examples times fields: a table of 160 MB
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class TarIndex:
    """``keys[k]``: name of example k; ``fields``: the suffixes that occur; ``offsets``, ``sizes`` [n, number of
    fields]: where a field's bytes are; size -1 where an example lacks it."""

    keys: NDArray[np.bytes_]
    fields: tuple[str, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, k: int) -> str:
        """The name of an example: its files' common path, up to the first dot of the last part."""
        return bytes(self.keys[k]).decode("utf-8", "surrogateescape")

    def where(self, k: int) -> dict[str, tuple[int, int]]:
        """(offset, size) of the fields that an example has."""
        rows = zip(self.fields, self.offsets[k].tolist(), self.sizes[k].tolist(), strict=True)
        return {field: (offset, size) for field, offset, size in rows if size >= 0}

    def as_json(self) -> dict[str, Any]:
        """The index as :meth:`from_json` takes it."""
        return {
            "keys": [self.key(k) for k in range(len(self))],
            "fields": list(self.fields),
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], size: int) -> TarIndex:
        """For a file of ``size`` bytes. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what cannot be."""
        fields = tuple(map(str, content["fields"]))
        shape = (len(content["keys"]), len(fields))
        offsets = np.array(content["offsets"], dtype=np.int64).reshape(shape)
        sizes = np.array(content["sizes"], dtype=np.int64).reshape(shape)
        if (offsets < 0).any() or (sizes < -1).any() or (offsets + sizes > size).any() or not shape[0]:
            raise ValueError("no index of this file")
        return cls(_packed(content["keys"]), fields, offsets, sizes)


def index_tar(path: str | Path, where: str) -> TarIndex:
    """The index of a tar file (ustar, GNU or PAX; not compressed) in the WebDataset layout: files that share their path
    up to the first dot of the last part are one example, what follows the dot, in small letters, is the field.

    Folders, hidden files, files without a dot and WebDataset's own (``__name__``) are no examples. Raises
    :class:`DataError`, with the name ``where``, for a file that is cut short or no tar file, for links, devices and
    sparse files, for a field that comes twice, and where there is no example.
    """
    examples: dict[str, dict[str, tuple[int, int]]] = {}
    with open(path, "rb") as file:
        for member in _members(file, where):
            key, field = _split(member.name)
            if not field:
                continue
            fields = examples.setdefault(key, {})
            if field in fields:
                raise DataError(f"{where}: {member.name!r} is there twice. Give every example a name of its own.")
            fields[field] = (member.offset_data, member.size)
    if not examples:
        raise DataError(f"{where} has no example: no file with a dot in its name. Check that it is the right archive.")
    names = tuple(sorted({field for fields in examples.values() for field in fields}))
    if len(examples) * len(names) > _MAX_PLACES:
        raise DataError(
            f"{where} has {len(names):,} different fields in {len(examples):,} examples, such as {names[0]}: what "
            "follows the first dot of a name is a field. Write another sign for the dots in the names."
        )
    missing = (0, -1)
    table = np.array([[fields.get(name, missing) for name in names] for fields in examples.values()], dtype=np.int64)
    offsets, sizes = np.ascontiguousarray(table[:, :, 0]), np.ascontiguousarray(table[:, :, 1])
    return TarIndex(_packed(list(examples)), names, offsets, sizes)


def _members(file: BinaryIO, where: str) -> Iterator[tarfile.TarInfo]:
    """The regular files, when the archive is known to be whole up to each."""
    size = file.seek(0, 2)
    file.seek(0)
    _refuse_compressed(file.read(8), where)
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
            for member in archive:
                if member.offset < end or member.size < 0:
                    raise DataError(f"{where} is damaged: a header leads back to byte {member.offset}. Bring it anew.")
                end = member.offset_data
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{where}: {member.name!r} is a link, a device or a sparse file, without bytes of its own. "
                        "Pack plain files."
                    )
                end += -(-member.size // _BLOCK) * _BLOCK
                yield member
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if size == 0:
            raise DataError(f"{where} is empty. Bring it there again.") from None
        if end == 0:
            raise DataError(f"{where} is no tar file ({error}). Check that it is the right file.") from None
        raise _cut_short(where, str(error), size) from None
    _check_end(file, end, size, where)


def _check_end(file: BinaryIO, end: int, size: int, where: str) -> None:
    """An archive ends with a block of zeros, and after it is nothing else: tarfile takes anything for the end."""
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _cut_short(where, "the mark of its end is missing", size)
    if any(block):
        raise DataError(f"{where} is damaged: there is no header at byte {end} of {size}. Bring it there again.")
    while rest := file.read(2**20):
        if rest.strip(b"\0"):
            raise DataError(
                f"{where}: more follows the mark of its end, at byte {end}. Archives that were joined must be unpacked "
                "and packed as one, or kept apart."
            )


def _cut_short(where: str, what: str, size: int) -> DataError:
    return DataError(f"{where} is cut short: {what}, the file at byte {size}. Bring the whole file there again.")


def _refuse_compressed(head: bytes, where: str) -> None:
    for mark, name in _COMPRESSED.items():
        if head.startswith(mark):
            raise DataError(
                f"{where} is compressed ({name}), so that no example can be read alone. Unpack it to a plain .tar: "
                "images are compressed themselves."
            )


def _split(name: str) -> tuple[str, str]:
    """Key and field; no field for what is no part of an example."""
    folder, base = posixpath.split(name)
    stem, _, field = base.partition(".")
    if not stem or (stem.startswith("__") and stem.endswith("__")):
        return name, ""
    return posixpath.join(folder, stem), field.lower()


def _packed(keys: list[str]) -> NDArray[np.bytes_]:
    """As bytes of one width: a tenth of what Python's strings take."""
    return np.array([key.encode("utf-8", "surrogateescape") for key in keys], dtype=np.bytes_)

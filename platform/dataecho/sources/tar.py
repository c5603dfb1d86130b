"""Tar shards in the WebDataset layout, here or behind URLs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Broken, Example
from dataecho.sources.options import ShardOptions, takes
from dataecho.sources.shard_file import ShardFile
from dataecho.sources.shards import ShardSource
from dataecho.sources.tar_index import TarIndex, index_tar

#: As a field, the example's own name.
KEY = "__key__"

_GAP = 2**16  # fields that are nearer to each other than this are read at once
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


class TarSource(ShardSource[TarIndex]):
    """Tar files, one shard each; files that share their path up to the first dot of the last part are one example.

    ``urls``: paths or URLs, with braces (``train-{0000..0099}.tar``) and stars. Records are dictionaries: ``__key__``,
    the name, and the content by what follows the dot: ``cls`` as int64, ``json`` parsed, ``txt`` as a string, any other
    as bytes. ``fields`` selects and renames: ``{"image": "jpg;jpeg;png", "label": "cls"}`` takes the first that is
    there; then an example without one of them is broken, as is one with an empty file. Without ``fields`` a shard is
    refused where names with a number after a dot (``im_1.5.jpg``, ``im_1.6.jpg``) have become one example.

    ``options`` are the fields of :class:`dataecho.sources.options.ShardOptions`. Raises :class:`SettingError` for a
    name of a compressed archive, :class:`DataError` for a pattern that matches no file and for an archive that is
    compressed, truncated or was changed.

        >>> import io, tarfile
        >>> from dataecho import TarSource
        >>> with tarfile.open("train-0.tar", "w") as archive:
        ...     for name, content in (("a.jpg", b"a picture"), ("a.cls", b"7")):
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(content)
        ...         archive.addfile(member, io.BytesIO(content))
        >>> source = TarSource("train-{0..0}.tar", fields={"image": "jpg;png", "label": "cls"})
        >>> source.num_shards, source.num_examples(0)
        (1, 1)
    """

    @takes(ShardOptions)
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        fields: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._fields = None if fields is None else {name: _choices(name, wanted) for name, wanted in fields.items()}
        super().__init__(
            urls,
            layout="tar",
            digested=json.dumps(self._fields, sort_keys=True),
            options=ShardOptions(**options),
        )
        packed = [name for name in self._names if name.partition("?")[0].lower().endswith(_COMPRESSED)]
        require(
            not packed,
            "urls",
            ", ".join(packed[:3]),
            allowed="plain .tar files, of which single examples can be read",
            cure="Unpack them: images are compressed themselves.",
        )

    def _start(self) -> None:
        super()._start()
        self._checked: set[int] = set()  # shards whose fields fit

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_checked"}

    @property
    def random_access(self) -> bool:
        return True

    def _scanned(self, path: str | Path, where: str) -> TarIndex:
        index = index_tar(path, where)
        if set(index.fields) == {"tar"}:
            raise DataError(
                f"{where} is an archive of {len(index)} archives, such as {index.key(0)}.tar, of which no example can "
                f"be read. Unpack it once (mkdir folder && tar xf {where} -C folder), and name the archives that come "
                "out of it: folder/*.tar."
            )
        return index

    def _dumped(self, index: TarIndex) -> dict[str, Any]:
        return index.as_json()

    def _loaded(self, content: dict[str, Any], size: int) -> TarIndex:
        return TarIndex.from_json(content, size)

    def _length(self, index: TarIndex) -> int:
        return len(index)

    def _key(self, index: TarIndex, k: int) -> str:
        return index.key(k)

    def _records(self, shard: int, index: TarIndex, file: ShardFile, ks: Sequence[int]) -> list[Example]:
        if shard not in self._checked:
            if self._fields is None:
                _refuse_numbers(index, self._names[shard])
            else:
                self._require_fields(shard, index, self._fields)
            self._checked.add(shard)
        return [self._record(index, file, k) for k in ks]

    def _require_fields(self, shard: int, index: TarIndex, wanted: Mapping[str, list[str]]) -> None:
        """A field that no example of a shard has is a mistake in the setting."""
        for name, choices in wanted.items():
            if not {KEY, *index.fields}.intersection(choices):
                raise DataError(
                    f"{self._names[shard]} has no {';'.join(choices)} in any example, which fields.{name} asks for. It "
                    f"has {_few(index.fields)}: correct fields, or the list of shards{_dots(index.fields, choices)}."
                )

    def _record(self, index: TarIndex, file: ShardFile, k: int) -> Example:
        where = index.where(k)
        wanted = {KEY: KEY, **{field: field for field in where}}
        if self._fields is not None:
            wanted = {}
            for name, choices in self._fields.items():
                found = next((field for field in choices if field in where or field == KEY), None)
                if found is None:
                    return Broken(f"no {';'.join(choices)}; there is {_few(list(where))}{_dots(list(where), choices)}")
                wanted[name] = found
        data = _read(file, {field: where[field] for field in wanted.values() if field != KEY})
        record: dict[str, Any] = {}
        for name, field in wanted.items():
            if field == KEY:
                record[name] = index.key(k)
                continue
            try:
                record[name] = _decoded(field, data[field])
            except ValueError as error:
                return Broken(f"{field}: {error}")
        return record


def _refuse_numbers(index: TarIndex, where: str) -> None:
    """Names that differ in a number after a dot are different examples to whoever wrote them, one to the layout."""
    numbered: dict[str, list[int]] = {}
    for column, field in enumerate(index.fields):
        number, dot, ending = field.rpartition(".")
        if dot and number.replace(".", "").isdigit():
            numbered.setdefault(ending, []).append(column)
    for ending, columns in numbered.items():
        columns += [index.fields.index(ending)] if ending in index.fields else []
        merged = np.flatnonzero((index.sizes[:, columns] >= 0).sum(axis=1) > 1)
        if len(merged):
            k = int(merged[0])
            found = [index.fields[column] for column in columns if index.sizes[k, column] >= 0]
            raise DataError(
                f"{where}: {len(merged)} examples have several files that end in .{ending}, such as {index.key(k)} "
                f"with {_few(found)}: what follows the first dot of a name is a field. Where they are examples of "
                "their own, write another sign for the dot (im_1-5.jpg); where not, name the fields: "
                f"fields={{a: {found[0]}, ...}}."
            )


def _dots(fields: Sequence[str], choices: Sequence[str]) -> str:
    """Why a field may be there and not be found."""
    longer = [field for field in fields if field.rpartition(".")[2] in choices]
    if not longer:
        return ""
    return (
        f". {_few(longer)}: what follows the first dot of a name is its field, so that names with more dots become one "
        "example: write another sign for the dot, or ask for the whole field"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _choices(name: str, wanted: str) -> list[str]:
    choices = [choice.strip().lstrip(".") for choice in wanted.split(";")]
    require(
        all(choices),
        f"fields.{name}",
        wanted,
        allowed="a suffix, or several with semicolons between them",
        cure=f"For example jpg, jpg;png, cls, or {KEY} for the example's name.",
    )
    return [choice if choice == KEY else choice.lower() for choice in choices]


def _read(file: ShardFile, where: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """The bytes of fields, by as few reads as their places allow."""
    data: dict[str, bytes] = {}
    run: list[str] = []
    for field in [*sorted(where, key=lambda field: where[field]), None]:
        if run and (field is None or where[field][0] > sum(where[run[-1]]) + _GAP):
            start = where[run[0]][0]
            piece = memoryview(file.read_at(start, sum(where[run[-1]]) - start))
            for one in run:
                offset, size = where[one]
                data[one] = bytes(piece[offset - start : offset - start + size])
            run = []
        if field is not None:
            run.append(field)
    return data


def _decoded(field: str, data: bytes) -> Any:
    """Raises ``ValueError``."""
    suffix = field.rpartition(".")[2]
    if not data and suffix != "txt":
        raise ValueError("the file is empty")
    decode = _DECODERS.get(suffix)
    return decode(data) if decode is not None else data


def _class_number(data: bytes) -> np.int64:
    number = int(data.decode())
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{data[:24]!r} is too large for 64 bits")
    return np.int64(number)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _text(data: bytes) -> str:
    return data.decode()


_DECODERS: dict[str, Callable[[bytes], Any]] = {"cls": _class_number, "json": _json, "txt": _text}

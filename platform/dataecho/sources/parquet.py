"""Parquet shards, here or behind URLs: rows are examples."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataecho.errors import DataError, require
from dataecho.pipeline.stage import Broken, Example
from dataecho.sources.options import ShardOptions, takes
from dataecho.sources.shard_file import FileView, ShardFile
from dataecho.sources.shards import ShardSource


@dataclass(frozen=True)
class ParquetIndex:
    """``ends`` [number of row groups]: the row after each group's last; ``columns``: their names."""

    ends: NDArray[np.int64]
    columns: tuple[str, ...]


class ParquetSource(ShardSource[ParquetIndex]):
    """Parquet files, one shard each; a record is a dictionary with a value of every column.

    Numbers come as numpy scalars of the column's type, lists of numbers as arrays, strings and bytes as they are,
    categories (dictionaries) as the values that they stand for, and a struct with a field ``bytes``, as Hugging Face
    stores images, as these bytes. Columns of other types are refused; a row with a null is broken. ``columns`` selects,
    and renames where it is a mapping: ``{"image": "img"}``.

    A row group is decoded as a whole, and the last ones are kept, up to ``max_decoded_bytes``. So rows are read from
    front to back, and shuffled by the plan's buffer only. ``shuffle_rows`` shuffles all rows of a shard: for shards
    whose rows fit ``max_decoded_bytes``, or the same groups are decoded again and again.

    ``options`` are the fields of :class:`dataecho.sources.options.ShardOptions`. Reading a row of a shard that is not
    on this machine costs the ranges of its group.

    Raises :class:`DataError` for a pattern that matches no file, for a file that is cut short or was changed, and for
    columns that are not there or of another type.

        >>> import pyarrow, pyarrow.parquet
        >>> from dataecho import ParquetSource
        >>> pyarrow.parquet.write_table(pyarrow.table({"img": [b"a picture"], "label": [7]}), "train.parquet")
        >>> source = ParquetSource("train.parquet", columns={"image": "img", "label": "label"})
        >>> source.num_shards, source.num_examples(0)
        (1, 1)
    """

    @takes(ShardOptions)
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        columns: Mapping[str, str] | Sequence[str] | None = None,
        shuffle_rows: bool = False,
        max_decoded_bytes: int = 500_000_000,
        **options: Any,
    ) -> None:
        require(
            max_decoded_bytes > 0,
            "max_decoded_bytes",
            max_decoded_bytes,
            allowed="bytes > 0",
            cure="Make it a few row groups large.",
        )
        if columns is None:
            self._columns = None
        else:
            named = columns.items() if isinstance(columns, Mapping) else ((name, name) for name in columns)
            self._columns = {str(name): str(column) for name, column in named}
        self._shuffle_rows = shuffle_rows
        self._max_decoded_bytes = max_decoded_bytes
        super().__init__(
            urls,
            layout="parquet",
            digested=json.dumps(self._columns, sort_keys=True),
            options=ShardOptions(**options),
        )

    def _start(self) -> None:
        super()._start()
        self._groups = _DecodedGroups(self._max_decoded_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_groups"}

    @property
    def random_access(self) -> bool:
        return self._shuffle_rows

    def _scanned(self, path: str | Path, where: str) -> ParquetIndex:
        try:
            with pq.ParquetFile(path) as file:
                found, columns = file.metadata, tuple(file.schema_arrow.names)
                ends = np.cumsum([found.row_group(group).num_rows for group in range(found.num_row_groups)])
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{where} is no whole Parquet file: {_first_line(error)}. It is cut short, or of another kind: bring "
                "the whole file there again."
            ) from None
        if not len(ends) or ends[-1] == 0:
            raise DataError(f"{where} has no row. Check that it is the right file.")
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise DataError(f"{where}: a column comes twice: {', '.join(repeated)}. Write it again with other names.")
        return ParquetIndex(ends.astype(np.int64), columns)

    def _dumped(self, index: ParquetIndex) -> dict[str, Any]:
        return {"ends": index.ends.tolist(), "columns": list(index.columns)}

    def _loaded(self, content: dict[str, Any], size: int) -> ParquetIndex:
        ends = np.array(content["ends"], dtype=np.int64)
        if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) < 0).any() or ends[-1] == 0:
            raise ValueError("no index of a Parquet file")
        return ParquetIndex(ends, tuple(map(str, content["columns"])))

    def _length(self, index: ParquetIndex) -> int:
        return int(index.ends[-1])

    def _key(self, index: ParquetIndex, k: int) -> str:
        return f"row {k}"

    def _records(self, shard: int, index: ParquetIndex, file: ShardFile, ks: Sequence[int]) -> list[Example]:
        columns = self._columns if self._columns is not None else {name: name for name in index.columns}
        missing = sorted(set(columns.values()) - set(index.columns))
        if missing:
            raise DataError(
                f"{self._names[shard]} has no column {', '.join(missing)}. It has {', '.join(index.columns)}: correct "
                "columns, or the list of shards."
            )
        records = []
        for k in ks:
            group = int(np.searchsorted(index.ends, k, side="right"))
            start = int(index.ends[group - 1]) if group else 0
            decoded = self._groups.get((shard, group), partial(self._decoded, shard, file, group, columns))
            records.append(_record(decoded, columns, k - start))
        return records

    def _decoded(self, shard: int, file: ShardFile, group: int, columns: Mapping[str, str]) -> pa.Table:
        wanted = list(dict.fromkeys(columns.values()))
        where = self._names[shard]
        try:
            with pq.ParquetFile(FileView(file), pre_buffer=True) as opened:
                table = opened.read_row_group(group, columns=wanted, use_threads=False).select(wanted)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{where}: row group {group} cannot be decoded: {_first_line(error)}. Bring the whole file there again."
            ) from None
        for field in table.schema:
            if _value_of(field.type) is None:
                raise DataError(
                    f"{where}: column {field.name} is {field.type}, which no example can hold. Leave it out: "
                    "columns=[...] names those to take."
                )
        return table


class _DecodedGroups:
    """The row groups used last, up to a number of bytes (but always one); each is decoded by whoever needs it first,
    the others wait."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tables: OrderedDict[tuple[int, int], Future[pa.Table]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int], decode: Callable[[], pa.Table]) -> pa.Table:
        with self._lock:
            future = self._tables.get(key)
            if future is not None:
                self._tables.move_to_end(key)
                mine = None
            else:
                future = mine = self._tables[key] = Future()
        if mine is not None:
            try:
                mine.set_result(decode())
            except BaseException as error:
                mine.set_exception(error)
                with self._lock:
                    del self._tables[key]
            else:
                self._shrink()
        return future.result()

    def _shrink(self) -> None:
        with self._lock:
            sizes = {key: future.result().nbytes for key, future in self._tables.items() if _is_decoded(future)}
            for key in list(sizes)[:-1]:
                if sum(sizes.values()) <= self._max_bytes:
                    break
                del self._tables[key]
                del sizes[key]


def _is_decoded(future: Future[pa.Table]) -> bool:
    return future.done() and future.exception() is None


_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)


def _record(table: pa.Table, columns: Mapping[str, str], row: int) -> Example:
    record: dict[str, Any] = {}
    for name, column in columns.items():
        scalar = table.column(column)[row]
        value_of = _value_of(scalar.type)
        assert value_of is not None
        value = value_of(scalar) if scalar.is_valid else None
        if value is None:
            return Broken(f"column {column} is null")
        record[name] = value
    return record


def _value_of(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """How a value of this type is taken from its scalar: a function that gives None for a null; None where there is no
    way."""
    types = pa.types
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        number = np.dtype(kind.to_pandas_dtype()).type
        return lambda scalar: number(scalar.as_py())
    if any(is_one(kind) for is_one in _TEXTS):
        return lambda scalar: scalar.as_py()
    if types.is_dictionary(kind) and not types.is_nested(kind.value_type):  # as pandas keeps its categories
        return _value_of(kind.value_type)
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return lambda scalar: scalar["bytes"].as_py()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        if types.is_boolean(inner) or types.is_integer(inner) or types.is_floating(inner):
            return _array
    return None


def _array(scalar: Any) -> NDArray[Any] | None:
    values = scalar.values
    if values.null_count:
        return None
    return np.array(values.to_numpy(zero_copy_only=False), dtype=values.type.to_pandas_dtype())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")

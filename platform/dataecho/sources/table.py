"""Reads the tables that manifests are: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, SettingError, require
from dataecho.extras import package

#: One value per row: an array of numbers, or a list of texts, or of arrays.
Column = NDArray[Any] | list[Any]
#: A row's number in its file, counted from 1, and its values.
_Row = tuple[int, Mapping[str, Any]]

#: From the columns found to those to take; raises SettingError.
_Choose = Callable[[Sequence[str]], list[str]]

_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
# 1e5 is no number but a name: who writes numbers with an exponent writes its sign, or a point before it.
_REAL = re.compile(r"-?((0|[1-9]\d*)?\.\d+([eE][+-]?\d+)?|(0|[1-9]\d*)([eE][+-]\d+)?)|[+-]?(inf|nan)", re.IGNORECASE)
_INT64 = range(-(2**63), 2**63)


def read_table(
    data: bytes, *, where: str, file_column: str, columns: Sequence[str] | None, class_column: str | None = None
) -> dict[str, Column]:
    """The table in the file ``where``, whose ending says what it is: ``file_column``, ``class_column`` and ``columns``,
    or all.

    ``file_column`` is text, as it stands in the file. In any other column numbers become int64, float64 or bool arrays:
    whole numbers int64, where all of them fit, and text where one does not, or where it stands beside fractions and
    no float64 is the same. In CSV a column is numbers where every cell is one; a leading zero, and an exponent without
    a point or a sign (``1e5``), make it text. A column of texts and whole numbers is text. Lists of numbers become
    arrays. Raises :class:`DataError`, with the line, for a row that is malformed or lacks a value, for a name of a file
    that is neither text nor a whole number, and where there is no row; :class:`SettingError` for a column that is not
    there.
    """
    for ending, reader in _READERS.items():
        if where.lower().endswith(ending):
            return reader(data, where, partial(_chosen, where, file_column, columns, class_column))
    raise SettingError(
        "manifest", where, allowed=f"files that end in {', '.join(_READERS)}", cure="Convert it, or rename it."
    )


def _read_csv(data: bytes, where: str, choose: _Choose) -> dict[str, Column]:
    lines = csv.reader(io.StringIO(_text(data, where), newline=""), strict=True)
    names: list[str] = []
    rows: list[_Row] = []
    try:
        names = next(lines, [])
        for cells in lines:
            if len(cells) not in (0, len(names)):  # an empty line is none
                raise csv.Error(f"{len(cells)} cells, the first line has {len(names)}")
            if cells:
                rows.append((lines.line_num, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{where}, line {lines.line_num}: {error}. Correct the line.") from error
    _refuse_twice(names, f"{where}, line 1")
    return _columns(rows, where, choose(names), _from_text)


def _read_json_lines(data: bytes, where: str, choose: _Choose) -> dict[str, Column]:
    rows = list(_json_rows(_text(data, where), where))
    return _columns(rows, where, choose(list(rows[0][1]) if rows else []), _from_values)


def _json_rows(text: str, where: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            raise DataError(f"{where}, line {number}: it is nested too deeply. Correct the line.") from None
        except ValueError as error:
            raise DataError(f"{where}, line {number}: {error}. Correct the line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}, line {number}: {line[:40]!r} is no JSON object. Correct the line.")
        yield number, row


def _read_parquet(data: bytes, where: str, choose: _Choose) -> dict[str, Column]:
    pyarrow = package("pyarrow", key="manifest", value=where)
    package("pyarrow.parquet", key="manifest", value=where)  # a second of import that only its users pay

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        _refuse_twice(file.schema_arrow.names, where)
        names = choose(file.schema_arrow.names)
        table = file.read(columns=names).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{where}: no readable Parquet file: {error}. Bring it there again.") from error
    return _columns(list(enumerate(table, start=1)), where, names, _from_values)


_READERS: dict[str, Callable[[bytes, str, _Choose], dict[str, Column]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}


def _refuse_twice(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"{where}: a column comes twice: {', '.join(names)}. Rename one.")


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: no text in UTF-8: {error.reason}. Convert the file.") from error


def _chosen(
    where: str, file_column: str, columns: Sequence[str] | None, class_column: str | None, found: Sequence[str]
) -> list[str]:
    """The columns to take, that of the files first."""
    if not found:
        raise DataError(f"{where}: the manifest is empty. It needs one row per file.")
    of_classes = [] if class_column is None else [class_column]
    for key, names in (("file_column", [file_column]), ("columns", columns or ()), ("class_column", of_classes)):
        missing = sorted(set(names) - set(found))
        require(
            not missing,
            key,
            ", ".join(missing),
            allowed=f"the columns of {where}: {', '.join(found)}",
            cure="Name those.",
        )
    return list(dict.fromkeys([file_column, *(found if columns is None else columns), *of_classes]))


def _columns(
    rows: Sequence[_Row], where: str, names: Sequence[str], convert: Callable[[list[Any]], Column]
) -> dict[str, Column]:
    if not rows:
        raise DataError(f"{where}: the manifest lists no file. It needs one row per file.")
    for number, row in rows:
        for name in names:
            if row.get(name) in (None, ""):
                raise DataError(f"{where}, line {number}: no value for {name!r}. Fill it in, or name other columns.")
    columns: dict[str, Column] = {}
    for number, name in enumerate(names):
        values = [row[name] for _, row in rows]
        try:
            columns[name] = convert(values) if number else _as_names(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: column {name!r}: {error}. Convert it, or name other columns.") from error
    return columns


def _as_names(values: list[Any]) -> list[str]:
    """The column of the files, which comes first."""
    for value in values:
        if type(value) not in (str, int):
            raise TypeError(f"{value!r} is no name of a file, which is text (3.10 is not 3.1)")
    return [str(value) for value in values]


def _from_text(cells: list[str]) -> Column:
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return _whole(cells, cells)
    if all(_REAL.fullmatch(cell) for cell in cells):
        return _real(cells, cells)
    return cells


def _from_values(values: list[Any]) -> Column:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return values
    if kinds == {bool}:
        return np.array(values)
    if kinds == {int}:
        return _whole(values, [str(value) for value in values])
    if kinds <= {int, float}:
        return _real(values, [str(value) for value in values])
    if kinds == {int, str}:
        return [str(value) for value in values]
    if kinds == {list}:
        return [_array(value) for value in values]
    raise TypeError(f"its values are of the types {', '.join(sorted(kind.__name__ for kind in kinds))}")


def _whole(values: Sequence[Any], texts: list[str]) -> Column:
    """int64, or ``texts`` where one of ``values`` is larger."""
    numbers = [int(value) for value in values]
    return np.array(numbers, dtype=np.int64) if all(number in _INT64 for number in numbers) else texts


def _real(values: Sequence[Any], texts: list[str]) -> Column:
    """float64, or ``texts`` where one of ``values`` is a whole number that no float64 is."""
    whole = [int(text) for text in texts if _WHOLE.fullmatch(text)]
    return np.array([float(value) for value in values]) if all(_is_float(number) for number in whole) else texts


def _is_float(number: int) -> bool:
    try:
        return int(float(number)) == number
    except OverflowError:
        return False


def _array(values: list[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{str(values)[:40]} is no list of numbers")
    array.flags.writeable = False  # handed out again and again
    return array

"""Files that a table lists, with what is known of each."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from dataecho.errors import DataError, require
from dataecho.sources.loose_files import LooseFiles, LooseFileSource, without_query
from dataecho.sources.options import LooseFileOptions, takes
from dataecho.sources.remote import Remote
from dataecho.sources.table import Column, read_table
from dataecho.sources.urls import is_http, is_local, local_path, shown_url


class ManifestSource(LooseFileSource):
    """Records ``field`` (the bytes of a file) and every one of ``columns``, one shard, any order.

    ``manifest``: a CSV file with a first line of names, a file of JSON lines, or a Parquet file; here or behind a URL.
    Its ``file_column`` has paths relative to ``root``, by default the manifest's folder, or whole paths or URLs that
    lie below it. ``columns``: the other columns to take, as a list, or as a mapping from a field's name to its column;
    None: all. Numbers become numpy scalars, lists of numbers arrays, text stays text (see
    :func:`dataecho.sources.table.read_table`). ``class_column``: a column of names of classes; the field ``label`` is
    the number of each, int64, in the order of ``classes``; None: of the names found, sorted as text. A file that cannot
    be read is broken. ``digest`` covers the manifest, not the files. ``options`` are the fields of
    :class:`dataecho.sources.options.LooseFileOptions`.

    Raises :class:`SettingError` for a column that is not there, two fields of one name, and a class that is not among
    ``classes``; :class:`DataError` for a manifest that is missing, empty or malformed (with the line), and for a path
    that leaves ``root``.

        >>> from pathlib import Path
        >>> from dataecho import ManifestSource
        >>> _ = Path("tom.jpg").write_bytes(b"a picture")
        >>> _ = Path("list.csv").write_text("file,weight\\ntom.jpg,4.5\\n")
        >>> source = ManifestSource("list.csv")
        >>> source.num_examples(0), source.name(0, 0)
        (1, 'tom.jpg')
    """

    @takes(LooseFileOptions)
    def __init__(
        self,
        manifest: str,
        *,
        file_column: str = "file",
        field: str = "image",
        root: str | None = None,
        columns: Mapping[str, str] | Sequence[str] | None = None,
        class_column: str | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        reading = LooseFileOptions(**options)
        remote = Remote(reading)
        where = shown_url(manifest)
        table = _read(manifest, where, file_column, columns, class_column, remote)
        names = table[file_column]
        fields = _named(table, file_column, columns, class_column)
        require(
            classes is None or class_column is not None,
            "class_column",
            class_column,
            allowed="the column of the classes, where classes are given",
            cure=f"Name one of {', '.join(table)}.",
        )
        self._classes: tuple[str, ...] | None = None
        if class_column is not None:
            require(
                "label" not in fields,
                "columns",
                columns,
                allowed="fields of other names than label, which class_column gives",
                cure="Leave label out.",
            )
            self._classes, fields["label"] = _numbered(table[class_column], classes, where)
        require(
            field not in fields,
            "field",
            field,
            allowed="a name that no other column has",
            cure=f"The fields are {', '.join([field, *fields])}.",
        )
        folder = root if root is not None else _folder_of(manifest)
        paths = [_below(folder, str(name), f"{where}, file {number}") for number, name in enumerate(names, start=1)]
        super().__init__(
            LooseFiles(folder, paths, remote=remote, num_readers=reading.num_readers),
            field=field,
            columns=fields,
            digest=_digest(field, paths, fields, self._classes),
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The name of every label; None without a ``class_column``."""
        return self._classes


def _read(
    manifest: str,
    where: str,
    file_column: str,
    columns: Mapping[str, str] | Sequence[str] | None,
    class_column: str | None,
    remote: Remote,
) -> dict[str, Column]:
    require(
        not isinstance(columns, str), "columns", columns, allowed="a list or a mapping of names", cure=f"[{columns}]"
    )
    return read_table(
        remote.read(manifest),
        where=where.partition("?")[0],
        file_column=file_column,
        columns=list(columns.values()) if isinstance(columns, Mapping) else columns,
        class_column=class_column,
    )


def _named(
    table: Mapping[str, Column],
    file_column: str,
    columns: Mapping[str, str] | Sequence[str] | None,
    class_column: str | None,
) -> dict[str, Column]:
    """The fields, but for that of the files and that of the classes, whose column needs no other."""
    if columns is None:
        columns = [name for name in table if name != file_column]
    if not isinstance(columns, Mapping):
        columns = {name: name for name in columns}
    return {name: table[column] for name, column in columns.items() if (name, column) != ("label", class_column)}


def _numbered(column: Column, given: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], Column]:
    """The classes, and the number of each row's."""
    names = [str(name) for name in column]
    classes = tuple(sorted(set(names)) if given is None else given)
    require(
        len(set(classes)) == len(classes), "classes", classes, allowed="every class once", cure="Remove the repetition."
    )
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted(set(names) - set(number))
    require(
        not unknown,
        "classes",
        f"{len(classes)} names",
        allowed=f"a list that has every class of {where}",
        cure=f"Missing: {', '.join(unknown[:5])}.",
    )
    return classes, np.array([number[name] for name in names], dtype=np.int64)


def _folder_of(manifest: str) -> str:
    if is_local(manifest):
        return posixpath.dirname(local_path(manifest))
    return manifest.partition("?")[0].rpartition("/")[0]


def _below(root: str, name: str, where: str) -> str:
    """``name`` as a path relative to ``root``. Raises :class:`DataError` where it is none, whatever it looks like."""
    base = (local_path(root) if is_local(root) else without_query(root)).rstrip("/") + "/"
    plain = local_path(name) if is_local(name) and name.startswith(("/", "file://")) else name
    if plain.startswith(base):
        plain = plain[len(base) :]
        plain = unquote(plain) if is_http(root) else plain  # a whole URL is written as URLs are
    leaves = ".." in posixpath.normpath(plain).split("/")
    if leaves or plain.startswith("/") or "://" in plain or "\0" in plain or not plain:
        raise DataError(
            f"{where}: {shown_url(name)!r} is no file below {shown_url(root)}. Correct it, or set root to a folder "
            "that has all files."
        )
    return plain


def _digest(field: str, paths: Sequence[str], columns: Mapping[str, Column], classes: tuple[str, ...] | None) -> str:
    facts = (field, len(paths)) if classes is None else (field, len(paths), classes)
    digest = hashlib.sha256(repr(facts).encode())
    for path in paths:
        digest.update(path.encode() + b"\0")
    for name, column in sorted(columns.items()):
        values = column.tolist() if isinstance(column, np.ndarray) else [_plain(value) for value in column]
        digest.update(repr((name, values)).encode())
    return digest.hexdigest()[:32]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value

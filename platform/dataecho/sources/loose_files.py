"""Sources that keep one file per example, below one folder, local or behind a URL."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import READ, Broken, Chunk, Example
from dataecho.sources.file import MissingFile, concerns_one_file, cure_of
from dataecho.sources.remote import Remote
from dataecho.sources.table import Column
from dataecho.sources.urls import is_http, is_local, local_path, shown_url


class LooseFiles:
    """The files ``names`` (paths relative to ``root``, with slashes), each read whole when it is asked for."""

    def __init__(self, root: str, names: Sequence[str], *, remote: Remote, num_readers: int) -> None:
        self._root = local_path(root) if is_local(root) else without_query(root)
        self._local = is_local(root)
        self._quoted = is_http(root)
        self._names = names
        self._remote = remote
        self._num_readers = num_readers

    def __len__(self) -> int:
        return len(self._names)

    @property
    def num_readers(self) -> int:
        """0 for files of this machine, which are read without waiting; else what was asked for."""
        return 0 if self._local else self._num_readers

    def name(self, k: int) -> str:
        """The name by which a person finds the file."""
        return self._names[k]

    def read(self, k: int) -> bytes | Broken:
        """The content of file ``k``; broken where the file alone is to blame: missing, unreadable, empty. Raises
        :class:`DataError` where its storage is."""
        try:
            data = self._read_local(k) if self._local else self._read_remote(k)
        except (MissingFile, OSError, ValueError) as error:  # ValueError: a name that no file can have
            return Broken.by(READ, error)
        return data if data else Broken("the file is empty")

    def _read_local(self, k: int) -> bytes:
        try:
            with open(os.path.join(self._root, self._names[k]), "rb") as file:
                return file.read()
        except OSError as error:
            if not os.path.isdir(self._root):
                raise DataError(f"{self._root}: the folder is gone. Was it moved or unmounted?") from error
            if not concerns_one_file(error):
                raise DataError(
                    f"{error.filename}: {error.strerror}. {cure_of(error, otherwise='')}".strip()
                ) from error
            raise

    def _read_remote(self, k: int) -> bytes:
        name = quote(self._names[k]) if self._quoted else self._names[k]
        return self._remote.read(f"{self._root}/{name}")


class LooseFileSource(Source):
    """One shard with one file per example, read in any order. A record has ``field`` (the bytes of the file) and
    row k of every one of ``columns``, or what a subclass has in :meth:`fields`; a file that cannot be read is broken.
    ``digest`` covers what the subclass says.
    """

    def __init__(
        self, files: LooseFiles, *, field: str = "image", columns: Mapping[str, Column] | None = None, digest: str
    ) -> None:
        self._files, self._field, self._columns, self._digest = files, field, columns or {}, digest

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return len(self._files)

    @property
    def random_access(self) -> bool:
        return True

    @property
    def num_readers(self) -> int:
        return self._files.num_readers

    @property
    def digest(self) -> str:
        return self._digest

    def name(self, shard: int, k: int) -> str:
        return self._files.name(k)

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return [self._record(k) for k in ks.tolist()]

    def _record(self, k: int) -> Example:
        data = self._files.read(k)
        if isinstance(data, Broken):
            return data
        return {self._field: data, **self.fields(k, data)}

    def fields(self, k: int, data: bytes) -> dict[str, Any]:
        """The other fields of record ``k``, whose file has this content."""
        return {name: column[k] for name, column in self._columns.items()}


def require_files(folder: str, names: Sequence[str], *, key: str, of: str, where_to_get: str = "") -> None:
    """Raise :class:`SettingError` for ``key`` where ``folder``, of this machine, is none, or lacks one of ``names``,
    which come from ``of``. One listing of every folder that is named: 118,287 questions would take longer."""
    root = local_path(folder)
    require(os.path.isdir(root), key, folder, allowed="a folder that exists", cure=where_to_get or "Check the path.")
    present: set[str] = set()
    for below in {os.path.dirname(name) for name in names}:
        prefix = f"{below}/" if below else ""
        path = os.path.join(root, below)
        present |= {prefix + entry for entry in (os.listdir(path) if os.path.isdir(path) else ())}
    missing = [name for name in names if name not in present]
    require(
        not missing,
        key,
        folder,
        allowed=f"a folder with every image of {of}",
        cure=f"{len(missing):,} of {len(names):,} are missing, such as {', '.join(missing[:1])}: is it the folder that "
        "belongs to it, and is everything unpacked?",
    )


def without_query(url: str) -> str:
    """``url`` as a folder, without a slash at its end. Raises :class:`SettingError` where no name can be put behind."""
    require(
        not (is_http(url) and ("?" in url or "#" in url)),
        "url",
        shown_url(url),
        allowed="a folder, without a query",
        cure="Give credentials in storage_options, as headers for instance.",
    )
    return url.rstrip("/")

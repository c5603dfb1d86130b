"""The base of sources made of shards: bringing shards here, their indexes, and reading where they lie."""

from __future__ import annotations

import abc
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Example
from dataecho.sources.file import MissingFile, Stat
from dataecho.sources.index_store import IndexStore, index_folder, shard_key
from dataecho.sources.local_copies import LocalCopies
from dataecho.sources.options import ShardOptions
from dataecho.sources.remote import Remote, Stream
from dataecho.sources.retry import go_on
from dataecho.sources.shard_file import FarFile, LocalFile, ShardFile
from dataecho.sources.urls import local_path, names_of, shown_url

Index = TypeVar("Index")

_MAX_OPEN = 128


class ShardSource(Source, Generic[Index]):
    """Files of many examples each, here or behind URLs.

    A shard that lies on this machine is read where it is. Any other is fetched whole, into ``cache_dir`` or a temporary
    folder, and its index is made then and kept in ``index_dir``; an example of a shard that is not here is read by
    range. The index knows the shard's size and tag: content that changed since is a :class:`DataError`.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        layout: str,
        digested: str,
        options: ShardOptions,
    ) -> None:
        self._remote = Remote(options)
        self._urls = self._remote.list(urls)
        require(bool(self._urls), "urls", urls, allowed="one shard or more", cure="Name the files, or a pattern.")
        self._names = names_of(self._urls)
        self._keys = [shard_key(url) for url in self._urls]
        self._here = [self._remote.is_local(url) for url in self._urls]
        all_here = all(self._here)
        self._num_fetches, self._num_readers = (0, 0) if all_here else (options.num_fetches, options.num_readers)
        self._copies = None if all_here else LocalCopies(cache_dir=options.cache_dir, max_bytes=options.max_local_bytes)
        self._keeps_local_indexes = options.index_dir is not None
        # Without an index_dir shards of this machine keep no index, and no folder is looked for.
        folder = Path() if all_here and not self._keeps_local_indexes else index_folder(options)
        self._store = IndexStore(folder, layout=layout)
        self._digest = hashlib.sha256(
            "\n".join([type(self).__name__, digested, *self._names]).encode("utf-8", "surrogateescape")
        ).hexdigest()[:32]
        self._start()

    def _start(self) -> None:
        self._indexes: dict[int, tuple[Stat, Index]] = {}
        self._files: OrderedDict[int, LocalFile] = OrderedDict()
        self._lock = threading.Lock()
        self._index_locks = [threading.Lock() for _ in self._urls]

    def __getstate__(self) -> dict[str, Any]:
        own = ("_indexes", "_files", "_lock", "_index_locks")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @property
    def num_shards(self) -> int:
        return len(self._urls)

    @property
    def num_fetches(self) -> int:
        return self._num_fetches

    @property
    def num_readers(self) -> int:
        return self._num_readers

    @property
    def digest(self) -> str:
        """Of the shards' names below their common folder, and of what is read from them: the same for a copy elsewhere.
        Content is told apart by the lengths of shards, and by their indexes."""
        return self._digest

    def num_examples(self, shard: int) -> int:
        return self._length(self._index(shard)[1])

    def name(self, shard: int, k: int) -> str:
        known = self._indexes.get(shard)
        return f"{self._names[shard]}: {self._key(known[1], k) if known is not None else f'example {k}'}"

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> list[Example]:
        records: list[Example] = [None] * len(ks)
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            found = self._read_shard(shard, ks[rows].tolist())
            for row, record in zip(rows.tolist(), found, strict=True):
                records[row] = record
        return records

    @property
    def limits_places(self) -> bool:
        return self._copies is not None

    def fetch(self, shard: int, *, proceed: Callable[[], None], on_place: Callable[[], None] = lambda: None) -> int:
        """As promised by :class:`Source`; each is undone by one :meth:`drop`."""
        if self._here[shard]:
            return 0
        url, key, known = self._urls[shard], self._keys[shard], self._known(shard)
        stats: list[Stat] = []

        def open_stream() -> Stream:
            stream = self._remote.stream(url, proceed=proceed)
            stats.append(stream.stat)
            if known is not None:
                self._require_indexed(shard, known[0], stream.stat)
            return stream

        num_bytes = self._copied.add(key, open_stream, proceed=proceed, on_place=on_place)
        try:
            path = self._copied.path(key)
            size = path.stat().st_size
            # Of a copy without an index, left by a run that was killed between the two, the server's tag is not known.
            stat = stats[0] if stats else Stat(size, "")
            if known is None:
                self._make_index(shard, path, stat)
            elif size != known[0].size:
                raise DataError(
                    f"{path} has {size} bytes, {shown_url(url)} has {known[0].size}. It was removed: try again."
                )
        except BaseException:
            self._forget(shard, remove=True)
            raise
        return num_bytes

    def drop(self, shard: int) -> None:
        if not self._here[shard]:
            self._forget(shard, remove=not self._copied.is_kept)

    @property
    def _copied(self) -> LocalCopies:
        assert self._copies is not None
        return self._copies

    def _forget(self, shard: int, *, remove: bool) -> None:
        with self._lock:
            self._files.pop(shard, None)
        self._copied.unpin(self._keys[shard], remove=remove)

    def _index(self, shard: int) -> tuple[Stat, Index]:
        """The index, made now if it was not: from a file that is here, or is brought here for it, and stays where there
        is room."""
        known = self._known(shard)
        if known is None and self._here[shard]:
            path = local_path(self._urls[shard])
            return self._make_index(shard, path, LocalFile(path).stat)
        if known is None:
            self.fetch(shard, proceed=go_on)
            self._forget(shard, remove=False)
            known = self._indexes[shard]
        return known

    def _known(self, shard: int) -> tuple[Stat, Index] | None:
        """The index, if it was made before."""
        known = self._indexes.get(shard)
        if known is not None or not self._keeps_index(shard):
            return known
        stored = self._store.load(self._keys[shard])
        if stored is None:
            return None
        stat, content = stored
        try:
            known = self._indexes[shard] = stat, self._loaded(content, stat.size or 0)
        except (KeyError, TypeError, ValueError):  # not written by this program: made again
            return None
        return known

    def _make_index(self, shard: int, path: str | Path, stat: Stat) -> tuple[Stat, Index]:
        with self._index_locks[shard]:
            known = self._indexes.get(shard)
            if known is None:
                index = self._scanned(path, self._names[shard])
                if self._keeps_index(shard):
                    self._store.save(self._keys[shard], stat, self._dumped(index))
                known = self._indexes[shard] = stat, index
            return known

    def _keeps_index(self, shard: int) -> bool:
        return self._keeps_local_indexes or not self._here[shard]

    def _require_indexed(self, shard: int, before: Stat, now: Stat) -> None:
        path = self._store.path(self._keys[shard])
        delete = f", or delete its index {path} and start a new run" if self._keeps_index(shard) else ""
        cure = f"Put the old file back{delete}."
        self._remote.require_same(self._urls[shard], before, now, when="when it was indexed", cure=cure)

    def _read_shard(self, shard: int, ks: list[int]) -> list[Example]:
        stat, index = self._index(shard)
        length = self._length(index)
        for k in ks:
            if not 0 <= k < length:
                raise IndexError(f"{self._names[shard]} has {length} examples, none at {k}")
        return self._records(shard, index, self._file(shard, stat), ks)

    def _file(self, shard: int, stat: Stat) -> ShardFile:
        """Where the shard's bytes are had now."""
        with self._lock:
            file = self._files.get(shard)
            if file is not None:
                self._files.move_to_end(shard)
                return file
        if self._here[shard]:
            file = LocalFile(local_path(self._urls[shard]))
            self._require_indexed(shard, stat, file.stat)
        else:
            try:
                file = LocalFile(self._copied.path(self._keys[shard]))
            except MissingFile:
                return FarFile(self._remote, self._urls[shard], stat)
        with self._lock:
            self._files[shard] = file
            while len(self._files) > _MAX_OPEN:
                self._files.popitem(last=False)  # closed when its last reader is done
        return file

    @abc.abstractmethod
    def _scanned(self, path: str | Path, where: str) -> Index:
        """The index of a file that is here. Raises :class:`DataError`, with the shard's name ``where``, for a file that
        is cut short, of another kind, or without examples."""

    @abc.abstractmethod
    def _dumped(self, index: Index) -> dict[str, Any]:
        """As JSON."""

    @abc.abstractmethod
    def _loaded(self, content: dict[str, Any], size: int) -> Index:
        """From JSON, for a file of this size. Raises ``KeyError``, ``TypeError`` or ``ValueError`` where it is not."""

    @abc.abstractmethod
    def _length(self, index: Index) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def _key(self, index: Index, k: int) -> str:
        """The name by which a person finds an example."""

    @abc.abstractmethod
    def _records(self, shard: int, index: Index, file: ShardFile, ks: Sequence[int]) -> list[Example]:
        """The records at these positions; :class:`dataecho.pipeline.stage.Broken` where one is."""

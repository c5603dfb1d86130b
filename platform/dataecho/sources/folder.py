"""Images in one folder per class, as ImageNet is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError, SettingError, require
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Chunk, Example
from dataecho.sources.file import MissingFile
from dataecho.sources.loose_files import LooseFiles, without_query
from dataecho.sources.remote import Remote
from dataecho.sources.urls import is_http, is_local, local_path, shown_url

_Listed = list[tuple[str, int | None]]


class FolderSource(Source):
    """Records ``image`` (the bytes of a file) and ``label`` (int64: the number of its class), one shard, any order.

    A class is a folder in ``url``; its files are those below it, at any depth, that end in one of ``extensions``,
    large or small letters alike. Names that begin with a dot, and other files, do not count. Files are listed once,
    when the source is made, and come sorted by class and path; one that cannot be read later is broken.

    ``classes``: the classes in the order of their numbers; None: the folders found, sorted. Give it where a part of the
    data may lack a class, for its numbers would not be those of the other parts. ``num_readers``: threads that wait for
    files behind a URL; for those of this machine there are none.

    Raises :class:`SettingError` where there is no folder, no class, a class without a file, one that is not among
    ``classes``, or an image outside of all of them; :class:`DataError` where a folder cannot be listed.
    """

    def __init__(
        self,
        url: str,
        *,
        extensions: Sequence[str] = (".jpg", ".jpeg", ".png"),
        classes: Sequence[str] | None = None,
        num_readers: int = 16,
        storage_options: Mapping[str, Any] | None = None,
        num_retries: int = 5,
        first_delay: float = 0.5,
        timeout: float = 60.0,
    ) -> None:
        remote = Remote(
            storage_options=storage_options, num_retries=num_retries, first_delay=first_delay, timeout=timeout
        )
        endings = _checked_endings(extensions)
        listed = _local(url, endings) if is_local(url) else _behind_url(url, endings, remote)
        self._classes = _checked_classes(url, listed, classes, endings)
        number = {name: label for label, name in enumerate(self._classes)}
        files = sorted((number[_class_of(path)], path, size) for path, size in listed)
        self._labels = np.array([label for label, _, _ in files], dtype=np.int64)
        self._files = LooseFiles(url, [path for _, path, _ in files], remote=remote, num_readers=num_readers)
        self._digest = _digest(self._classes, files)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of every label."""
        return self._classes

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
        """Of the classes, the relative paths and, on this machine, the sizes."""
        return self._digest

    def name(self, shard: int, k: int) -> str:
        return self._files.name(k)

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return [self._record(k) for k in ks.tolist()]

    def _record(self, k: int) -> Example:
        data = self._files.read(k)
        return data if isinstance(data, Broken) else {"image": data, "label": self._labels[k]}


def _local(url: str, endings: tuple[str, ...]) -> _Listed:
    root = local_path(url)
    require(os.path.isdir(root), "url", url, allowed="a folder that exists", cure="Check the path.")
    try:
        return list(_walk(root, "", endings))
    except OSError as error:
        raise DataError(
            f"{error.filename}: the folder cannot be listed: {error.strerror}. Check its rights."
        ) from error


def _walk(folder: str, prefix: str, endings: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", endings)
            elif entry.name.lower().endswith(endings):
                yield prefix + entry.name, _size(entry)


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a link to nothing: broken when it is read
        return None


def _behind_url(url: str, endings: tuple[str, ...], remote: Remote) -> _Listed:
    root = without_query(url)
    try:
        found = remote.list(f"{root}/**")
    except MissingFile as error:
        raise SettingError(
            "url", shown_url(url), allowed="a folder that can be listed", cure="Check the address."
        ) from error
    # Storages write their own addresses in several ways (memory:///a for memory://a): what counts is the path.
    below = _path(root) + "/"
    paths = [_path(one).removeprefix(below) for one in found if _path(one).startswith(below)]
    paths = [unquote(path) if is_http(url) else path for path in paths]
    return [(path, None) for path in paths if path.lower().endswith(endings) and not _is_hidden(path)]


def _path(url: str) -> str:
    return url.partition("://")[2].strip("/")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _checked_endings(extensions: Sequence[str]) -> tuple[str, ...]:
    require(
        not isinstance(extensions, str) and bool(extensions) and all(one.startswith(".") for one in extensions),
        "extensions",
        extensions,
        allowed="a list of endings that begin with a dot",
        cure="For instance [.jpg, .png].",
    )
    return tuple(one.lower() for one in extensions)


def _checked_classes(
    url: str, listed: _Listed, classes: Sequence[str] | None, endings: tuple[str, ...]
) -> tuple[str, ...]:
    outside = sorted(path for path, _ in listed if "/" not in path)
    require(
        not outside,
        "url",
        shown_url(url),
        allowed="a folder that has images in the folders of their classes only",
        cure=f"{len(outside)} lie beside them, such as {outside[:1]}: move them, or list all files in a manifest.",
    )
    found = sorted({_class_of(path) for path, _ in listed})
    known = found if classes is None else list(classes)
    require(
        bool(found),
        "url",
        shown_url(url),
        allowed="a folder with one folder per class, and images in it",
        cure=f"No file below it ends in {', '.join(endings)}: check the path and extensions.",
    )
    require(len(set(known)) == len(known), "classes", known, allowed="every class once", cure="Remove the repetition.")
    unknown = sorted(set(found) - set(known))
    require(
        not unknown,
        "classes",
        known,
        allowed=f"a list that has every folder of {shown_url(url)}",
        cure=f"Missing: {', '.join(unknown[:5])}.",
    )
    return tuple(known)


def _class_of(path: str) -> str:
    return path.partition("/")[0]


def _digest(classes: Sequence[str], files: Sequence[tuple[int, str, int | None]]) -> str:
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for label, path, size in files:
        # A name may be no valid text; the file exists all the same.
        digest.update(f"{label} {size} ".encode() + path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]

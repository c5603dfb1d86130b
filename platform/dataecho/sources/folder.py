"""Images in one folder per class, as ImageNet is kept."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import numpy as np

from dataecho.errors import DataError, SettingError, require
from dataecho.sources.file import MissingFile, cure_of
from dataecho.sources.loose_files import LooseFiles, LooseFileSource, without_query
from dataecho.sources.options import LooseFileOptions, takes
from dataecho.sources.remote import Remote
from dataecho.sources.urls import is_http, is_local, local_path, shown_url

_Entry = tuple[str, os.DirEntry[str]]

#: Of files that are images: those that this program decodes.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp")

_LOG = logging.getLogger(__name__)

#: Folders of these names are parts of a data set, no classes.
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "eval", "evaluation", "test", "testing"})


@dataclass
class _Listed:
    """``images``: path and size of every file that counts; ``others``: the paths of the rest, without hidden ones;
    ``folders``: the names of the folders right below the root, where they can be had without files."""

    images: list[tuple[str, int | None]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


class FolderSource(LooseFileSource):
    """Records ``image`` (the bytes of a file) and ``label`` (int64: the number of its class), one shard, any order.

    A class is a folder in ``url``; its files are those below it, at any depth, that end in one of ``extensions``,
    large or small letters alike. Names that begin with a dot do not count; other files are left out, and a line in the
    log says how many. Files are listed once, when the source is made, and come sorted by class and path; one that
    cannot be read later is broken.

    ``classes``: the classes in the order of their numbers; None: the folders found, sorted. Give it where a part of the
    data may lack a class, for its numbers would not be those of the other parts. ``options`` are the fields of
    :class:`dataecho.sources.options.LooseFileOptions`. ``digest`` covers the classes, the relative paths and,
    for files of this machine, their sizes.

    Raises :class:`SettingError` where there is no folder, no class, a class without an image (unless ``classes`` are
    given: then a line in the log), one that is not among ``classes``, an image outside of all of them, or where the
    folders are ``train``, ``val`` and so on; :class:`DataError` where a folder cannot be listed.

        >>> from pathlib import Path
        >>> from dataecho import FolderSource
        >>> for name in ("cats/tom.jpg", "dogs/rex.jpg", "dogs/lassie.jpg"):
        ...     Path("pets", name).parent.mkdir(parents=True, exist_ok=True)
        ...     _ = Path("pets", name).write_bytes(b"a picture")
        >>> source = FolderSource("pets")
        >>> source.num_examples(0), source.name(0, 2)
        (3, 'dogs/rex.jpg')
    """

    @takes(LooseFileOptions)
    def __init__(
        self,
        url: str,
        *,
        extensions: Sequence[str] = IMAGE_ENDINGS,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        reading = LooseFileOptions(**options)
        remote = Remote(reading)
        endings = _checked_endings(extensions)
        listed = _local(url, endings) if is_local(url) else _behind_url(url, endings, remote)
        self._classes = _checked_classes(url, listed, classes, endings)
        _tell_left_out(url, listed, endings)
        number = {name: label for label, name in enumerate(self._classes)}
        files = sorted((number[_class_of(path)], path, size) for path, size in listed.images)
        super().__init__(
            LooseFiles(url, [path for _, path, _ in files], remote=remote, num_readers=reading.num_readers),
            columns={"label": np.array([label for label, _, _ in files], dtype=np.int64)},
            digest=_digest(self._classes, files),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of every label."""
        return self._classes


def _local(url: str, endings: tuple[str, ...]) -> _Listed:
    root = local_path(url)
    require(os.path.isdir(root), "url", url, allowed="a folder that exists", cure="Check the path.")
    listed = _Listed()
    try:
        for path, entry in _walk(root, ""):
            if entry.is_dir():
                listed.folders += [path] if "/" not in path else []
            elif path.lower().endswith(endings):
                listed.images.append((path, _size(entry)))
            else:
                listed.others.append(path)
    except OSError as error:
        cure = cure_of(error, otherwise="Look at the disk.")
        raise DataError(f"{error.filename}: the folder cannot be listed: {error.strerror}. {cure}") from error
    return listed


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[_Entry]:
    """Every folder and file below ``folder`` that is not hidden; ``above``: the folders that ``folder`` lies in."""
    own = os.stat(folder)
    above |= {(own.st_dev, own.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            yield prefix + entry.name, entry
            if entry.is_dir():
                if entry.is_symlink() and (entry.stat().st_dev, entry.stat().st_ino) in above:
                    raise DataError(
                        f"{entry.path}: the link leads back to a folder that it lies in, so that its files would come "
                        "again and again. Remove the link."
                    )
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above)


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
    listed = _Listed()
    for one in found:
        path = _path(one)
        if not path.startswith(below):
            continue
        path = path.removeprefix(below)
        path = unquote(path) if is_http(url) else path
        if _is_hidden(path):
            continue
        if one.endswith("/"):  # as a page of links calls a folder
            listed.folders += [path] if "/" not in path else []
        elif path.lower().endswith(endings):
            listed.images.append((path, None))
        else:
            listed.others.append(path)
    listed.folders += {_class_of(path) for path in listed.others if "/" in path}
    return listed


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
    outside = sorted(path for path, _ in listed.images if "/" not in path)
    require(
        not outside,
        "url",
        shown_url(url),
        allowed="a folder that has images in the folders of their classes only",
        cure=f"{len(outside)} lie beside them, such as {outside[:1]}: move them, or list all files in a manifest.",
    )
    found = sorted({_class_of(path) for path, _ in listed.images})
    require(
        bool(found),
        "url",
        shown_url(url),
        allowed="a folder with one folder per class, and images in it",
        cure=f"No file below it ends in {', '.join(endings)}: check the path and extensions.{_counted(listed.others)}",
    )
    empty = sorted(set(listed.folders) - set(found))
    if classes is None:
        _require_classes(url, found, empty, listed)
        return tuple(found)
    known = list(classes)
    require(len(set(known)) == len(known), "classes", known, allowed="every class once", cure="Remove the repetition.")
    unknown = sorted(set(found) - set(known))
    require(
        not unknown,
        "classes",
        known,
        allowed=f"a list that has every folder of {shown_url(url)}",
        cure=f"Missing: {', '.join(unknown[:5])}.",
    )
    lacking = [name for name in known if name not in set(found)]
    if lacking:
        _LOG.warning("%s: %d of %d classes have no image: %s", shown_url(url), len(lacking), len(known), _few(lacking))
    return tuple(known)


def _require_classes(url: str, found: Sequence[str], empty: Sequence[str], listed: _Listed) -> None:
    """Refuse folders that are no classes, or whose numbers another part of the data need not share."""
    parts = [name for name in (*found, *empty) if name.lower() in _PARTS]
    require(
        len(parts) < 2 and len(parts) < len(found),
        "url",
        shown_url(url),
        allowed="the folder whose folders are the classes",
        cure=f"Its folders are parts of a data set ({_few(parts)}): go one level down, to {shown_url(url).rstrip('/')}/"
        f"{parts[0] if parts else ''}, or give classes if these are classes.",
    )
    without = [path for path in listed.others if _class_of(path) in set(empty)]
    require(
        not empty,
        "url",
        shown_url(url),
        allowed="a folder with an image in each of its folders, which are the classes",
        cure=f"{_few(empty)}: no image there.{_counted(without)} Put images there, remove the folder, set extensions, "
        "or give the list of classes to all parts of the data.",
    )


def _tell_left_out(url: str, listed: _Listed, endings: tuple[str, ...]) -> None:
    if listed.others:
        text = "%s:%s They are left out: images end in %s (extensions)."
        _LOG.warning(text, shown_url(url), _counted(listed.others), ", ".join(endings))


def _counted(others: Sequence[str]) -> str:
    """Files by their endings, the most frequent first."""
    if not others:
        return ""
    counts = Counter(posixpath.splitext(path)[1].lower() or "no ending" for path in others)
    ordered = sorted(counts.items(), key=lambda count: (-count[1], count[0]))
    kinds = [f"{number:,} {ending}" for ending, number in ordered[:5]]
    more = f" and {len(counts) - 5} other endings" if len(counts) > 5 else ""
    return f" {len(others):,} files are no images by their endings ({', '.join(kinds)}{more})."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _class_of(path: str) -> str:
    return path.partition("/")[0]


def _digest(classes: Sequence[str], files: Sequence[tuple[int, str, int | None]]) -> str:
    digest = hashlib.sha256(repr(tuple(classes)).encode())
    for label, path, size in files:
        # A name may be no valid text; the file exists all the same.
        digest.update(f"{label} {size} ".encode() + path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]

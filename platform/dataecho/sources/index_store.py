"""Indexes of shards, made when these are first read, and kept as JSON beside the content's size and tag."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dataecho.errors import SettingError
from dataecho.sources.file import Stat
from dataecho.sources.options import ShardOptions
from dataecho.sources.urls import is_local, local_path, without_signature

_LOG = logging.getLogger(__name__)
_FORMAT = 1


def user_cache_folder() -> Path:
    """Where this user's caches lie. Raises :class:`SettingError` for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dataecho"
    except RuntimeError:
        raise SettingError(
            "XDG_CACHE_HOME",
            "nothing",
            allowed="a folder for caches, for this user has no home folder",
            cure="Set it in the environment, for instance XDG_CACHE_HOME=/tmp/my-cache, or name a cache_dir.",
        ) from None


def index_folder(options: ShardOptions) -> Path:
    """The folder of the indexes of fetched shards. Raises :class:`SettingError` for a user without a home folder."""
    if options.index_dir is not None:
        return Path(options.index_dir).expanduser()
    return (Path(options.cache_dir).expanduser() if options.cache_dir is not None else user_cache_folder()) / "index"


def shard_key(url: str) -> str:
    """A file name for what belongs to ``url``: its last part, and a digest of all but user, password and signature."""
    url = local_path(url) if is_local(url) else without_signature(url)
    name = urlsplit(url).path.rpartition("/")[2]
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    return f"{plain[-80:]}-{hashlib.sha256(url.encode()).hexdigest()[:24]}"


class IndexStore:
    """JSON files in a folder; the folder comes with the first. ``layout`` names the format of the content, in which
    indexes of one shard may differ."""

    def __init__(self, folder: Path, *, layout: str) -> None:
        self._folder, self._layout = folder, layout
        self._is_told = False

    def path(self, key: str) -> Path:
        """Where the index of a shard lies, if there is one."""
        return self._folder / f"{key}.{self._layout}.json"

    def load(self, key: str) -> tuple[Stat, dict[str, Any]] | None:
        """The content and what it is the index of; None where there is none that can be read: it is made again."""
        try:
            found = json.loads(self.path(key).read_bytes())
            if found["format"] != _FORMAT:
                return None
            return Stat(found["size"], found["tag"], found.get("date", "")), dict(found["content"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, key: str, stat: Stat, content: dict[str, Any]) -> None:
        """Written beside, then renamed: whoever reads sees a whole one. Where nothing can be written, a warning says
        so, once; the index is then made again by the next run."""
        text = json.dumps({"format": _FORMAT, **dataclasses.asdict(stat), "content": content})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(key, text)
        except OSError as error:
            if not self._is_told:
                _LOG.warning(
                    "No index of a shard can be kept in %s: %s. It is made again by every run. Name a folder that can "
                    "be written: index_dir=... or cache_dir=... of the source, or XDG_CACHE_HOME in the environment.",
                    self._folder,
                    error.strerror or error,
                )
            self._is_told = True

    def _write(self, key: str, text: str) -> None:
        descriptor, beside = tempfile.mkstemp(dir=self._folder, prefix=key, suffix=".new")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(beside, self.path(key))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise

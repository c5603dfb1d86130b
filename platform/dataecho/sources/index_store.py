"""What was found in a shard when it was first read, kept as JSON beside the content's size and tag."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dataecho.sources.file import Stat
from dataecho.sources.urls import is_local, local_path, without_signature

_FORMAT = 1


def user_cache_folder() -> Path:
    """Where this user's caches lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dataecho"


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
        """Written beside, then renamed: whoever reads sees a whole one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": _FORMAT, **dataclasses.asdict(stat), "content": content})
        descriptor, beside = tempfile.mkstemp(dir=self._folder, prefix=key, suffix=".new")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(beside, self.path(key))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise

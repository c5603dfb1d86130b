"""English prose that every machine has: comments and docstrings of the packages that this program needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

#: Packages that always come with this program, in this order; the locked versions say which text it is.
PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib")

_MIN_LENGTH = 30  # characters
_MIN_SPACES = 5
_MIN_PROSE = 0.93  # share of letters and spaces


class Page(NamedTuple):
    """The prose of one file: ``name``, its path in its package, and its lines, in order."""

    name: str
    lines: list[str]


def pages(progress: Callable[[int], None] | None = None) -> Iterator[Page]:
    """Every file with prose in it, always in the same order. ``progress(1)`` is told of every file."""
    for path in files():
        root, name = path
        lines = [
            line
            for raw in (root / name).read_text(encoding="utf-8", errors="ignore").splitlines()
            if (line := _prose(raw))
        ]
        if progress is not None:
            progress(1)
        if lines:
            yield Page(f"{root.name}/{name}", lines)


def files() -> list[tuple[Path, str]]:
    """Folder of a package, and path in it, of every source file, sorted."""
    found = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0])
        found += [(root, name) for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))]
    return found


def _prose(raw: str) -> str:
    """A line without indentation and comment sign, or nothing where it is code."""
    line = raw.strip().lstrip("#").strip()
    if len(line) < _MIN_LENGTH or line.count(" ") < _MIN_SPACES:
        return ""
    letters = sum(character.isalpha() or character == " " for character in line)
    return line if letters >= _MIN_PROSE * len(line) else ""

"""A picture with a layout in pixels, from its upper left corner."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

_DPI = 100
_PIXELS_PER_POINT = _DPI / 72
_ASCENT = 0.93  # of DejaVu's letters, by the font's size
LINE_HEIGHT = 14  # of small text
SMALL, MEDIUM, LARGE = 8.0, 9.0, 11.0
LETTER = 7  # pixels that a small letter of DejaVu Sans Mono takes
GREY, DARK, RED, GREEN, BLUE = "#777777", "#222222", "#c62828", "#2e7d32", "#1565c0"


class Canvas:
    """``width`` x ``height`` white pixels. Text is drawn literally, without formulas; letters that the font lacks are
    frames."""

    def __init__(self, width: float, height: float) -> None:
        self.size = round(width), round(height)
        self._figure = Figure(figsize=(self.size[0] / _DPI, self.size[1] / _DPI), dpi=_DPI)
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        self._axes.set_axis_off()

    @property
    def words(self) -> list[str]:
        """All texts so far."""
        return [text.get_text() for text in self._axes.texts]

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """All images so far, as they were given."""
        return [np.asarray(image.get_array()) for image in self._axes.images]

    def image(self, pixels: NDArray[np.uint8], x: float, y: float, width: float, height: float) -> tuple[float, ...]:
        """Fit ``pixels`` into the middle of this rectangle; returns the left and top edge of the image and its
        scale."""
        rows, columns = pixels.shape[:2]
        scale = min(width / columns, height / rows)
        left, top = x + (width - scale * columns) / 2, y + (height - scale * rows) / 2
        self._axes.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(left, left + scale * columns, top + scale * rows, top),
            aspect="auto",
            interpolation="nearest" if scale >= 1 else "antialiased",
        )
        self._axes.set(xlim=self._axes.get_xlim(), ylim=self._axes.get_ylim())
        return left, top, scale

    def text(self, words: str, x: float, y: float, *, size: float = SMALL, color: str = DARK, **style: Any) -> None:
        """Draw a line of text with its upper left corner here; ``style``: matplotlib's."""
        baseline = y + size * _PIXELS_PER_POINT * _ASCENT
        style = {"va": "baseline", "parse_math": False, **style}
        self._axes.text(x, baseline, words, fontsize=size, color=color, **style)

    def rectangle(self, x: float, y: float, width: float, height: float, **style: Any) -> None:
        """Draw an outline, or with ``facecolor`` a surface; ``style``: matplotlib's."""
        self._axes.add_patch(Rectangle((x, y), width, height, **{"facecolor": "none", **style}))

    def save(self, path: Path) -> Path:
        """Write a PNG."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            self._figure.savefig(path, dpi=_DPI)
        return path


def shortened(words: str, width: float) -> str:
    """``words`` in small letters in about ``width`` pixels, shortened in the middle."""
    most = max(4, int(width / (0.9 * LETTER)))
    if len(words) <= most:
        return words
    return f"{words[: (most - 1) // 2]}…{words[len(words) - most // 2 :]}"


def wrapped(text: str, width: float) -> list[str]:
    """``text`` in lines of at most ``width`` pixels of small letters of one width. What cannot be printed is a dot."""
    lines = ("".join(c if c.isprintable() else "·" for c in line.expandtabs(4)) for line in text.split("\n"))
    return [part for line in lines for part in textwrap.wrap(line, max(1, int(width / LETTER))) or [""]]

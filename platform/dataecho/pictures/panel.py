"""The drawing of one :class:`Shown` on a canvas."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from dataecho.pictures.canvas import BLUE, DARK, GREEN, GREY, LETTER, LINE_HEIGHT, RED, Canvas, shortened, wrapped
from dataecho.training.shown import Box, Shown

CAPTION_HEIGHT = 18.0
_PADDING = 4.0  # of a text


def draw_panel(canvas: Canvas, shown: Shown, x: float, y: float, width: float, height: float) -> None:
    """Draw ``shown`` in the middle of ``width`` x ``height`` pixels, with its caption in :data:`CAPTION_HEIGHT` more. A
    wrong prediction is red, a right one green."""
    bottom = y + height
    color = DARK if shown.is_right is None else GREEN if shown.is_right else RED
    if shown.image is not None:
        left, top, scale = canvas.image(shown.image, x, y, width, height)
        for box in shown.boxes:
            _draw_box(canvas, _inside(box, *shown.image.shape[:2]), left, top, scale)
        rows, columns = shown.image.shape[:2]
        bottom = top + scale * rows
        if shown.is_right is False:
            canvas.rectangle(left, top, scale * columns, scale * rows, edgecolor=RED, linewidth=2)
    else:
        canvas.rectangle(x, y, width, height, facecolor="#f6f6f6", edgecolor="#dddddd", linewidth=0.5)
        inside = width - 2 * _PADDING, height - 2 * _PADDING
        _draw_text(canvas, shown, x + _PADDING, y + _PADDING, *inside, color)
    if shown.caption:
        words = shortened(shown.caption, width)
        canvas.text(words, x + width / 2, bottom + 3, ha="center", color=GREY if shown.is_right is None else color)


def num_lines(shown: Shown, width: float) -> int:
    """The number of lines of a panel's text."""
    return _runs(shown, width - 2 * _PADDING, DARK)[-1].row + 1


class _Run(NamedTuple):
    """Letters of one colour, from a row and column on."""

    row: int
    column: int
    letters: str
    color: str


def _runs(shown: Shown, width: float, color: str) -> list[_Run]:
    """The text, directly followed by its continuation, in lines of at most ``width`` pixels."""
    lines = wrapped(shown.text, width)
    lines[-1] += " " * (len(shown.text) - len(shown.text.rstrip(" ")))
    runs = [_Run(row, 0, line, color) for row, line in enumerate(lines)]
    if shown.continuation:
        free = max(0, int(width / LETTER) - len(lines[-1]))
        first, _, rest = shown.continuation.partition("\n")
        runs.append(_Run(len(lines) - 1, len(lines[-1]), first[:free], BLUE))
        more = [text for text in (first[free:], rest) if text]
        below = (line for text in more for line in wrapped(text, width))
        runs += [_Run(row, 0, line, BLUE) for row, line in enumerate(below, start=len(lines))]
    return runs


def _draw_text(canvas: Canvas, shown: Shown, x: float, y: float, width: float, height: float, color: str) -> None:
    most = max(1, int(height / LINE_HEIGHT))
    runs = _runs(shown, width, color)
    if runs[-1].row >= most:
        runs = [*(run for run in runs if run.row < most - 1), _Run(most - 1, 0, "…", GREY)]
    for run in runs:
        at = x + run.column * LETTER, y + run.row * LINE_HEIGHT
        canvas.text(run.letters, *at, color=run.color, family="monospace")


def _inside(box: Box, height: int, width: int) -> Box:
    """The part of a box that is on the image."""
    left, right = (min(max(side, 0.0), width) for side in (box.left, box.right))
    top, bottom = (min(max(side, 0.0), height) for side in (box.top, box.bottom))
    return replace(box, left=left, top=top, right=right, bottom=bottom)


def _draw_box(canvas: Canvas, box: Box, left: float, top: float, scale: float) -> None:
    is_true = box.score is None
    color = GREEN if is_true else "#ff6f00"
    x, y = left + scale * box.left, top + scale * box.top
    canvas.rectangle(
        x,
        y,
        scale * (box.right - box.left),
        scale * (box.bottom - box.top),
        edgecolor=color,
        linewidth=1.5,
        linestyle="-" if is_true else "--",
    )
    # At the bottom of a true box and the top of a predicted one: both are legible where the boxes agree.
    words = box.label if is_true else f"{box.label} {box.score:.2f}"
    at = scale * (box.bottom - box.top)
    surface = {"facecolor": color, "edgecolor": "none", "pad": 0.8}
    canvas.text(words, x, y + (at - 12 if is_true else 1), size=7, color="white", bbox=surface)

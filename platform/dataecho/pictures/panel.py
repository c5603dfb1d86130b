"""One :class:`Shown` in its place on a canvas."""

from __future__ import annotations

from dataecho.pictures.canvas import BLUE, DARK, GREEN, GREY, LINE_HEIGHT, RED, Canvas, shortened, wrapped
from dataecho.training.shown import Box, Shown

CAPTION_HEIGHT = 18.0


def draw_panel(canvas: Canvas, shown: Shown, x: float, y: float, width: float, height: float) -> None:
    """In ``width`` x ``height`` pixels, the caption below them in :data:`CAPTION_HEIGHT`. What is predicted is red
    where it is wrong, and green or blue where it is not."""
    color = DARK if shown.is_right is None else GREEN if shown.is_right else RED
    if shown.image is not None:
        left, top, scale = canvas.image(shown.image, x, y, width, height)
        for box in shown.boxes:
            _draw_box(canvas, box, left, top, scale)
        if shown.is_right is False:
            rows, columns = shown.image.shape[:2]
            canvas.rectangle(left, top, scale * columns, scale * rows, edgecolor=RED, linewidth=2)
    else:
        canvas.rectangle(x, y, width, height, facecolor="#f6f6f6", edgecolor="#dddddd", linewidth=0.5)
        _draw_text(canvas, shown, x + 5, y + 4, width - 10, height - 8, color)
    if shown.caption:
        words = shortened(shown.caption, width)
        canvas.text(words, x + width / 2, y + height + 3, ha="center", color=GREY if shown.is_right is None else color)


def _draw_text(canvas: Canvas, shown: Shown, x: float, y: float, width: float, height: float, color: str) -> None:
    lines = wrapped(shown.text, width) if shown.text else []
    lines_below = wrapped(shown.continuation, width) if shown.continuation else []
    most = max(1, int(height / LINE_HEIGHT))
    colors = [color] * len(lines) + [BLUE] * len(lines_below)
    lines += lines_below
    if len(lines) > most:
        lines = [*lines[: most - 1], "…"]
    for number, line in enumerate(lines):
        canvas.text(line, x, y + number * LINE_HEIGHT, color=colors[number], family="monospace")


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
    # Below a true box, above a predicted one: where both agree, both can be read.
    words = box.label if is_true else f"{box.label} {box.score:.2f}"
    at = scale * (box.bottom - box.top)
    surface = {"facecolor": color, "edgecolor": "none", "pad": 0.8}
    canvas.text(words, x, y + (at if is_true else -12), size=7, color="white", bbox=surface)

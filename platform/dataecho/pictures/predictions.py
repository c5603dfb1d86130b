"""The picture of a model's predictions on held-out examples, and its text form where there is text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataecho.pictures.canvas import GREY, LARGE, LINE_HEIGHT, Canvas
from dataecho.pictures.panel import CAPTION_HEIGHT, draw_panel, num_lines
from dataecho.training.shown import Shown

FILE_NAME, TEXT_FILE_NAME = "predictions.png", "predictions.txt"

_MARGIN, _GAP, _HEAD = 16.0, 8.0, 62.0
_SIDE, _LARGE_SIDE = 112.0, 232.0  # of an image, and of one with boxes
_WIDTH = 984.0
_MOST_LINES = 12  # of a text


def draw_predictions(shown: Sequence[Shown], *, title: str) -> Canvas:
    """Images in a grid, or texts below each other."""
    return _draw_texts(shown, title) if has_text(shown) else _draw_images(shown, title)


def has_text(shown: Sequence[Shown]) -> bool:
    """Whether an example is text rather than an image."""
    return any(one.image is None for one in shown)


def in_words(shown: Sequence[Shown]) -> Iterator[str]:
    """The examples as lines of text; lines of the model begin with ``>``."""
    for number, one in enumerate(shown, start=1):
        yield f"{number}. {one.caption}".rstrip()
        yield from (f"  {line}" for line in one.text.splitlines())
        yield from (f"> {line}" for line in one.continuation.splitlines())
        yield ""


def explained(shown: Sequence[Shown]) -> str:
    """The legend, in a line."""
    if any(one.continuation for one in shown):
        return "Black: held-out text. Blue: what the model writes on, drawn among its likeliest tokens."
    judged = [one.is_right for one in shown if one.is_right is not None]
    if any(one.boxes for one in shown):
        return "Green: what is there. Dashed, with a score: what the model sees."
    return (
        f"{sum(judged)} of {len(judged)} are right; red: wrong, what the model says and what it is." if judged else ""
    )


def _draw_images(shown: Sequence[Shown], title: str) -> Canvas:
    side = _LARGE_SIDE if any(one.boxes for one in shown) else _SIDE
    num_columns = int((_WIDTH - 2 * _MARGIN + _GAP) / (side + _GAP))
    row_height = side + CAPTION_HEIGHT + _GAP
    num_rows = -(-len(shown) // num_columns)
    canvas = _headed(title, shown, _HEAD + num_rows * row_height + _MARGIN - _GAP)
    for number, one in enumerate(shown):
        row, column = divmod(number, num_columns)
        draw_panel(canvas, one, _MARGIN + column * (side + _GAP), _HEAD + row * row_height, side, side)
    return canvas


def _draw_texts(shown: Sequence[Shown], title: str) -> Canvas:
    width = _WIDTH - 2 * _MARGIN
    heights = [min(_MOST_LINES, num_lines(one, width)) * LINE_HEIGHT + 10 for one in shown]
    below = [height + _GAP + (CAPTION_HEIGHT if one.caption else 0) for height, one in zip(heights, shown, strict=True)]
    canvas = _headed(title, shown, _HEAD + sum(below) + _MARGIN - _GAP)
    y = _HEAD
    for one, height, step in zip(shown, heights, below, strict=True):
        draw_panel(canvas, one, _MARGIN, y, width, height)
        y += step
    return canvas


def _headed(title: str, shown: Sequence[Shown], height: float) -> Canvas:
    canvas = Canvas(_WIDTH, height)
    canvas.text(title, _MARGIN, 12, size=LARGE, weight="bold")
    canvas.text(explained(shown), _MARGIN, 36, color=GREY)
    return canvas

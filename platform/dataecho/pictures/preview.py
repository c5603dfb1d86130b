"""The picture of a few examples on their way through a pipeline and its echo, and its text form where there is text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dataecho.pictures.canvas import BLUE, GREY, LARGE, MEDIUM, Canvas, shortened
from dataecho.pictures.panel import CAPTION_HEIGHT, draw_panel
from dataecho.pictures.trace import Trace, Traced
from dataecho.training.shown import Shown

FILE_NAME, TEXT_FILE_NAME = "preview.png", "preview.txt"

_MARGIN, _GAP, _BAR = 16.0, 12.0, 26.0
_HEAD, _NAME_HEIGHT = 92.0, 17.0
_IMAGE_SIDE, _TEXT_WIDTH = 104.0, 222.0
_LEAST_WIDTH = 640.0


def draw_preview(trace: Trace, *, title: str) -> Canvas:
    """A row per example. Left of the bar: the stages up to the echo point, once. Right of it: for every later stage the
    repeats side by side, each with the step that trains on it."""
    layout = _Layout(trace)
    canvas = Canvas(layout.width, layout.height)
    canvas.text(title, _MARGIN, 12, size=LARGE, weight="bold")
    canvas.text(explained(trace), _MARGIN, 34, color=GREY)
    for stage, name in enumerate((*trace.once, *trace.repeated)):
        words = f"{name} (random)" if name in trace.random else name
        canvas.text(words, layout.left(stage), _HEAD - 24, size=MEDIUM, weight="bold")
    if trace.repeated:
        x = layout.left(len(trace.once)) - (_GAP + _BAR) / 2
        canvas.rectangle(x - 1, _HEAD - 26, 2, layout.height - _HEAD + 26 - _MARGIN, facecolor=BLUE)
    for number, example in enumerate(trace.examples):
        _draw_row(canvas, layout, trace, example, layout.top(number))
    for rows in _several_batches(trace):
        top, height = layout.top(rows[0]) + _NAME_HEIGHT - 4, (len(rows) - 1) * layout.row_height + _IMAGE_SIDE + 8
        for repeat in range(len(trace.examples[rows[0]].repeats)):
            left = layout.left(len(trace.once), repeat) - 4
            canvas.rectangle(left, top, layout.cell_width + 8, height, edgecolor=BLUE, linewidth=1)
    return canvas


def explained(trace: Trace) -> str:
    """The legend, in a line."""
    if not trace.repeated:
        return "No echo: every example goes through all stages once an epoch."
    if trace.random & set(trace.repeated):
        return "Left of the bar: done once, and kept. Right of it: done anew for every use, with new random numbers."
    return "Left of the bar: done once, and kept. Right of it: every use is the same."


def has_text(trace: Trace) -> bool:
    """Whether an example is text rather than an image."""
    return any(shown.image is None for example in trace.examples for shown in example.once)


def in_words(trace: Trace) -> Iterator[str]:
    """The examples as lines of text."""
    for example in trace.examples:
        uses = f" ({_uses(example)})" if trace.repeated else ""
        yield f"{example.name}{uses}"
        for name, shown in zip(trace.once, example.once, strict=True):
            yield from _lines(name, shown)
        for repeat in example.repeats:
            for name, shown in zip(trace.repeated, repeat.shown, strict=True):
                yield from _lines(f"{name}, step {repeat.step:,}", shown)
        yield ""


class _Layout:
    """Positions, in pixels."""

    def __init__(self, trace: Trace) -> None:
        self.cell_width = _TEXT_WIDTH if has_text(trace) else _IMAGE_SIDE
        self.row_height = _NAME_HEIGHT + _IMAGE_SIDE + CAPTION_HEIGHT + _GAP
        self._num_once = len(trace.once)
        self._most_repeats = max(len(example.repeats) for example in trace.examples)
        last = len(trace.once) + len(trace.repeated) - 1, self._most_repeats - 1 if trace.repeated else 0
        self.width = max(_LEAST_WIDTH, self.left(*last) + self.cell_width + _MARGIN)
        self.height = _HEAD + len(trace.examples) * self.row_height + _MARGIN - _GAP

    def top(self, row: int) -> float:
        """The top edge of an example's row."""
        return _HEAD + row * self.row_height

    def left(self, stage: int, repeat: int = 0) -> float:
        """The left edge of the panel of a stage, numbered over all stages, and a repeat."""
        num_repeated = max(0, stage - self._num_once)
        column = stage + num_repeated * (self._most_repeats - 1) + repeat
        bars = (_BAR if stage >= self._num_once else 0) + num_repeated * _GAP
        return _MARGIN + column * (self.cell_width + _GAP) + bars


def _draw_row(canvas: Canvas, layout: _Layout, trace: Trace, example: Traced, y: float) -> None:
    num_once = len(trace.once)
    name = f"batch {example.batch}: {example.name}" if _several_batches(trace) else example.name
    canvas.text(shortened(name, num_once * (layout.cell_width + _GAP)), _MARGIN, y, color=GREY)
    top = y + _NAME_HEIGHT
    for stage, shown in enumerate(example.once):
        draw_panel(canvas, shown, layout.left(stage), top, layout.cell_width, _IMAGE_SIDE)
    if not trace.repeated:
        return
    canvas.text(_uses(example), layout.left(num_once), y, color=BLUE)
    for number, repeat in enumerate(example.repeats):
        for stage, shown in enumerate(repeat.shown, start=num_once):
            captioned = replace(shown, caption=f"step {repeat.step:,}")
            draw_panel(canvas, captioned, layout.left(stage, number), top, layout.cell_width, _IMAGE_SIDE)


def _several_batches(trace: Trace) -> list[list[int]]:
    """The rows of each batch, under batch echo; else empty."""
    batches = [example.batch for example in trace.examples]
    if len(set(batches)) == 1:
        return []
    return [[row for row, one in enumerate(batches) if one == batch] for batch in sorted(set(batches))]


def _uses(example: Traced) -> str:
    num_uses, num_here = example.num_repeats, len(example.repeats)
    if num_uses == 1:
        return "used once"
    return f"used {num_uses} times" + (f"; the first {num_here} of them" if num_here < num_uses else "")


def _lines(name: str, shown: Shown) -> Iterator[str]:
    yield f"  {name}: {shown.caption}" if shown.caption else f"  {name}:"
    for line in shown.text.splitlines():
        yield f"    {line}"

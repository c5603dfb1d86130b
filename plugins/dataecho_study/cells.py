"""The cells of a study: blocks of axes in its YAML become overrides of the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataecho.errors import SettingError, refuse_unknown, require
from dataecho_study.results import AXES, BATCH_SIZE, ECHO, FACTOR, NO_ECHO, SHUFFLE_BUFFER, THROTTLE_RATIO

_BATCH_ECHO = "batch"
_KEYS = {
    ECHO: "echo",
    FACTOR: "factor",
    BATCH_SIZE: "task.batch_size",
    SHUFFLE_BUFFER: "task.shuffle_buffer",
    THROTTLE_RATIO: "pipeline.throttle.ratio",
}


@dataclass(frozen=True, kw_only=True)
class StudyCell:
    """``key``: its name, as a folder; ``axes``: what varies in the study, a factor of 1 without echo; ``overrides``:
    the settings by key."""

    key: str
    axes: Mapping[str, float | str]
    overrides: Mapping[str, Any]


def expand(blocks: Sequence[Mapping[str, Any]], echoes: Sequence[str], *, batch_size: int) -> list[StudyCell]:
    """Return the cells of ``blocks``, in order and each once. A block is a mapping of axes to values or lists of
    values, all combinations of which are cells; those with an echo that is not one of ``echoes`` are left out.
    ``batch_size``: where a cell has no own. Raises :class:`SettingError`."""
    cells: dict[str, StudyCell] = {}
    for number, block in enumerate(blocks):
        key = f"study.cells.{number}"
        refuse_unknown(block, AXES, prefix=f"{key}.", values=block)
        require(ECHO in block, f"{key}.echo", None, allowed=", ".join(echoes), cure="Say which echo the cells have.")
        for axes in _combinations(block):
            if axes[ECHO] in echoes:
                cell = _cell(axes, key, batch_size)
                cells.setdefault(cell.key, cell)
    require(
        bool(cells),
        "study.cells",
        [dict(block) for block in blocks],
        allowed=f"cells with an echo that the task has: {', '.join(echoes)}",
        cure="Choose another task or study.",
    )
    return list(cells.values())


def _combinations(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in block.values()]
    for values in itertools.product(*lists):
        yield dict(zip(block, values, strict=True))


def _cell(given: Mapping[str, Any], key: str, batch_size: int) -> StudyCell:
    axes = {axis: given[axis] for axis in AXES if axis in given}
    has_echo = axes[ECHO] != NO_ECHO
    factor = axes.get(FACTOR, 1)
    if has_echo and FACTOR not in axes:
        raise SettingError(
            f"{key}.factor", None, allowed="a number from 1 for each cell with an echo", cure="Add it: factor: 2."
        )
    named = axes if has_echo else {axis: value for axis, value in axes.items() if axis != FACTOR}
    overrides = {_KEYS[axis]: value for axis, value in named.items()}
    if axes[ECHO] == _BATCH_ECHO and SHUFFLE_BUFFER in axes:
        # The stage before batching keeps its own buffer; the study varies the one behind the echo, in batches.
        del overrides[_KEYS[SHUFFLE_BUFFER]]
        rows = int(axes.get(BATCH_SIZE, batch_size))
        overrides["echo.shuffle_buffer"] = -(-int(axes[SHUFFLE_BUFFER]) // rows)
    return StudyCell(
        key=",".join(f"{axis}={value}" for axis, value in named.items()),
        axes={
            axis: value if isinstance(value, str) else float(value)
            for axis, value in {**axes, FACTOR: factor if has_echo else 1}.items()
        },
        overrides=overrides,
    )

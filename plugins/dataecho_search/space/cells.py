"""Reads overrides as cells and their search space.

A comma list makes cells, each of which is searched separately; ``interval``, ``range`` and ``choice`` are dimensions of
every cell's space; everything else is fixed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from omegaconf import ListConfig
from optuna.distributions import BaseDistribution

from dataecho.errors import require
from dataecho_search.space.dimensions import Space, distribution, refuse_shuffle, value_text
from dataecho_search.space.seeds import digest

#: Settings of an echo, which a cell with ``echo=none`` leaves out.
_ECHO_KEYS = ("factor", "max_factor", "echo.after", "echo.shuffle_buffer")
#: Fixed overrides that are always among a cell's facts.
_ALWAYS_FACTS = ("task", "backend", "echo", "factor")


@dataclass(frozen=True)
class Cell:
    """A combination of fixed settings, which has searches of its own. ``overrides``: all of them, as text; ``facts``:
    key and value of those that distinguish it from other cells, and of task, backend and echo; ``space``: its
    dimensions by key, none for a single run."""

    name: str
    overrides: tuple[str, ...]
    facts: Mapping[str, str]
    space: Space

    def all_keys(self) -> set[str]:
        """The keys that it sets or searches."""
        return {text.partition("=")[0].lstrip("+~") for text in self.overrides} | {
            key.lstrip("+") for key in self.space
        }

    def point(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a point in its space."""
        return [f"{key}={as_text(params[key])}" for key in self.space]


def read_cells(
    params: Mapping[str, Any], arguments: Sequence[str], parser: OverridesParser
) -> tuple[list[Cell], list[str]]:
    """Return the cells, and the overrides that all of them share.

    ``params``: from YAML, by key, values that may be texts in Hydra's sweep syntax; ``arguments``: from the command
    line, which take precedence. Equal cells become one: without an echo no factor matters. Raises :class:`SettingError`
    for a space that is empty or contradictory."""
    overrides = parser.parse_overrides(list(arguments))
    twice = [override for n, override in enumerate(overrides) if _key(override) in map(_key, overrides[:n])]
    for override in twice:
        require(
            not any(other.is_sweep_override() for other in overrides if _key(other) == _key(override)),
            _key(override),
            override.get_value_string(),
            allowed="one list, interval, range or choice, once",
            cure="It is given twice: leave one of them out.",
        )
    given = set(map(_key, overrides))
    defaults = [override for override in parser.parse_overrides(_lines(params)) if _key(override) not in given]
    lists: list[list[tuple[str, str]]] = []
    space: dict[str, BaseDistribution] = {}
    varied, fixed = [], []
    for override in [*defaults, *overrides]:
        key = override.get_key_element()
        if override.value_type in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
            refuse_shuffle(key, override)
            values = list(dict.fromkeys(map(value_text, override.sweep_iterator())))
            require(bool(values), key, override.get_value_string(), allowed="at least one value", cure="Name one.")
            lists.append([(key, value) for value in values])
            varied.append(key)
        elif override.is_sweep_override():
            space[key] = distribution(key, override)
        else:
            text = "" if override.is_delete() else override.get_value_element_as_str()
            lists.append([(key, text)])
            fixed.append(_line(key, text))
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*lists):
        cell = _cell(dict(combination), varied, space)
        cells.setdefault(cell.name, cell)
    return list(cells.values()), fixed


def as_text(value: Any) -> str:
    """Return a parameter's value as the text of an override; choices other than numbers and booleans are texts
    already."""
    return value if isinstance(value, str) else repr(value)


def _cell(values: dict[str, str], varied: Sequence[str], space: Space) -> Cell:
    dimensions = dict(space)
    if values.get("echo") == "none":
        values = {key: value for key, value in values.items() if key.lstrip("+") not in _ECHO_KEYS}
        dimensions = {key: dimension for key, dimension in dimensions.items() if key not in _ECHO_KEYS}
    different = {key: value for key, value in values.items() if key in varied}
    facts = {key: value for key, value in values.items() if key in varied or key in _ALWAYS_FACTS}
    overrides = tuple(_line(key, value) for key, value in values.items())
    return Cell(_name(different), overrides, facts, dimensions)


def _name(values: Mapping[str, str]) -> str:
    """Return a name of the settings that distinguish a cell; it can name a folder."""
    text = ",".join(f"{key}={value}" for key, value in values.items())
    name = re.sub(r"[^A-Za-z0-9=,._+-]+", "_", text)
    if name != text or len(name) > 100:
        name = f"{name[:80]}-{digest(text, length=6)}"
    return name or "search"


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _line(key: str, value: str) -> str:
    return key if key.startswith("~") else f"{key}={value}"


def _lines(params: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in params.items():
        if isinstance(value, list | ListConfig):  # a YAML list equals a comma list
            value = ",".join(map(str, value))
        lines.append(f"{key}={'null' if value is None else value}")
    return lines

"""From overrides to cells and a search space.

Comma lists are cells, each searched by itself; ``interval``, ``range`` and ``choice`` are dimensions of every cell's
space; everything else is fixed.
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

#: What an echo needs and no echo must not have: a cell with ``echo=none`` does without.
_OF_AN_ECHO = ("factor", "max_factor", "echo.after", "echo.shuffle_buffer")
#: Fixed overrides that a cell is told with, beside the ones that distinguish it.
_TOLD = ("task", "backend", "echo", "factor")


@dataclass(frozen=True)
class Cell:
    """What is searched by itself. ``overrides``: every fixed one, as text; ``facts``: the key and value of those that
    tell it from other cells, and of what it echoes; ``space``: its dimensions by their keys, none for a single run."""

    name: str
    overrides: tuple[str, ...]
    facts: Mapping[str, str]
    space: Space

    def all_keys(self) -> set[str]:
        """Everything that it sets or searches."""
        return {text.partition("=")[0].lstrip("+~") for text in self.overrides} | {
            key.lstrip("+") for key in self.space
        }

    def point(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a point in its space."""
        return [f"{key}={as_text(params[key])}" for key in self.space]


def read_cells(
    params: Mapping[str, Any], arguments: Sequence[str], parser: OverridesParser
) -> tuple[list[Cell], list[str]]:
    """The cells, and the overrides that are the same for all of them.

    ``params`` are from YAML: key and value, which may be a text in Hydra's sweep syntax; ``arguments`` from the command
    line, which win. Duplicates collapse: without an echo no factor matters. Raises :class:`SettingError` for a space
    that is empty or contradictory."""
    mine = parser.parse_overrides(list(arguments))
    twice = [override for n, override in enumerate(mine) if _key(override) in map(_key, mine[:n])]
    for override in twice:
        require(
            not any(other.is_sweep_override() for other in mine if _key(other) == _key(override)),
            _key(override),
            override.get_value_string(),
            allowed="one list, interval, range or choice, once",
            cure="It is given twice: leave one of them out.",
        )
    given = set(map(_key, mine))
    defaults = [override for override in parser.parse_overrides(_lines(params)) if _key(override) not in given]
    lists: list[list[tuple[str, str]]] = []
    space: dict[str, BaseDistribution] = {}
    told, fixed = [], []
    for override in [*defaults, *mine]:
        key = override.get_key_element()
        if override.value_type in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
            refuse_shuffle(key, override)
            values = list(dict.fromkeys(map(value_text, override.sweep_iterator())))
            require(bool(values), key, override.get_value_string(), allowed="at least one value", cure="Name one.")
            lists.append([(key, value) for value in values])
            told.append(key)
        elif override.is_sweep_override():
            space[key] = distribution(key, override)
        else:
            text = "" if override.is_delete() else override.get_value_element_as_str()
            lists.append([(key, text)])
            fixed.append(_line(key, text))
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*lists):
        cell = _cell(dict(combination), told, space)
        cells.setdefault(cell.name, cell)
    return list(cells.values()), fixed


def as_text(value: Any) -> str:
    """A parameter's value as an override takes it; what was not a number or truth value is text already."""
    return value if isinstance(value, str) else repr(value)


def _cell(values: dict[str, str], told: Sequence[str], space: Space) -> Cell:
    dimensions = dict(space)
    if values.get("echo") == "none":
        values = {key: value for key, value in values.items() if key.lstrip("+") not in _OF_AN_ECHO}
        dimensions = {key: dimension for key, dimension in dimensions.items() if key not in _OF_AN_ECHO}
    different = {key: value for key, value in values.items() if key in told}
    facts = {key: value for key, value in values.items() if key in told or key in _TOLD}
    overrides = tuple(_line(key, value) for key, value in values.items())
    return Cell(_name(different), overrides, facts, dimensions)


def _name(values: Mapping[str, str]) -> str:
    """A name that can be a folder's, and tells what is different about a cell."""
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
        if isinstance(value, list | ListConfig):  # a list in YAML is a comma list on the command line
            value = ",".join(map(str, value))
        lines.append(f"{key}={'null' if value is None else value}")
    return lines

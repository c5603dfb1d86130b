"""From overrides to cells and a search space.

Comma lists are cells, each searched by itself; ``interval``, ``range`` and ``choice`` are dimensions of every cell's
space; everything else is fixed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    OverrideType,
    RangeSweep,
    Transformer,
    ValueType,
)
from hydra.errors import HydraException

from dataecho.errors import SettingError, quoted, require
from dataecho_search.seeds import digest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

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
    space: Mapping[str, BaseDistribution]

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
            _refuse_shuffle(key, override)
            values = list(dict.fromkeys(map(_text, override.sweep_iterator())))
            require(bool(values), key, override.get_value_string(), allowed="at least one value", cure="Name one.")
            lists.append([(key, value) for value in values])
            told.append(key)
        elif override.is_sweep_override():
            space[key] = _distribution(key, override)
        else:
            text = "" if override.is_delete() else override.get_value_element_as_str()
            lists.append([(key, text)])
            fixed.append(_line(key, text))
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*lists):
        cell = _cell(dict(combination), told, space)
        cells.setdefault(cell.name, cell)
    return list(cells.values()), fixed


def describe(space: Mapping[str, BaseDistribution]) -> str:
    """A space as JSON, by which two are the same."""
    import json

    from optuna.distributions import distribution_to_json

    return json.dumps({key: json.loads(distribution_to_json(space[key])) for key in sorted(space)}, sort_keys=True)


def as_text(value: Any) -> str:
    """A parameter's value as an override takes it; what was not a number or truth value is text already."""
    return value if isinstance(value, str) else repr(value)


def _cell(values: dict[str, str], told: Sequence[str], space: Mapping[str, BaseDistribution]) -> Cell:
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
    from omegaconf import ListConfig

    lines = []
    for key, value in params.items():
        if isinstance(value, list | ListConfig):  # a list in YAML is a comma list on the command line
            value = ",".join(map(str, value))
        lines.append(f"{key}={'null' if value is None else value}")
    return lines


def _distribution(key: str, override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    require(
        override.type not in (OverrideType.DEL,), key, override.input_line, allowed="a key", cure="Leave out the ~."
    )
    _refuse_shuffle(key, override)
    sweep = override.value()
    given = override.get_value_string()
    try:
        if isinstance(sweep, IntervalSweep):
            return _interval(sweep)
        if isinstance(sweep, RangeSweep):
            if "sort(" in given:  # Hydra's own reverses a range to other numbers: 1, 4, 7 to 6, 3, 0
                raise ValueError("sort(...) of a range means nothing here: leave it out.")
            return _range(sweep)
        assert isinstance(sweep, ChoiceSweep)
        _refuse_tags(sweep.tags)
        return CategoricalDistribution([_choice(item) for item in sweep.list])
    except ValueError as error:
        raise SettingError(
            key,
            given,
            allowed="interval(low, high) with finite low < high, above 0 with tag(log, ...); a range or choice with a "
            "value, without a tag",
            cure=f"This space is empty or contradictory: {error}",
        ) from error


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or not low < high:
        raise ValueError(f"no number lies between {low} and {high}.")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{low} to {high} has no middle: give both ends.")
    _refuse_tags(sweep.tags - {"log"}, others="; log does")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    if "log" in sweep.tags:
        raise ValueError("a range has even steps: write tag(log,int(interval(1,8))), for instance.")
    _refuse_tags(sweep.tags)
    ends = (sweep.start, sweep.stop, sweep.step)
    if not all(end is not None and math.isfinite(end) for end in ends) or not sweep.step:
        raise ValueError("a range goes from a number to a number in steps that are not 0.")
    values = list(sweep.range())
    if not values:
        raise ValueError("the range has no number in it.")
    low, high = min(values), max(values)
    step = abs(values[1] - values[0]) if len(values) > 1 else 1
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, step=step)
    low, high, step = (float(f"{value:.12g}") for value in (low, high, step))  # 0.1 + 0.2 is 0.30000000000000004
    return FloatDistribution(low, high, step=step)


def _choice(item: Any) -> Any:
    """A value that Optuna can keep: numbers and truth values as they are, the rest as an override's text."""
    return item if isinstance(item, bool | int | float) else _text(item)


def _text(item: Any) -> str:
    """A value as an override's text that is read back as this value: the text ``1`` in quotes, as it was typed."""
    text = Transformer.str(item)
    return quoted(item) if isinstance(item, str) and _read_back(text) != item else text


def _read_back(text: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return None


def _refuse_tags(tags: Set[str], *, others: str = "") -> None:
    if tags:
        raise ValueError(f"the tag {sorted(tags)[0]} means nothing here{others}.")


def _refuse_shuffle(key: str, override: Override) -> None:
    require(
        not getattr(override.value(), "shuffle", False),
        key,
        override.get_value_string(),
        allowed="a list, range or choice without shuffle(...)",
        cure="Leave shuffle out: the sampler draws the order of points, and every start would shuffle anew.",
    )

"""The dimensions of a search space: from Hydra's sweep syntax to Optuna's distributions, and points in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, OverrideType, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from dataecho.errors import SettingError, quoted, require

Space = Mapping[str, BaseDistribution]


def describe(space: Space) -> str:
    """Return a space as JSON; two spaces are equal if their texts are."""
    return json.dumps({key: json.loads(distribution_to_json(space[key])) for key in sorted(space)}, sort_keys=True)


def at(dimension: BaseDistribution, x: float) -> Any:
    """Return the value at ``x`` in [0, 1) of a dimension; the values of a stepped dimension have equal shares."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices[min(int(x * len(dimension.choices)), len(dimension.choices) - 1)]
    if isinstance(dimension, IntDistribution) and dimension.log:
        low, high = math.log(dimension.low - 0.5), math.log(dimension.high + 0.5)
        return min(max(round(math.exp(low + x * (high - low))), dimension.low), dimension.high)
    values = values_of(dimension)
    if values is not None:
        return values[min(int(x * len(values)), len(values) - 1)]
    assert isinstance(dimension, FloatDistribution)
    if dimension.log:
        low, high = math.log(dimension.low), math.log(dimension.high)
        return min(max(math.exp(low + x * (high - low)), dimension.low), dimension.high)
    return dimension.low + x * (dimension.high - dimension.low)


def values_of(dimension: BaseDistribution) -> Sequence[Any] | None:
    """Return all values of a discrete dimension in order, None for a continuous one."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices
    if isinstance(dimension, IntDistribution):
        return range(dimension.low, dimension.high + 1, dimension.step)
    assert isinstance(dimension, FloatDistribution)
    if dimension.step is None:
        return None
    num = round((dimension.high - dimension.low) / dimension.step) + 1
    return [min(dimension.low + n * dimension.step, dimension.high) for n in range(num)]


def distribution(key: str, override: Override) -> BaseDistribution:
    require(
        override.type not in (OverrideType.DEL,), key, override.input_line, allowed="a key", cure="Leave out the ~."
    )
    refuse_shuffle(key, override)
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
    """Return a value that Optuna can store: numbers and booleans unchanged, everything else as an override's text."""
    return item if isinstance(item, bool | int | float) else value_text(item)


def value_text(item: Any) -> str:
    """Return the text of an override that Hydra reads back as ``item``, so the text ``1`` in quotes."""
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


def refuse_shuffle(key: str, override: Override) -> None:
    require(
        not getattr(override.value(), "shuffle", False),
        key,
        override.get_value_string(),
        allowed="a list, range or choice without shuffle(...)",
        cure="Leave shuffle out: the sampler draws the order of points, and every start would shuffle anew.",
    )

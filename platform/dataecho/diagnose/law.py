"""The law of a task: fresh examples to target as a function of the echo factor, fitted by a study (``law.json``), and
what it predicts where R is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataecho.errors import DataError

FILE_NAME = "law.json"
CONFIDENCE = 0.9  # of a prediction interval

Array = NDArray[np.float64]
#: Time per fresh example with a factor, relative to no echo, where the upstream side takes so many times as long.
RelativeTime = Callable[[float, Array], Array]

_NUM_DRAWS = 20_000
_LEAST = 1e-3  # of fresh(e) / fresh(1): a sum of draws may fall below anything that can be
_MAX_BYTES = 1_000_000
_FINE = 4.0  # up to here the factor is chosen in tenths

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_Text = Annotated[str, Field(max_length=300, pattern=r"^[ -~]*$")]  # printable ASCII: it is shown in terminals
_Size = Annotated[float, Field(ge=0, le=1e6)]
_Degrees = Annotated[float, Field(gt=0, le=1e9)]
_Number = Annotated[float, Field(ge=-1e9, le=1e9)]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A formula for fresh(e) / fresh(1), which is 1 at e = 1. ``parameters``: their meaning, by name; ``start``: values
    from which a fit starts."""

    formula: str
    parameters: Mapping[str, str]
    start: tuple[float, ...]
    function: Callable[[Array, Any], Array]

    def value(self, factors: Any, parameters: Any) -> Array:
        """The ratio at ``factors``, with numbers or arrays as parameters."""
        return np.maximum(self.function(np.asarray(factors, float), parameters), _LEAST)


def _decay(e: Array, parameters: Any) -> Array:
    rate = np.asarray(parameters[0], float)  # 1 / R*, which is 0 where repeats are as good as fresh examples
    is_small = np.abs(rate) < 1e-9
    with np.errstate(over="ignore", divide="ignore"):
        worth = np.where(is_small, e - 1, -np.expm1(-(e - 1) * rate) / np.where(is_small, 1, rate))
        return 1 / (1 + worth)


#: ``share``: a share of the examples has to be fresh, and stale repeats do harm in proportion. ``decay``: the worth of
#: repeats falls exponentially (Muennighoff et al., 2023), the rate being 1 / R*. ``root``: the harm grows as the root
#: of the factor. ``linear``: ``share`` without a share.
FORMS: Mapping[str, Form] = {
    "share": Form(
        formula="s + (1 - s) / e + c (e - 1)",
        parameters={"s": "share that has to be fresh", "c": "harm of a repeat"},
        start=(0.1, 0.0),
        function=lambda e, p: p[0] + (1 - p[0]) / e + p[1] * (e - 1),
    ),
    "decay": Form(
        formula="1 / (1 + (1 - exp(-k (e - 1))) / k)",
        parameters={"k": "decay of a repeat's worth, 1 / R*"},
        start=(0.1,),
        function=_decay,
    ),
    "root": Form(
        formula="1 / e + c (sqrt(e) - 1)",
        parameters={"c": "harm of repeats"},
        start=(0.05,),
        function=lambda e, p: 1 / e + p[0] * (np.sqrt(e) - 1),
    ),
    "linear": Form(
        formula="1 / e + c (e - 1)",
        parameters={"c": "harm of a repeat"},
        start=(0.01,),
        function=lambda e, p: 1 / e + p[0] * (e - 1),
    ),
}


class Parameter(BaseModel):
    """An estimate with its interval."""

    model_config = _STRICT

    name: _Text
    estimate: _Number
    low: _Number
    high: _Number


class Score(BaseModel):
    """A form that was compared: its error at factors that it was not fitted to, and at those that it was, as root mean
    squares of logarithms. ``left_out`` is None where too few factors are left to fit."""

    model_config = _STRICT

    form: Literal["share", "decay", "root", "linear"]
    left_out: _Size | None
    fitted: _Size


class Law(BaseModel):
    """The law of one echo at one batch size. ``covariance``: of the parameters, whose t distribution has ``degrees``
    degrees of freedom; ``lack``: standard deviation of the measured means about the curve beyond what repeats explain,
    ``spread``: of a repeat, both of logarithms; ``factors``: those measured, from 1; ``residuals``: of the logarithms,
    by factor."""

    model_config = _STRICT

    echo: _Text
    batch_size: Annotated[float, Field(gt=0, le=1e12)] | None
    form: Literal["share", "decay", "root", "linear"]
    parameters: Annotated[list[Parameter], Field(min_length=1, max_length=4)]
    covariance: Annotated[list[list[_Number]], Field(min_length=1, max_length=4)]
    degrees: _Degrees
    lack: _Size
    spread: _Size
    spread_degrees: _Degrees
    factors: Annotated[list[Annotated[float, Field(ge=1, le=1e4)]], Field(min_length=3, max_length=64)]
    residuals: Annotated[list[_Number], Field(min_length=3, max_length=64)]
    scores: Annotated[list[Score], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _fits_together(self) -> Law:
        names = list(FORMS[self.form].parameters)
        matrix = np.asarray([row + [math.nan] * (len(names) - len(row)) for row in self.covariance], float)
        if [one.name for one in self.parameters] != names:
            raise ValueError(f"the parameters of form {self.form} are {', '.join(names)}")
        if matrix.shape != (len(names), len(names)) or not np.allclose(matrix, matrix.T):
            raise ValueError("covariance is no symmetric matrix of the parameters")
        if np.linalg.eigvalsh(matrix).min() < -1e-9 * max(1.0, float(np.abs(matrix).max())):
            raise ValueError("covariance has a negative variance")
        if self.factors[0] != 1 or sorted(set(self.factors)) != self.factors:
            raise ValueError("factors do not rise from 1")
        if len(self.residuals) != len(self.factors):
            raise ValueError("there is not one residual for each factor")
        return self

    def ratio(self, factors: Any) -> Array:
        """fresh(e) / fresh(1). Beyond the largest measured factor it is unknown, and not a number."""
        factors = np.asarray(factors, float)
        found = FORMS[self.form].value(factors, [one.estimate for one in self.parameters])
        return np.where(factors <= self.factors[-1] * (1 + 1e-9), found, math.nan)


class Laws(BaseModel):
    """The laws of a study, one for each echo and batch size."""

    model_config = _STRICT

    format: Literal[1] = 1
    study: _Text
    task: _Text
    backend: _Text
    scale: _Text
    laws: Annotated[list[Law], Field(min_length=1, max_length=64)]

    def nearest(self, echo: str, batch_size: float) -> Law | None:
        """The law of this echo with the nearest batch size, as a ratio; None if this echo has none."""
        return min(
            (law for law in self.laws if law.echo == echo),
            key=lambda law: abs(math.log((law.batch_size or batch_size) / batch_size)),
            default=None,
        )


def read_laws(path: Path) -> Laws:
    """Return the laws in a file that anyone may have written. Raises :class:`DataError`, naming the first field that is
    wrong."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is no law: it has more than {_MAX_BYTES:,} bytes. {_CURE}")
        return Laws.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {_CURE}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        raise DataError(f"{path} is no law: {place}: {first['msg']}. {_CURE}") from None


_CURE = f"Name a {FILE_NAME} that python train.py -m study=figure_5 has written."


@dataclass(frozen=True, kw_only=True)
class Saving:
    """The factor that minimises time to target, and how many times less time it takes than no echo. ``low`` and
    ``high``: the 90 % prediction interval of the ratio of two runs, one without echo and one with it, which differ in
    seeds: fit, repeats, and R as measured together."""

    factor: float
    estimate: float
    low: float
    high: float


def predict_saving(law: Law, time: RelativeTime, *, ratio_error: float) -> Saving:
    """The best factor up to the largest measured one, and its saving. ``ratio_error``: relative standard error of R.
    Of factors that save the same, the smaller one takes fewer steps."""
    one = np.ones(1)
    times = {factor: float((law.ratio(factor) * time(factor, one))[0]) for factor in _candidates(law.factors[-1])}
    best = min(times, key=lambda factor: (round(times[factor], 3), factor))
    return saving_at(law, best, time, ratio_error=ratio_error)


def longer_side(ratio: float) -> RelativeTime:
    """The paper's time model (section 2): both sides have resources of their own, and the longer one decides."""
    return lambda factor, scales: np.maximum(ratio * scales, factor) / np.maximum(ratio * scales, 1)


def saving_at(law: Law, factor: float, time: RelativeTime, *, ratio_error: float) -> Saving:
    """The saving with ``factor``, which must not exceed the measured ones."""
    estimate = 1 / float((law.ratio(factor) * time(factor, np.ones(1)))[0])
    if factor == 1:
        return Saving(factor=factor, estimate=estimate, low=estimate, high=estimate)
    rng = np.random.default_rng(0)
    center = np.asarray([parameter.estimate for parameter in law.parameters])
    variances, vectors = np.linalg.eigh(np.asarray(law.covariance, float))
    normal = rng.standard_normal((len(center), _NUM_DRAWS)) / _root_chi(rng, law.degrees)
    parameters = center[:, None] + vectors @ (np.sqrt(np.maximum(variances, 0))[:, None] * normal)
    scatter = math.sqrt(2) * law.lack * rng.standard_normal(_NUM_DRAWS) / _root_chi(rng, law.degrees)
    runs = math.sqrt(2) * law.spread * rng.standard_normal(_NUM_DRAWS) / _root_chi(rng, law.spread_degrees)
    scales = np.exp(ratio_error * rng.standard_normal(_NUM_DRAWS))
    logs = np.log(FORMS[law.form].value(factor, parameters)) + scatter + runs + np.log(time(factor, scales))
    low, high = np.exp(np.quantile(-logs, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Saving(factor=factor, estimate=estimate, low=float(low), high=float(high))


def _root_chi(rng: np.random.Generator, degrees: float) -> Array:
    return np.sqrt(rng.chisquare(degrees, _NUM_DRAWS) / degrees)


def _candidates(last: float) -> list[float]:
    """Factors from 1 to ``last``: in tenths, then whole numbers."""
    fine = [number / 10 for number in range(10, round(10 * _FINE) + 1)]
    return [factor for factor in [*fine, *map(float, range(int(_FINE) + 1, int(last) + 1))] if factor <= last]

"""Fits the law of a task to a study, fresh(e) / fresh(1) for each echo and batch size, and checks it on another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from dataecho.diagnose.law import CONFIDENCE, FORMS, Form, Law, Laws, Parameter, Score, longer_side, saving_at
from dataecho_study.figures import Curve, line_label
from dataecho_study.results import BATCH_SIZE, ECHO, FACTOR, NO_ECHO, Study
from dataecho_study.selection import FactorGroup, costs, costs_by_repeat, factor_groups

_LEAST_FACTORS = 4  # with fewer, a curve of two parameters and a level has nothing left to be wrong about
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Mean logarithms of the costs at each factor. ``counts``: repeats; ``variance``: of a repeat, pooled over the
    factors, with its degrees of freedom."""

    factors: Array
    logs: Array
    counts: Array
    variance: float
    degrees: float

    def without(self, place: int) -> _Points:
        """All but one factor."""
        keep = np.arange(len(self.factors)) != place
        return _Points(
            factors=self.factors[keep],
            logs=self.logs[keep],
            counts=self.counts[keep],
            variance=self.variance,
            degrees=self.degrees,
        )


def fit_laws(study: Study) -> Laws | None:
    """The laws of a study, each with the form that predicts factors best that it was not fitted to. None where no group
    of cells has four factors at which every repeat reached the target, 1 being one of them, and two repeats at one."""
    laws = [fitted for group in factor_groups(study, {}) if (fitted := _fit_group(group)) is not None]
    if not laws:
        return None
    return Laws(study=study.name, task=study.task, backend=study.backend, scale=study.scale, laws=laws)


def write_laws(path: Path, laws: Laws) -> Path:
    """Write ``law.json`` in one step; return ``path``."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(laws.model_dump_json(indent=2) + "\n")
    draft.replace(path)
    return path


def law_curves(study: Study, laws: Laws) -> dict[str, Curve]:
    """The curves of a study's own laws, by the label of their line in its picture."""
    curves: dict[str, Curve] = {}
    for group in factor_groups(study, {}):
        law = next((law for law in laws.laws if (law.echo, law.batch_size) == _about(group)), None)
        if law is not None:
            curves[line_label(group.cells[max(group.cells)], FACTOR)] = law.ratio
    return curves


def _about(group: FactorGroup) -> tuple[str, float | None]:
    """Echo and batch size, which name a law."""
    batch_size = group.axes.get(BATCH_SIZE)
    return str(group.axes.get(ECHO, NO_ECHO)), None if batch_size is None else float(batch_size)


def _fit_group(group: FactorGroup) -> Law | None:
    points = _points(group)
    if points is None:
        return None
    scores = [
        Score(form=name, left_out=_left_out(form, points), fitted=_fitted(form, points))  # type: ignore[arg-type]
        for name, form in FORMS.items()
    ]
    best = min(scores, key=lambda score: math.inf if score.left_out is None else score.left_out)
    echo, batch_size = _about(group)
    return _law(best.form, points, scores, echo=echo, batch_size=batch_size)


def _points(group: FactorGroup) -> _Points | None:
    found = {factor: np.log(costs(cell, "fresh")) for factor, cell in group.cells.items() if cell.repeats}
    found = {factor: logs for factor, logs in found.items() if np.isfinite(logs).all()}
    degrees = sum(len(logs) - 1 for logs in found.values())
    if len(found) < _LEAST_FACTORS or 1.0 not in found or degrees == 0:
        return None
    squares = sum(float(np.sum((logs - logs.mean()) ** 2)) for logs in found.values())
    return _Points(
        factors=np.asarray(list(found)),
        logs=np.asarray([logs.mean() for logs in found.values()]),
        counts=np.asarray([len(logs) for logs in found.values()], float),
        variance=squares / degrees,
        degrees=float(degrees),
    )


def _solve(form: Form, points: _Points) -> optimize.OptimizeResult:
    """Least squares on logarithms, weighted by repeats. The first unknown is the level: the cost at factor 1 is as
    uncertain as the others."""

    def residuals(unknown: Array) -> Array:
        logs = unknown[0] + np.log(form.value(points.factors, unknown[1:]))
        return np.sqrt(points.counts) * (logs - points.logs)

    return optimize.least_squares(residuals, [points.logs[0], *form.start], x_scale="jac")


def _left_out(form: Form, points: _Points) -> float | None:
    """The error at each factor above 1 when the others are fitted."""
    if len(points.factors) - 1 <= len(form.start) + 1:
        return None
    errors = []
    for place in range(1, len(points.factors)):
        unknown = _solve(form, points.without(place)).x
        errors.append(unknown[0] + np.log(form.value(points.factors[place], unknown[1:])) - points.logs[place])
    return float(np.sqrt(np.mean(np.square(errors))))


def _fitted(form: Form, points: _Points) -> float:
    residuals = _solve(form, points).fun / np.sqrt(points.counts)
    return float(np.sqrt(np.mean(np.square(residuals))))


def _law(name: str, points: _Points, scores: Sequence[Score], *, echo: str, batch_size: float | None) -> Law:
    """The fit of one form. Where the means scatter about the curve by more than the repeats explain, that scatter is
    the error of the parameters, and the excess is ``lack``."""
    form = FORMS[name]
    found = _solve(form, points)
    free = len(points.factors) - len(found.x)
    about = float(np.sum(found.fun**2)) / free if free else 0.0
    is_lacking = about > points.variance
    scale, degrees = (about, float(free)) if is_lacking else (points.variance, points.degrees + free)
    covariance = (scale * np.linalg.pinv(found.jac.T @ found.jac))[1:, 1:]
    half = special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.sqrt(np.diag(covariance))
    return Law(
        echo=echo,
        batch_size=batch_size,
        form=name,  # type: ignore[arg-type]
        parameters=[
            Parameter(name=one, estimate=float(value), low=float(value - width), high=float(value + width))
            for one, value, width in zip(form.parameters, found.x[1:], half, strict=True)
        ],
        covariance=((covariance + covariance.T) / 2).tolist(),
        degrees=degrees,
        lack=math.sqrt(max(0.0, about - points.variance) / float(points.counts.mean())),
        spread=math.sqrt(points.variance),
        spread_degrees=points.degrees,
        factors=points.factors.tolist(),
        residuals=(-found.fun / np.sqrt(points.counts)).tolist(),
        scores=list(scores),
    )


@dataclass(frozen=True, kw_only=True)
class CheckedCell:
    """Times of one factor at one R (``ratio``, as measured) against a prediction: how many times less time than without
    echo, ``low`` to ``high``, and the same of each repeat as ``measured``."""

    ratio: float
    factor: float
    low: float
    high: float
    measured: tuple[float, ...]

    @property
    def num_inside(self) -> int:
        return sum(self.low <= saving <= self.high for saving in self.measured)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Times to target of another study against the law's 90 % prediction intervals."""

    cells: tuple[CheckedCell, ...]

    @property
    def sentence(self) -> str:
        """The share inside, against the nominal one."""
        number, inside = sum(len(cell.measured) for cell in self.cells), sum(cell.num_inside for cell in self.cells)
        if not number:
            return "No measured time can be compared with the law."
        return (
            f"{inside} of {number} measured times ({inside / number:.0%}) are inside the law's {CONFIDENCE:.0%} "
            "prediction intervals."
        )


def check_law(laws: Laws, study: Study) -> Check:
    """Compare every repeat's time to target, relative to no echo in the same repeat, with the law's prediction at R as
    measured. The scatter of R over the repeats counts as its error. Repeats that missed the target with and without
    echo have no saving, and are left out."""
    cells = []
    for group in factor_groups(study, {}):
        law = laws.nearest(str(group.axes.get(ECHO)), float(group.axes.get(BATCH_SIZE, 1)))
        if law is None or group.ratio is None or 1.0 not in group.cells:
            continue
        ratios = [repeat.ratio for cell in group.cells.values() for repeat in cell.repeats if repeat.ratio]
        error = float(np.std(np.log(ratios), ddof=1)) if len(ratios) > 1 else 0.0
        for factor, cell in group.cells.items():
            if 1 < factor <= law.factors[-1]:
                found = saving_at(law, factor, longer_side(group.ratio), ratio_error=error)
                cells.append(
                    CheckedCell(
                        ratio=group.ratio,
                        factor=factor,
                        low=found.low,
                        high=found.high,
                        measured=_savings(
                            costs_by_repeat(group.cells[1.0], "seconds"), costs_by_repeat(cell, "seconds")
                        ),
                    )
                )
    return Check(cells=tuple(cells))


def _savings(without: Mapping[int, float], with_echo: Mapping[int, float]) -> tuple[float, ...]:
    both = [
        number for number in with_echo if number in without and math.isfinite(min(with_echo[number], without[number]))
    ]
    return tuple(without[number] / with_echo[number] for number in both)

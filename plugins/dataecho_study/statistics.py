"""Statistics that hold with three to eight repeats: ratios of mean costs, exact ranks, Holm, the best factor.

Costs are positive, right-skewed, and scatter in proportion to their size: their logarithms are compared, so that a
ratio is one of geometric means. Welch's t needs no equal spread. In cells with missed targets, whose costs are
infinite, and between cells without any spread, exact ranks take its place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

LEVEL = 0.05  # of a one-sided test
CONFIDENCE = 1 - 2 * LEVEL  # of an interval: its whole lies on one side of a bound when the one-sided test rejects


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio with its limits."""

    low: float
    estimate: float
    high: float


class Comparison(ABC):
    """A ratio of costs, of which only repeats are known. ``method``: how it was compared, in words."""

    method: str

    @abstractmethod
    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """The two-sided interval of the ratio."""

    @abstractmethod
    def p_below(self, bound: float) -> float:
        """The one-sided p-value of "the ratio is ``bound`` or more"; small values speak for a ratio below it."""

    @abstractmethod
    def p_above(self, bound: float) -> float:
        """The one-sided p-value of "the ratio is ``bound`` or less"."""

    def smallest_below(self, bound: float, level: float = LEVEL) -> float | None:
        """The ratio nearest to ``bound`` that these repeats, with their spread, would have shown to lie below it; None
        where no ratio would."""
        found = self.interval(1 - 2 * level)
        return _possible(bound * found.estimate / found.high if found.high else math.nan)

    def smallest_above(self, bound: float, level: float = LEVEL) -> float | None:
        """The same for a ratio above ``bound``."""
        found = self.interval(1 - 2 * level)
        return _possible(bound * found.estimate / found.low if found.low else math.nan)


@dataclass(frozen=True, kw_only=True)
class WelchComparison(Comparison):
    """Welch's t on logarithms (Welch, 1947): a contrast of means with its standard error, and Satterthwaite's degrees
    of freedom."""

    log_ratio: float
    error: float
    degrees: float
    method = "Welch t on logarithms"

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        half = special.stdtrit(self.degrees, (1 + confidence) / 2) * self.error
        low, high = math.exp(self.log_ratio - half), math.exp(self.log_ratio + half)
        return Interval(low=low, estimate=math.exp(self.log_ratio), high=high)

    def p_below(self, bound: float) -> float:
        return float(special.stdtr(self.degrees, (self.log_ratio - math.log(bound)) / self.error))

    def p_above(self, bound: float) -> float:
        return float(special.stdtr(self.degrees, (math.log(bound) - self.log_ratio) / self.error))


@dataclass(frozen=True, kw_only=True)
class RankComparison(Comparison):
    """Exact ranks (Mann and Whitney, 1947), ties included: all divisions of the pooled costs into two cells are equally
    likely. The interval orders the pairwise ratios (Hodges and Lehmann, 1963); two missed targets have an unknown
    ratio, which widens it."""

    top: tuple[float, ...]
    bottom: tuple[float, ...]
    method = "exact ranks"

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.subtract.outer(np.log(self.top), np.log(self.bottom)).ravel()
            middle = float(np.median(np.where(np.isnan(ratios), 0.0, ratios)))
        lowest = np.sort(np.where(np.isnan(ratios), -np.inf, ratios))
        highest = np.sort(np.where(np.isnan(ratios), np.inf, ratios))
        skipped = self._num_outside(confidence)
        if skipped == 0:
            return Interval(low=0.0, estimate=_exp(middle), high=math.inf)
        return Interval(low=_exp(lowest[skipped - 1]), estimate=_exp(middle), high=_exp(highest[-skipped]))

    def p_below(self, bound: float) -> float:
        return self._tail(bound, sign=1)

    def p_above(self, bound: float) -> float:
        return self._tail(bound, sign=-1)

    def _tail(self, bound: float, *, sign: int) -> float:
        pooled = sign * np.concatenate([np.asarray(self.top), bound * np.asarray(self.bottom)])
        ranks = (2 * stats.rankdata(pooled)).astype(int)
        return min(1.0, float(_rank_sums(ranks, len(self.top))[: ranks[: len(self.top)].sum() + 1].sum()))

    def _num_outside(self, confidence: float) -> int:
        """The place of the limits in the order of ratios: the largest that keeps the confidence without ties."""
        num_top, size = len(self.top), len(self.top) + len(self.bottom)
        least = num_top * (num_top + 1) // 2
        tail = np.cumsum(_rank_sums(np.arange(1, size + 1), num_top)[least:])
        return int(np.sum(tail <= (1 - confidence) / 2 + 1e-12))


@dataclass(frozen=True, kw_only=True)
class NoComparison(Comparison):
    """Too few repeats, or missed targets in a contrast of more than two cells: nothing is known, and ``method`` says
    why."""

    method: str
    estimate: float = math.nan

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        return Interval(low=0.0, estimate=self.estimate, high=math.inf)

    def p_below(self, bound: float) -> float:
        return 1.0

    def p_above(self, bound: float) -> float:
        return 1.0


def compare(top: Sequence[float], bottom: Sequence[float]) -> Comparison:
    """Compare the mean cost of one cell with another's. Costs are positive, infinite where the target was missed."""
    if min(len(top), len(bottom)) < 2:
        return _too_few([(1, top), (-1, bottom)])
    if not _is_finite(top, bottom) or not any(np.ptp(costs) > 0 for costs in (top, bottom)):
        return RankComparison(top=tuple(top), bottom=tuple(bottom))
    return contrast([(1, top), (-1, bottom)])


def contrast(terms: Sequence[tuple[float, Sequence[float]]]) -> Comparison:
    """Compare cells by the sum of (weight x mean logarithm of the costs), such as the ratio of two ratios."""
    costs = [values for _, values in terms]
    if min(map(len, costs)) < 2:
        return _too_few(terms)
    if not _is_finite(*costs):
        return NoComparison(method="no interval: targets were missed")
    parts = [weight**2 * np.var(np.log(values), ddof=1) / len(values) for weight, values in terms]
    total = float(sum(parts))
    if total == 0:
        return NoComparison(method="no interval: the repeats have no spread", estimate=_ratio_estimate(terms))
    degrees = total**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, costs, strict=True))
    return WelchComparison(log_ratio=math.log(_ratio_estimate(terms)), error=math.sqrt(total), degrees=float(degrees))


def compare_ratios(
    top: Sequence[float], top_base: Sequence[float], bottom: Sequence[float], bottom_base: Sequence[float]
) -> Comparison:
    """Compare the ratio of two cells with the ratio of two others. Where targets were missed, by exact ranks of the
    ratios within each repeat."""
    if _is_finite(top, top_base, bottom, bottom_base) or min(map(len, (top, top_base, bottom, bottom_base))) < 2:
        return contrast([(1, top), (-1, top_base), (-1, bottom), (1, bottom_base)])
    with np.errstate(invalid="ignore"):
        ratios = [
            np.divide(above[: len(below)], below[: len(above)])
            for above, below in ((np.asarray(top), np.asarray(top_base)), (np.asarray(bottom), np.asarray(bottom_base)))
        ]
    if any(np.isnan(both).any() for both in ratios):
        return NoComparison(method="no interval: both cells of a ratio missed the target in the same repeat")
    return RankComparison(top=tuple(map(float, ratios[0])), bottom=tuple(map(float, ratios[1])))


def mean_interval(costs: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The geometric mean of one cell's costs with its t interval; infinite where a target was missed, without limits
    below two repeats."""
    if len(costs) == 0 or not _is_finite(costs):
        return Interval(low=0.0, estimate=math.inf if len(costs) else math.nan, high=math.inf)
    logs = np.log(costs)
    if len(costs) < 2:
        return Interval(low=0.0, estimate=float(costs[0]), high=math.inf)
    half = special.stdtrit(len(costs) - 1, (1 + confidence) / 2) * logs.std(ddof=1) / math.sqrt(len(costs))
    low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return Interval(low=float(low), estimate=float(middle), high=float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for several tests: rejecting those at or below a level rejects any true hypothesis with at most
    this probability (Holm, 1979: closed testing with Bonferroni)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def best_factors(costs: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """The factor with the least cost in each repeat. ``costs``: by factor and number of the repeat. Only repeats that
    all factors have, and that reached the target with one of them. Of equal costs the smaller factor wins: it takes
    fewer steps."""
    common = set.intersection(*(set(by_repeat) for by_repeat in costs.values())) if costs else set()
    return {
        repeat: min(sorted(costs), key=lambda factor: costs[factor][repeat])
        for repeat in sorted(common)
        if any(math.isfinite(by_repeat[repeat]) for by_repeat in costs.values())
    }


def p_most(successes: int, trials: int) -> float:
    """The exact p-value of "at most half of the repeats do" (binomial test)."""
    return float(stats.binomtest(successes, trials, 0.5, alternative="greater").pvalue) if trials else 1.0


def p_few(successes: int, trials: int) -> float:
    """The exact p-value of "at least half of the repeats do"."""
    return float(stats.binomtest(successes, trials, 0.5, alternative="less").pvalue) if trials else 1.0


def _too_few(terms: Sequence[tuple[float, Sequence[float]]]) -> NoComparison:
    fewest = min(len(values) for _, values in terms)
    estimate = _ratio_estimate(terms) if fewest and _is_finite(*(values for _, values in terms)) else math.nan
    return NoComparison(method="no interval: it takes two repeats of each cell", estimate=estimate)


def _ratio_estimate(terms: Sequence[tuple[float, Sequence[float]]]) -> float:
    return math.exp(sum(weight * float(np.mean(np.log(values))) for weight, values in terms))


def _is_finite(*costs: Sequence[float]) -> bool:
    return all(bool(np.isfinite(values).all()) for values in costs)


def _rank_sums(ranks: np.ndarray, size: int) -> np.ndarray:
    """The probability of each sum of ``size`` of these whole ranks, all subsets being equally likely."""
    total = int(ranks.sum())
    counts = np.zeros((size + 1, total + 1))
    counts[0, 0] = 1
    for rank in ranks:
        counts[1:, rank:] = counts[1:, rank:] + counts[:-1, : total + 1 - rank]
    return counts[size] / math.comb(len(ranks), size)


def _possible(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) and ratio > 0 else None


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf

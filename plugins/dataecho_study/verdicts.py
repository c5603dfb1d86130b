"""Verdicts on claims: *shown*, *contradicted*, or *consistent*, which is neither.

A claim is taken apart into comparisons. It is shown when every comparison shows it, and contradicted when one shows the
opposite, each by a one-sided test at 5 % after Holm's correction over the comparisons of the claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import pairwise
from typing import Literal, TypeVar

from dataecho_study.claims import (
    AlwaysGains,
    AtMost,
    BestNear,
    Claim,
    Measure,
    NoLoss,
    OptimumGrows,
    Order,
    Pairs,
    Stays,
    WorseThan,
)
from dataecho_study.results import Cell, Study
from dataecho_study.selection import (
    FactorGroup,
    costs,
    costs_by_repeat,
    difference,
    factor_groups,
    pairs,
    quality,
    select,
    sequences,
)
from dataecho_study.statistics import (
    LEVEL,
    Comparison,
    Interval,
    RankComparison,
    best_factors,
    compare,
    compare_ratios,
    holm,
    p_few,
    p_most,
)

Result = Literal["shown", "consistent", "contradicted"]
M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison of a claim. ``what``: the cells; ``interval``: the ratio of their costs at 90 %, None where the
    comparison is no ratio; ``method``: how they were compared, and what stands in the way; ``p_for`` and
    ``p_against``: after Holm's correction; ``smallest``: the smallest effect that these repeats could have shown, in
    words."""

    what: str
    interval: Interval | None
    method: str
    p_for: float
    p_against: float
    smallest: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``findings`` are empty where the study has no cells to compare, or not yet."""

    claim: Claim
    result: Result
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        number = len(self.findings)
        shown = sum(found.p_for <= LEVEL for found in self.findings)
        against = sum(found.p_against <= LEVEL for found in self.findings)
        if not self.findings:
            return "Nothing to compare: the study has no such cells, or their repeats have not ended."
        if against:
            return f"{against} of {number} comparisons show the opposite, and {shown} show it."
        if shown == number:
            return f"{number} of {number} comparisons show it."
        return f"{shown} of {number} comparisons show it, and none shows the opposite."


def judge(study: Study, claims: Sequence[Claim]) -> list[Verdict]:
    """The verdicts on all claims, in their order."""
    return [_verdict(claim, _parts(claim, study)) for claim in claims]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A comparison before Holm's correction. ``smallest`` is given the level that suffices whatever the others show."""

    what: str
    interval: Interval | None
    method: str
    p_for: float
    p_against: float
    smallest: Callable[[float], str]


def _verdict(claim: Claim, parts: Sequence[_Part]) -> Verdict:
    adjusted = zip(parts, holm([one.p_for for one in parts]), holm([one.p_against for one in parts]), strict=True)
    findings = tuple(
        Finding(
            what=part.what,
            interval=part.interval,
            method=part.method,
            p_for=p_for,
            p_against=p_against,
            smallest=part.smallest(LEVEL / len(parts)),
        )
        for part, p_for, p_against in adjusted
    )
    result: Result = "consistent"
    if any(found.p_against <= LEVEL for found in findings):
        result = "contradicted"
    elif findings and all(found.p_for <= LEVEL for found in findings):
        result = "shown"
    return Verdict(claim=claim, result=result, findings=findings)


@singledispatch
def _parts(claim: Claim, study: Study) -> list[_Part]:
    raise TypeError(f"There is no verdict on {type(claim).__name__}.")


@_parts.register
def _(claim: AtMost, study: Study) -> list[_Part]:
    return [
        _below(
            difference(cell, partner), compare(costs(cell, claim.measure), costs(partner, claim.measure)), claim.margin
        )
        for cell, partner in _measured(pairs(study, claim.cells, claim.than))
    ]


@_parts.register
def _(claim: Order, study: Study) -> list[_Part]:
    side = _above if claim.direction == "rises" else _below
    return [
        side(difference(cell, before), compare(costs(cell, claim.measure), costs(before, claim.measure)), 1.0)
        for cells in sequences(select(study, claim.cells), claim.along, claim.values)
        for before, cell in _measured(_chosen_pairs(list(cells.values()), claim.pairs))
    ]


@_parts.register
def _(claim: Stays, study: Study) -> list[_Part]:
    parts = []
    for cells in sequences(select(study, claim.cells), claim.along):
        for before, cell in _measured(_chosen_pairs(list(cells.values()), claim.pairs)):
            what = difference(cell, before)
            mine, theirs = costs(cell, claim.measure), costs(before, claim.measure)
            if claim.than is None:
                parts.append(_within(what, compare(mine, theirs), claim))
                continue
            my_base, their_base = _base(study, claim, cell), _base(study, claim, before)
            if my_base is not None and their_base is not None:
                bases = (costs(my_base, claim.measure), costs(their_base, claim.measure))
                parts.append(_within(f"{what}, as ratios", compare_ratios(mine, bases[0], theirs, bases[1]), claim))
    return parts


@_parts.register
def _(claim: NoLoss, study: Study) -> list[_Part]:
    return [
        _below(
            difference(cell, partner), compare(quality(cell, study.goal), quality(partner, study.goal)), claim.margin
        )
        for cell, partner in _measured(pairs(study, claim.cells, claim.than))
    ]


@_parts.register
def _(claim: OptimumGrows, study: Study) -> list[_Part]:
    parts = []
    for ordered in sequences(factor_groups(study, claim.cells), claim.along):
        for before, after in _chosen_pairs(list(ordered.values()), claim.pairs):
            low, high = (tuple(_best(group, claim.measure).values()) for group in (before, after))
            if low and high:
                what = f"best factor {_counted(high)} ({after.label}) : {_counted(low)} ({before.label})"
                parts.append(_above(what, RankComparison(top=high, bottom=low), 1.0))
    return parts


@_parts.register
def _(claim: BestNear, study: Study) -> list[_Part]:
    groups = [group for group in factor_groups(study, claim.cells) if group.ratio is not None]
    optima = [_best(group, claim.measure) for group in groups]
    repeats = sorted(set.intersection(*map(set, optima))) if optima else []
    if not repeats:
        return []
    near = [
        all(
            1 / claim.margin <= best[repeat] / (group.ratio or 1) <= claim.margin
            for group, best in zip(groups, optima, strict=True)
        )
        for repeat in repeats
    ]
    shares = "; ".join(
        f"R = {group.ratio:.2g}: {_counted([best[repeat] for repeat in repeats])}"
        for group, best in zip(groups, optima, strict=True)
    )
    return [
        _Part(
            what=f"best factor near every R in {sum(near)} of {len(near)} repeats ({shares})",
            interval=None,
            method=f"exact binomial test; near is within {claim.margin:g} times",
            p_for=p_most(sum(near), len(near)),
            p_against=p_few(sum(near), len(near)),
            smallest=lambda level: _fewest(len(near), level),
        )
    ]


@_parts.register
def _(claim: AlwaysGains, study: Study) -> list[_Part]:
    return [
        _below(difference(cell, base), compare(costs(cell, claim.measure), costs(base, claim.measure)), 1.0)
        for group in factor_groups(study, claim.cells)
        for cell, base in _measured((group.cells[e], group.cells.get(1.0)) for e in group.up_to_ratio())
    ]


@_parts.register
def _(claim: WorseThan, study: Study) -> list[_Part]:
    return [
        _above(difference(cell, base), compare(costs(cell, claim.measure), costs(base, claim.measure)), 1.0)
        for group in factor_groups(study, claim.cells)
        for cell, base in _measured(
            (group.cells[e], group.cells.get(max(group.up_to_ratio(), default=1.0))) for e in group.above_ratio()
        )
    ]


def _below(what: str, found: Comparison, bound: float) -> _Part:
    return _Part(
        what=what,
        interval=found.interval(),
        method=found.method,
        p_for=found.p_below(bound),
        p_against=found.p_above(bound),
        smallest=lambda level: _ratio(found.smallest_below(bound, level), "a ratio of {:.3g} or less"),
    )


def _above(what: str, found: Comparison, bound: float) -> _Part:
    return _Part(
        what=what,
        interval=found.interval(),
        method=found.method,
        p_for=found.p_above(bound),
        p_against=found.p_below(bound),
        smallest=lambda level: _ratio(found.smallest_above(bound, level), "a ratio of {:.3g} or more"),
    )


def _within(what: str, found: Comparison, claim: Stays) -> _Part:
    """Two one-sided tests, of which ``direction`` may leave out one (Schuirmann, 1987)."""
    not_worse = (found.p_below(claim.margin), found.p_above(claim.margin))
    not_better = (found.p_above(1 / claim.margin), found.p_below(1 / claim.margin))
    tests = {"both": [not_worse, not_better], "not_worse": [not_worse], "not_better": [not_better]}[claim.direction]
    return _Part(
        what=what,
        interval=found.interval(),
        method=found.method,
        p_for=max(p_for for p_for, _ in tests),
        p_against=min(1.0, len(tests) * min(p_against for _, p_against in tests)),
        smallest=lambda level: _ratio(found.smallest_above(1.0, level), "no change, with a margin of {:.3g}"),
    )


def _ratio(value: float | None, words: str) -> str:
    return "nothing: too few repeats reached the target" if value is None else words.format(value)


def _fewest(number: int, level: float) -> str:
    return f"{number} of {number} repeats" if p_most(number, number) <= level else "nothing: too few repeats"


def _chosen_pairs(members: Sequence[M], which: Pairs) -> list[tuple[M, M]]:
    return list(pairwise(members)) if which == "neighbours" else list(zip(members[:1], members[1:][-1:], strict=False))


def _measured(found: Iterable[tuple[Cell, Cell | None]]) -> list[tuple[Cell, Cell]]:
    """Pairs of which both cells have repeats."""
    return [(cell, other) for cell, other in found if other is not None and cell.repeats and other.repeats]


def _base(study: Study, claim: Stays, cell: Cell) -> Cell | None:
    """The cell to whose cost that of ``cell`` is a ratio."""
    found = _measured(pairs(study, claim.cells, claim.than or {}))
    same = [base for one, base in found if one is cell and base.axes.get(claim.along) == cell.axes.get(claim.along)]
    return same[0] if same else None


def _best(group: FactorGroup, measure: Measure) -> dict[int, float]:
    return best_factors({factor: costs_by_repeat(cell, measure) for factor, cell in group.cells.items()})


def _counted(factors: Iterable[float]) -> str:
    """``4 (3x), 8 (2x)``."""
    return ", ".join(f"{factor:g} ({number}x)" for factor, number in sorted(Counter(factors).items()))

"""Each kind of claim, on data made to show it, to leave it open, and to contradict it."""

import math

import numpy as np
import pytest

from dataecho_study.claims import read_claims
from dataecho_study.results import Study
from dataecho_study.verdicts import judge
from tests.study.made import SCATTER, cell, repeat, study

INF = math.inf
WIDE = (0.5, 0.7, 1.0, 1.4, 2.0)


def verdict(found: Study, **claim):
    return judge(found, read_claims([{"text": "a claim", **claim}]))[0]


def by_echo(none, batch, before, scatter=SCATTER):
    return study(
        cell(none, scatter, echo="none", factor=1.0),
        cell(batch, scatter, echo="batch", factor=2.0),
        cell(before, scatter, echo="before_augmentation", factor=2.0),
    )


def by_factor(batch_size, costs, scatter=SCATTER, **changes):
    factors = {1.0: "none"}
    return [
        cell(cost, scatter, echo=factors.get(e, "example"), factor=e, batch_size=batch_size, **changes)
        for e, cost in costs.items()
    ]


AT_MOST = {"kind": "at_most", "cells": {"echo": ["batch", "before_augmentation"]}, "than": {"echo": "none"}}
ORDER = {
    "kind": "order",
    "along": "echo",
    "values": ["before_augmentation", "after_augmentation", "batch"],
    "cells": {"factor": 2.0},
}


@pytest.mark.parametrize(
    ("found", "result"),
    [
        (by_echo(1000, 700, 600), "shown"),
        (by_echo(1000, 990, 600), "consistent"),
        (by_echo(1000, 1010, 600), "consistent"),
        (by_echo(1000, 1300, 600), "contradicted"),
        (by_echo(1000, 700, 600, WIDE), "consistent"),
    ],
)
def test_at_most(found, result):
    assert verdict(found, **AT_MOST).result == result


def test_a_margin_counts_as_the_bound():
    found = by_echo(1000, 1010, 600)

    assert verdict(found, **AT_MOST, margin=1.2).result == "shown"
    assert verdict(found, **AT_MOST, margin=0.8).result == "contradicted"


@pytest.mark.parametrize(
    ("found", "result"),
    [
        (by_echo(1000, 800, 600), "shown"),
        (by_echo(1000, 610, 600), "consistent"),
        (by_echo(1000, 600, 800), "contradicted"),
    ],
)
def test_order_along_values_of_which_the_study_has_some(found, result):
    assert verdict(found, **ORDER).result == result


def test_order_along_numbers_falls():
    found = study(
        *(cell(cost, echo="batch", factor=2.0, shuffle_buffer=b) for b, cost in ((9, 700), (1, 900), (3, 800)))
    )
    falls = {"kind": "order", "cells": {"echo": "batch"}, "along": "shuffle_buffer"}

    assert verdict(found, **falls, direction="falls").result == "shown"
    assert [one.what for one in verdict(found, **falls, direction="falls").findings] == [
        "shuffle_buffer=3 : shuffle_buffer=1",
        "shuffle_buffer=9 : shuffle_buffer=3",
    ]
    assert verdict(found, **falls).result == "contradicted"
    assert len(verdict(found, **falls, pairs="ends").findings) == 1


STAYS = {"kind": "stays", "cells": {"echo": "none"}, "along": "shuffle_buffer", "margin": 1.2}


@pytest.mark.parametrize(
    ("second", "direction", "result"),
    [
        (1010, "both", "shown"),
        (1150, "both", "consistent"),
        (1500, "both", "contradicted"),
        (600, "both", "contradicted"),
        (600, "not_worse", "shown"),
        (600, "not_better", "contradicted"),
        (1500, "not_better", "shown"),
        (1500, "not_worse", "contradicted"),
    ],
)
def test_stays_only_if_the_whole_interval_is_inside_the_margin(second, direction, result):
    found = study(
        cell(1000, echo="none", factor=1.0, shuffle_buffer=1), cell(second, echo="none", factor=1.0, shuffle_buffer=3)
    )

    assert verdict(found, **STAYS, direction=direction).result == result


@pytest.mark.parametrize(("last", "result"), [(1200, "shown"), (1900, "consistent"), (2800, "contradicted")])
def test_a_ratio_to_none_stays_though_both_costs_change(last, result):
    found = study(
        *(cell(cost, echo="none", factor=1.0, batch_size=b) for b, cost in ((64, 1000), (256, 2000))),
        *(cell(cost, echo="batch", factor=2.0, batch_size=b) for b, cost in ((64, 900), (256, last))),
    )
    claim = {"kind": "stays", "cells": {"echo": "batch"}, "than": {"echo": "none"}, "along": "batch_size"}

    stays = verdict(found, **claim, direction="not_worse", margin=1.1)

    assert stays.result == result
    assert stays.findings[0].interval.estimate == pytest.approx(last / 2000 / 0.9)


@pytest.mark.parametrize(("goal", "sign"), [("max", 1), ("min", -1)])
@pytest.mark.parametrize(
    ("gain", "spread", "result"),
    [(1.0, 0.001, "shown"), (1.1, 0.001, "shown"), (0.99, 0.02, "consistent"), (0.9, 0.001, "contradicted")],
)
def test_no_loss(goal, sign, gain, spread, result):
    def quality(level, **axes):
        made = cell(1000, **axes)
        repeats = [repeat(number, best=0.8 * level**sign * math.exp(spread * (number - 2))) for number in range(5)]
        return type(made)(key=made.key, axes=axes, repeats=repeats)

    found = study(quality(1, echo="none", factor=1.0), quality(gain, echo="batch", factor=4.0), goal=goal)

    claim = {"kind": "no_loss", "cells": {"echo": ["batch"]}, "than": {"echo": "none"}, "margin": 1.02}
    assert verdict(found, **claim).result == result


def at_optimum(batch_size, optima):
    """Cells of three factors, of which repeat n is best with the n-th of ``optima``."""
    costs = {e: [1000 / (2 if e == best else 1) for best in optima] for e in (1.0, 2.0, 4.0)}
    return by_factor(batch_size, costs)


@pytest.mark.parametrize(
    ("small", "large", "result"),
    [
        ((2.0,) * 5, (4.0,) * 5, "shown"),
        ((2.0, 2.0, 4.0, 4.0, 4.0), (4.0,) * 5, "consistent"),
        ((4.0,) * 5, (2.0,) * 5, "contradicted"),
        ((2.0,) * 2, (4.0,) * 2, "consistent"),
    ],
)
def test_the_optimum_grows_by_the_distribution_of_the_argmin(small, large, result):
    found = study(*at_optimum(64, small), *at_optimum(256, large))

    assert verdict(found, kind="optimum_grows").result == result


def timed(ratio, seconds, scatter=SCATTER, measured=None):
    """Cells of one R, by the seconds of each factor."""
    return [
        cell(
            [100 * value * one for one in scatter],
            changes={"ratio": measured or ratio},
            echo="none" if e == 1 else "example",
            factor=e,
            throttle_ratio=ratio,
        )
        for e, value in seconds.items()
    ]


GOOD = {1.0: 10, 2.0: 6, 4.0: 4, 8.0: 7}


def test_best_near_takes_every_ratio_in_most_repeats():
    near = study(*timed(4.0, GOOD), *timed(2.0, {1.0: 10, 2.0: 6, 4.0: 8, 8.0: 9}))
    far = study(*timed(4.0, GOOD), *timed(1.0, GOOD))
    few = study(*timed(4.0, GOOD, SCATTER[:3]))

    assert verdict(near, kind="best_near", margin=1.5).result == "shown"
    assert verdict(far, kind="best_near", margin=1.5).result == "contradicted"
    assert verdict(few, kind="best_near", margin=1.5).result == "consistent"
    assert verdict(few, kind="best_near", margin=1.5).findings[0].smallest == "nothing: too few repeats"


@pytest.mark.parametrize(
    ("seconds", "result"),
    [
        (GOOD, "shown"),
        ({1.0: 10, 2.0: 9.9, 4.0: 4, 8.0: 7}, "consistent"),
        ({1.0: 10, 2.0: 6, 4.0: 12, 8.0: 7}, "contradicted"),
    ],
)
def test_factors_up_to_the_ratio_as_measured_gain(seconds, result):
    # 4 counts as at most R though R as measured is a little smaller.
    found = verdict(study(*timed(4.0, seconds, measured=3.8)), kind="always_gains")

    assert found.result == result
    assert [one.what.split(" : ")[0] for one in found.findings] == ["echo=example factor=2", "echo=example factor=4"]


@pytest.mark.parametrize(("last", "result"), [(7, "shown"), (4.1, "consistent"), (3, "contradicted")])
def test_factors_above_the_ratio_are_worse_than_the_ratio(last, result):
    found = verdict(study(*timed(4.0, {**GOOD, 8.0: last})), kind="worse_than")

    assert found.result == result
    assert [one.what for one in found.findings] == ["factor=8 : factor=4 (throttle_ratio=4)"]


def test_comparisons_of_one_claim_are_corrected_for_their_number():
    # Alone, the first comparison shows it at 4 %; beside a second one it would have to at 2.5 %.
    slight = study(cell(1000, echo="none", factor=1.0), cell(935, echo="batch", factor=2.0))
    beside = study(*slight.cells, cell(1000, echo="before_augmentation", factor=2.0))

    alone, corrected = verdict(slight, **AT_MOST), verdict(beside, **AT_MOST)

    assert alone.result == "shown"
    assert corrected.findings[0].p_for == pytest.approx(2 * alone.findings[0].p_for)
    assert corrected.result == "consistent"


def test_missed_targets_are_compared_by_exact_ranks_which_the_finding_says():
    found = verdict(
        study(cell([1000, 1100, INF, INF, INF], echo="none", factor=1.0), cell(500, echo="batch", factor=2.0)),
        **AT_MOST,
    )

    assert found.result == "shown"
    assert found.findings[0].method == "exact ranks"
    assert found.findings[0].p_for == pytest.approx(1 / 252)


def test_the_smallest_effect_is_told_in_words():
    found = verdict(by_echo(1000, 990, 600), **AT_MOST).findings[0]
    lone = verdict(study(cell([9.0], echo="none", factor=1.0), cell([4.0], echo="batch", factor=2.0)), **AT_MOST)

    error = math.sqrt(2 / 5) * np.log(SCATTER).std(ddof=1)
    assert (
        found.smallest == f"a ratio of {math.exp(-2.306 * error):.3f} or less"
    )  # t of 8 degrees at 5 % / 2 comparisons
    assert lone.findings[0].smallest == "nothing: too few repeats reached the target"
    assert lone.result == "consistent"


def test_a_claim_without_cells_is_not_dropped():
    found = verdict(study(cell(1000, echo="none", factor=1.0), cell([], echo="batch", factor=2.0)), **AT_MOST)

    assert (found.result, found.findings) == ("consistent", ())
    assert found.reason.startswith("Nothing to compare")


def test_the_reason_counts():
    assert verdict(by_echo(1000, 1300, 600), **AT_MOST).reason == (
        "1 of 2 comparisons show the opposite, and 1 show it."
    )

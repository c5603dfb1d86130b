"""The law on data of known truth, on the paper's own curves, and where it was not fitted."""

import math

import numpy as np
import pytest

from dataecho.diagnose.law import FORMS, longer_side, read_laws, saving_at
from dataecho_study.law import check_law, fit_laws, law_curves, write_laws
from dataecho_study.paper import FIGURES
from tests.study.made import SCATTER, cell, study

FACTORS = (1, 2, 3, 4, 6, 8, 12, 16)
SMALL = tuple(1 + (one - 1) / 1000 for one in SCATTER)  # repeats that hardly differ


def curve(ratios, scatter=SMALL, **axes):
    """A study with these ratios by factor."""
    cells = [
        cell(1e4 * ratio, scatter, echo="none" if e == 1 else "example", factor=float(e), **axes)
        for e, ratio in ratios.items()
    ]
    return study(*cells, name="figure_5")


def drawn(form, parameters, rng, *, spread=0.1, num_repeats=5):
    ratios = FORMS[form].value(FACTORS, parameters)
    cells = [
        cell(
            list(1e4 * ratio * np.exp(spread * rng.standard_normal(num_repeats))),
            echo="none" if e == 1 else "example",
            factor=float(e),
        )
        for e, ratio in zip(FACTORS, ratios, strict=True)
    ]
    return study(*cells, name="figure_5")


def scores(found):
    return {score.form: score for score in found.laws[0].scores}


@pytest.mark.parametrize(
    ("form", "parameters"), [("share", (0.15, 0.012)), ("decay", (0.2,)), ("root", (0.08,)), ("linear", (0.01,))]
)
def test_a_curve_without_noise_gives_its_form_and_parameters_back(form, parameters):
    ratios = dict(zip(FACTORS, FORMS[form].value(FACTORS, parameters), strict=True))

    law = fit_laws(curve(ratios)).laws[0]

    # `share` has `linear` in it.
    assert law.form == form or (form, law.form) == ("linear", "share")
    assert scores(fit_laws(curve(ratios)))[form].left_out < 1e-4
    if law.form == form:
        assert [one.estimate for one in law.parameters] == pytest.approx(parameters, rel=1e-3)
        assert all(one.low < one.estimate < one.high for one in law.parameters)
    assert np.abs(law.residuals).max() < 1e-4
    assert law.factors == list(FACTORS)


@pytest.mark.parametrize("form", ["root", "decay"])
def test_intervals_cover_the_truth_and_predictions_cover_new_runs(form):
    rng = np.random.default_rng(1)
    (truth,) = (0.1,) if form == "root" else (0.2,)
    inside, predicted = [], []
    for _ in range(60):
        law = fit_laws(drawn(form, (truth,), rng)).laws[0]
        if law.form == form:
            inside.append(law.parameters[0].low < truth < law.parameters[0].high)
        without, with_echo = 0.1 * rng.standard_normal(2)
        found = saving_at(law, 6.0, longer_side(8.0), ratio_error=0.0)
        predicted.append(found.low < math.exp(without - with_echo) / FORMS[form].value(6.0, (truth,)) < found.high)

    assert len(inside) > 30
    assert np.mean(inside) > 0.8
    assert 0.8 < np.mean(predicted) <= 1.0


def test_the_spread_of_a_repeat_and_the_lack_of_the_curve_are_told_apart():
    plain = curve({e: FORMS["root"].value(e, (0.1,)) for e in FACTORS}, SCATTER)
    bent = curve({e: FORMS["root"].value(e, (0.1,)) * (1.2 if e in (3, 8) else 1) for e in FACTORS}, SMALL)

    spread, lack = fit_laws(plain).laws[0], fit_laws(bent).laws[0]

    assert spread.spread == pytest.approx(np.log(SCATTER).std(ddof=1), rel=1e-6)
    assert spread.lack == 0
    assert spread.degrees > 30
    assert lack.lack > 0.05
    assert lack.degrees < 8


@pytest.mark.parametrize(("batch", "share", "decay"), [("1024", 0.072, 0.115), ("4096", 0.029, 0.055)])
def test_the_papers_curves_of_lm1b(batch, share, decay):
    found = scores(fit_laws(curve(FIGURES["figure_5"]["lm1b_transformer"][f"batch_size={batch}"])))

    assert found["share"].fitted == pytest.approx(share, abs=0.001)
    assert found["decay"].fitted == pytest.approx(decay, abs=0.001)
    # One parameter, and a smaller error at factors that it was not fitted to than both.
    assert found["root"].left_out < min(found["share"].left_out, found["decay"].left_out)


def test_only_groups_that_can_be_fitted_have_a_law():
    ratios = {e: FORMS["root"].value(e, (0.1,)) for e in FACTORS}
    few = curve({e: ratios[e] for e in (1, 2, 3)})
    without_one = curve({e: ratios[e] for e in (2, 3, 4, 6)})
    single = curve(ratios, (1.0,))
    missed = study(*curve(ratios).cells[:7], cell([1e3, math.inf], echo="example", factor=16.0))

    assert fit_laws(few) is fit_laws(without_one) is fit_laws(single) is None
    assert fit_laws(missed).laws[0].factors == list(FACTORS[:7])


def test_each_batch_size_has_a_law_whose_curve_stands_at_its_line(tmp_path):
    ratios = {e: FORMS["root"].value(e, (0.1,)) for e in FACTORS}
    both = study(*curve(ratios, batch_size=64.0).cells, *curve(ratios, batch_size=256.0).cells)

    laws = fit_laws(both)

    assert [(law.echo, law.batch_size) for law in laws.laws] == [("example", 64), ("example", 256)]
    assert list(law_curves(both, laws)) == ["echo=example batch_size=64", "echo=example batch_size=256"]
    assert read_laws(write_laws(tmp_path / "law.json", laws)) == laws


def timed(ratio, times):
    """Cells of one R with the time of each factor."""
    return [
        cell(
            [100 * time * one for one in SCATTER],
            changes={"ratio": ratio},
            echo="none" if e == 1 else "example",
            factor=float(e),
            throttle_ratio=ratio,
        )
        for e, time in times.items()
    ]


def test_the_check_counts_measured_times_inside_the_intervals():
    ratios = {e: float(FORMS["root"].value(e, (0.1,))) for e in FACTORS}
    laws = fit_laws(curve(ratios, SCATTER))

    agrees = check_law(laws, study(*timed(4.0, {1: 4.0, 4: 4.0 * ratios[4], 8: 8.0 * ratios[8], 32: 9.0})))
    differs = check_law(laws, study(*timed(4.0, {1: 4.0, 4: 8.0 * ratios[4]})))

    assert [(one.ratio, one.factor) for one in agrees.cells] == [(pytest.approx(4), 4), (pytest.approx(4), 8)]
    assert agrees.sentence == "10 of 10 measured times (100%) are inside the law's 90% prediction intervals."
    assert differs.sentence == "0 of 5 measured times (0%) are inside the law's 90% prediction intervals."
    assert check_law(laws, study()).sentence == "No measured time can be compared with the law."

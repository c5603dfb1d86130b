"""Laws are read from files that anyone may have written, and predict savings with intervals."""

import json
import math

import numpy as np
import pytest

from dataecho.diagnose.law import FORMS, Law, Laws, longer_side, predict_saving, read_laws, saving_at
from dataecho.errors import DataError

LAW = {
    "echo": "before_augmentation",
    "batch_size": 64.0,
    "form": "share",
    "parameters": [
        {"name": "s", "estimate": 0.1, "low": 0.08, "high": 0.12},
        {"name": "c", "estimate": 0.01, "low": 0.0, "high": 0.02},
    ],
    "covariance": [[1e-4, 0.0], [0.0, 1e-6]],
    "degrees": 30.0,
    "lack": 0.0,
    "spread": 0.0,
    "spread_degrees": 30.0,
    "factors": [1.0, 2.0, 4.0, 8.0],
    "residuals": [0.0, 0.01, -0.01, 0.0],
    "scores": [{"form": "share", "left_out": 0.02, "fitted": 0.01}],
}
LAWS = {"format": 1, "study": "figure_5", "task": "digits", "backend": "torch", "scale": "full", "laws": [LAW]}


def law(**changes):
    return Law(**{**LAW, **changes})


def exact(**changes):
    return law(covariance=[[0.0, 0.0], [0.0, 0.0]], **changes)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_1_without_echo_and_1_over_the_factor_where_repeats_do_no_harm(name):
    form = FORMS[name]
    factors = np.array([1.0, 1.5, 2.0, 16.0])

    assert form.value(factors, [0.0] * len(form.start)) == pytest.approx(1 / factors)
    assert form.value(1.0, form.start) == pytest.approx(1)
    assert len(form.start) == len(form.parameters)


def test_forms_by_hand():
    assert FORMS["share"].value(4.0, [0.2, 0.01]) == pytest.approx(0.2 + 0.2 + 0.03)
    assert FORMS["root"].value(4.0, [0.1]) == pytest.approx(0.25 + 0.1)
    assert FORMS["linear"].value(4.0, [0.1]) == pytest.approx(0.25 + 0.3)
    # R* = 5 with 3 repeats.
    assert FORMS["decay"].value(4.0, [0.2]) == pytest.approx(1 / (1 + 5 * (1 - math.exp(-3 / 5))))


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "law.json"
    path.write_text(Laws(**LAWS).model_dump_json())

    assert read_laws(path) == Laws(**LAWS)


def change(**changes):
    return {**LAWS, "laws": [{**LAW, **changes}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("<html>", "the text: Invalid JSON"),
        ({**LAWS, "format": 2}, "format: Input should be 1"),
        ({**LAWS, "laws": []}, "laws: List should have at least 1 item"),
        ({**LAWS, "surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({**LAWS, "task": "\u001b[2J"}, "task: String should match pattern"),
        ({**LAWS, "task": "d" * 301}, "task: String should have at most 300"),
        (change(form="magic"), "laws.0.form: Input should be 'share'"),
        (change(form="root"), "laws.0: Value error, the parameters of form root are c"),
        (change(covariance=[[1.0]]), "laws.0: Value error, covariance is no symmetric matrix"),
        (change(covariance=[[1.0, 0.0], [0.5, 1.0]]), "laws.0: Value error, covariance is no symmetric matrix"),
        (change(covariance=[[1.0, 2.0], [2.0, 1.0]]), "laws.0: Value error, covariance has a negative variance"),
        (change(factors=[1.0, 4.0, 2.0, 8.0]), "laws.0: Value error, factors do not rise from 1"),
        (change(factors=[2.0, 4.0, 8.0, 9.0]), "laws.0: Value error, factors do not rise from 1"),
        (change(factors=[1.0, 2.0, 4.0, 1e9]), "laws.0.factors.3: Input should be less than or equal to 10000"),
        (change(residuals=[0.0, 0.0, 0.0]), "laws.0: Value error, there is not one residual"),
        (change(spread=-1.0), "laws.0.spread: Input should be greater than or equal to 0"),
        (change(degrees=0.0), "laws.0.degrees: Input should be greater than 0"),
        (json.dumps(change(spread=9.5)).replace("9.5", "NaN"), "laws.0.spread: Input should be a finite number"),
    ],
)
def test_a_damaged_file_is_refused_by_the_name_of_its_field(tmp_path, content, problem):
    path = tmp_path / "law.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(DataError, match=f"is no law: {problem}.*study=figure_5"):
        read_laws(path)


def test_a_file_that_is_too_long_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "long").write_text(" " * 1_000_001)

    with pytest.raises(DataError, match="it has more than 1,000,000 bytes"):
        read_laws(tmp_path / "long")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_laws(tmp_path / "none")


def test_beyond_the_measured_factors_nothing_is_known():
    assert np.isnan(law().ratio([8.1, 16.0])).all()
    assert predict_saving(law(), longer_side(100.0), ratio_error=0.0).factor == 8


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (0.5, 1.0),  # every step costs its full time
        (3.0, 3.0),  # e > R: 0.13 + 0.3 / e falls more slowly than 1 / e
        (5.0, 5.0),
        (50.0, 8.0),
    ],
)
def test_the_best_factor_is_the_last_free_one_or_where_the_curve_turns(ratio, factor):
    found = predict_saving(exact(), longer_side(ratio), ratio_error=0.0)

    assert found.factor == factor
    assert found.estimate == pytest.approx(1 / float(law().ratio(factor)))


def test_a_curve_that_turns_up_has_its_own_best_factor():
    harm = [{"name": "c", "estimate": 1 / 9, "low": 0.0, "high": 1.0}]
    harmful = law(form="linear", parameters=harm, covariance=[[0.0]])  # 1 / e + (e - 1) / 9 is least at e = 3

    assert predict_saving(harmful, longer_side(8.0), ratio_error=0.0).factor == pytest.approx(3.0, abs=0.15)


def test_an_interval_has_the_scatter_of_two_runs_of_the_fit_and_of_r():
    z = 1.645
    many = {"degrees": 1e9, "spread_degrees": 1e9}
    time = longer_side(4.0)
    truth = 1 / float(law().ratio(4))

    def width(one, error=0.0):
        found = saving_at(one, 4.0, time, ratio_error=error)
        assert found.low < truth < found.high
        return math.log(found.high / found.low) / 2 / z

    assert width(exact(**many, spread=0.1)) == pytest.approx(0.1 * math.sqrt(2), rel=0.03)
    assert width(exact(**many, lack=0.1)) == pytest.approx(0.1 * math.sqrt(2), rel=0.03)  # off the curve at 1 and at e
    # d log f / ds = (1 - 1 / e) / f, d log f / dc = (e - 1) / f
    by_fit = math.hypot(0.75 * 0.01, 3 * 0.001) * truth
    assert width(law(**many)) == pytest.approx(by_fit, rel=0.03)
    # With R = 4 and e = 4 an error of R can only cost: half of the draws are the shorter ones.
    shorter = saving_at(exact(**many), 4.0, time, ratio_error=0.1)
    assert shorter.high == pytest.approx(truth)
    assert math.log(truth / shorter.low) == pytest.approx(0.1 * z, rel=0.03)


def test_without_echo_nothing_is_uncertain():
    found = saving_at(law(spread=0.5), 1.0, longer_side(4.0), ratio_error=0.5)

    assert (found.low, found.estimate, found.high) == (1, 1, 1)


def test_the_nearest_batch_size_is_nearest_as_a_ratio():
    laws = Laws(**{**LAWS, "laws": [{**LAW, "batch_size": size} for size in (16.0, 256.0)]})

    assert laws.nearest("before_augmentation", 63).batch_size == 16
    assert laws.nearest("before_augmentation", 65).batch_size == 256
    assert laws.nearest("batch", 64) is None

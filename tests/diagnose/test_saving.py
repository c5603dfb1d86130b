"""The law of a task, applied to what was measured here."""

import json

import numpy as np
import pytest

from dataecho.diagnose.advice import diagnose, predict, relative_time
from dataecho.diagnose.law import Laws
from dataecho.diagnose.measurements import relative_error
from dataecho.diagnose.output import write_json
from dataecho.diagnose.saving import expect
from dataecho.errors import SettingError
from dataecho.modes import run_mode
from tests.diagnose.test_advice import SLOW_READ, measured, side
from tests.diagnose.test_law import LAW, LAWS
from tests.support import config


def laws(**changes):
    return Laws(**{**LAWS, "laws": [{**LAW, **changes}]})


def test_the_sentence_has_r_factor_saving_and_the_condition():
    found = expect(SLOW_READ, diagnose(SLOW_READ), laws())

    # echo=before_augmentation is after decode: R = 5, and workers augment: 5 + e seconds.
    assert found.after == "decode"
    assert found.sentence == (
        f"R = 5 here: echo=before_augmentation factor={found.saving.factor:g}, {found.saving.low:.2g} to "
        f"{found.saving.high:.2g} times less time to target (expected {found.saving.estimate:.2g}; 90% interval for "
        "one run), if this task behaves like digits at batch 64."
    )
    assert found.saving.low < found.saving.estimate < found.saving.high


def test_the_factor_minimises_the_time_of_this_machine():
    found = expect(SLOW_READ, diagnose(SLOW_READ), laws()).saving
    by_hand = {
        e: float(laws().laws[0].ratio(e)) * predict(SLOW_READ, "decode", e) / predict(SLOW_READ, "decode", 1)
        for e in (1, 2, 3, 4, 5, 6, 7, 8)
    }

    assert 1 / found.estimate == pytest.approx(min(by_hand.values()), rel=2e-3)


def test_relative_time_scales_the_upstream_side():
    time = relative_time(SLOW_READ, "device")  # 6 seconds of the workers and 0.5 of the loop, then 0.5 a step

    assert time(1, np.array([1.0, 2.0])) == pytest.approx([1, 1])
    assert time(24, np.array([1.0, 2.0])) == pytest.approx([12.5 / 6, 13 / 12])


def test_where_steps_are_the_bottleneck_no_factor_saves():
    slow_step = measured(alone=side(read=1, step=5))

    assert expect(slow_step, diagnose(slow_step), laws()).sentence == (
        "R = 0.1 here: no factor saves time, if this task behaves like digits at batch 64."
    )


def test_a_law_of_an_echo_that_the_task_lacks_predicts_nothing():
    found = expect(SLOW_READ, diagnose(SLOW_READ), laws(echo="example"))

    assert (found.after, found.saving) == (None, None)
    assert "it knows echo=example, which this task does not have" in found.sentence


def test_the_json_has_the_expectation(tmp_path):
    found = expect(SLOW_READ, diagnose(SLOW_READ), laws())
    path = write_json(tmp_path, SLOW_READ, diagnose(SLOW_READ), [], {}, expected=found)

    assert json.loads(path.read_text())["expected"]["saving"]["factor"] == found.saving.factor


def test_the_error_of_a_mean_comes_from_blocks():
    bursts = [1.0, 3.0] * 40  # block means are all 2

    assert relative_error(bursts) == 0
    assert relative_error([1.0, 3.0]) == pytest.approx(0.5)
    assert relative_error([5.0]) == relative_error([]) == relative_error([0.0, 0.0]) == 0


def test_a_law_that_cannot_be_used_is_refused_before_anything_is_measured(tmp_path):
    broken = tmp_path / "law.json"
    broken.write_text("{}")

    with pytest.raises(
        SettingError, match="^law=.*law.json cannot be used. Allowed: a law.json of a study. .*Field required"
    ):
        run_mode(config("mode=diagnose", f"law={broken}"), folder=tmp_path / "run", project=tmp_path)
    with pytest.raises(SettingError, match="law=x.json cannot be used. Allowed: nothing with mode=train"):
        run_mode(config("law=x.json"), folder=tmp_path / "run", project=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_diagnosis_prints_what_the_law_expects(tmp_path, capsys):
    path = tmp_path / "law.json"
    path.write_text(laws().model_dump_json())
    settings = ("mode=diagnose", f"law={path}", "diagnose.seconds=1", "pipeline.throttle.examples_per_second=500")

    run_mode(config(*settings, "accelerator=cpu", "display=none"), folder=tmp_path / "run", project=tmp_path)

    printed = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "run" / "diagnose.json").read_text())["expected"]
    assert found["sentence"].endswith("if this task behaves like digits at batch 64.")
    assert found["sentence"] in printed
    assert found["saving"]["low"] <= found["saving"]["estimate"] <= found["saving"]["high"]

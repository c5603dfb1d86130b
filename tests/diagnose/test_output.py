"""What a person and a program get to see."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dataecho.diagnose.advice import diagnose
from dataecho.diagnose.output import emulation, milliseconds, print_tables, write_json
from dataecho.diagnose.picture import draw
from dataecho.diagnose.progress import showing
from tests.diagnose.test_advice import FETCHED, SLOW_READ, STAGES, measured, side

EMULATED = replace(FETCHED, emulated={"bytes_per_second": 740000.0, "latency": 0.1})


def printed(what, fixes=()):
    out = io.StringIO()
    print_tables(what, diagnose(what), fixes, files=(), console=Console(file=out, width=160))
    return out.getvalue()


def test_the_tables_have_every_stage_and_every_echo_point():
    text = printed(SLOW_READ, fixes=["more threads"])
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines if line and line[0] in (*STAGES, "step")] == [*STAGES, "step", *STAGES]
    assert ["crop", "(random)", "500", "500", "2", "threads"] in lines
    assert ["step", "500", "500", "the", "training", "loop"] in lines
    # t_up, t_down, R, R alone, free to, then for factors of 1, 2, 4, 8, 16
    assert ["crop", "5500", "1000", "5.50", "5.50", "5.5", "6000", "6500", "7500", "9500", "16000"] in lines
    assert max(len(line) for line in text[: text.index("Training waits")].splitlines() if "Wall" not in line) <= 80
    assert "Try first: more threads" in text
    assert "Advised, with the same settings: echo=before_augmentation factor=5\n" in text
    assert "emulated" not in text


def test_where_echoing_does_not_help_nothing_is_advised():
    text = printed(measured(alone=side(read=1, step=5)))
    assert "Echoing will not save time here" in text and "Advised" not in text


def test_an_emulated_source_is_named_in_every_output(tmp_path):
    told = "The slow source is emulated: pipeline.throttle with bytes_per_second=740000, latency=0.1."
    assert emulation(EMULATED) == told
    assert told in printed(EMULATED)
    path = write_json(tmp_path, EMULATED, diagnose(EMULATED), [], {"task": "t"})
    assert json.loads(path.read_text())["emulated_source"] == {"bytes_per_second": 740000.0, "latency": 0.1}
    plain = draw(tmp_path, FETCHED, diagnose(FETCHED), title="t").read_bytes()
    assert draw(tmp_path, EMULATED, diagnose(EMULATED), title="t").read_bytes() != plain


def test_the_json_has_everything_and_no_infinity(tmp_path):
    what = measured(alone=side(read=2))  # a step that takes no time
    path = write_json(tmp_path, what, diagnose(what), ["a fix"], {"task": "t"})
    found = json.loads(path.read_text())
    assert [item.name for item in tmp_path.iterdir()] == ["diagnose.json"]
    assert [point["ratio"] for point in found["echo_points"]] == [None] * 5
    assert found["factors"] == list(range(1, 17)) and len(found["echo_points"][0]["predicted"]) == 16
    assert (found["task"], found["cheap_fixes"], found["emulated_source"]) == ("t", ["a fix"], None)
    assert found["measured"]["alone"]["worker_seconds"]["read"] == 2 and found["measured"]["random_stages"] == ["crop"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0001234, "0.123"), (0.001234, "1.23"), (0.01234, "12.3"), (1.234, "1234")]
)
def test_times_have_three_digits(seconds, shown):
    assert milliseconds(seconds) == shown


@pytest.mark.parametrize("kind", ["plain", "auto"])
def test_progress_is_a_line_for_everything_that_is_measured(kind, capsys):
    with showing(kind) as show:
        for part, share in (("first batch", 0.0), ("step", 0.1), ("step", 0.2), ("both", 0.5)):
            show(part, share)
    lines = ["  0%  waiting for the first batch", " 10%  the step alone", " 50%  both together"]
    assert capsys.readouterr().out.splitlines() == lines


def test_progress_is_not_shown_where_nobody_wants_it(capsys):
    with showing("none") as show:
        show("step", 0.1)
    assert capsys.readouterr().out == ""


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    with showing("rich") as show:
        show("step", 0.1)
    assert "the step alone" in capsys.readouterr().out

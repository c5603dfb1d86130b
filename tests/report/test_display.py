"""What a person sees while a run trains."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from dataecho.report import display as module
from dataecho.report.display import PlainDisplay, RichDisplay
from dataecho.training.contracts import Progress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def progress(fresh, **changes):
    values = {
        "steps": fresh // 4,
        "spent_fraction": 0.5,
        "train_loss": 0.25,
        "metric": 0.5,
        "input_wait_fraction": 0.75,
    }
    return Progress(fresh_examples=fresh, **{**values, **changes})


def test_plain_lines_are_a_second_apart_and_the_last_one_is_always_there(clock, capsys):
    display = PlainDisplay()
    display.start(metric="accuracy", target=0.9, title="3 epochs")
    for seconds, fresh in ((0.0, 8), (0.5, 16), (1.0, 1024), (1.5, 2048)):
        clock.seconds = 200 + seconds
        display.mark(progress(fresh))
    display.stop()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "Training to accuracy 0.9, for at most 3 epochs."
    assert [line.split(" fresh")[0].strip() for line in lines] == ["8", "1,024", "2,048"]
    assert lines[0].endswith("fresh examples  loss 0.2500  accuracy 0.5000 (target 0.9)  input wait 75%")


def test_a_buffer_that_is_filled_for_more_than_a_second_is_a_plain_line_every_five(clock, capsys):
    display = PlainDisplay()
    display.start(metric="accuracy", target=0.9, title="3 epochs")
    for tenths in range(120):
        clock.seconds = 100 + tenths / 10
        display.filling(num_read=100 * tenths, num_needed=11_000)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Filling the shuffle buffer: 1,000 of about 11,000 examples read",
        "Filling the shuffle buffer: 6,000 of about 11,000 examples read",
        "Filling the shuffle buffer: 11,000 of about 11,000 examples read",
    ]


@pytest.fixture
def live(clock, monkeypatch):
    """A live display on a terminal of 80 columns, and the text that has gone there."""
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=80, markup=False, highlight=False)
    monkeypatch.setattr(module, "new_console", lambda: console)
    display = RichDisplay(num_examples=1297)
    display.start(metric="accuracy", target=0.9, title="3 epochs")
    yield SimpleNamespace(display=display, line=lambda: display._bar.tasks[0].description, printed=out.getvalue)
    display._bar.stop()


def test_the_live_line_says_that_the_buffer_is_filled_until_there_is_something_else(live):
    live.display.filling(num_read=700, num_needed=2000)
    assert live.line() == "filling the shuffle buffer: 700 of about 2,000 examples read"
    live.display.update(progress(8, steps=1, spent_fraction=0.01))
    assert live.line() == "step 1  8 fresh (epoch 0.0)  1%  wait 75%  0:00 < -:--"


def test_the_live_line_has_steps_epochs_speed_and_the_time_that_is_left(live, clock):
    live.display.update(progress(0, steps=0, spent_fraction=0.0))
    clock.seconds += 40
    live.display.update(progress(15_053, steps=482, input_wait_fraction=0.02))
    assert live.line() == "step 482  15,053 fresh (epoch 11.6)  50%  376 ex/s  wait 2%  0:40 < 0:40"


def test_a_continued_run_counts_what_it_has_trained_itself(live, clock):
    live.display.update(progress(10_000, steps=100, spent_fraction=0.5))
    clock.seconds += 10
    live.display.update(progress(11_000, steps=110, spent_fraction=0.75))
    assert live.line() == "step 110  11,000 fresh (epoch 8.5)  75%  100 ex/s  wait 75%  0:10 < 0:10"


def test_the_live_line_of_a_long_run_fits_80_columns(live, clock):
    live.display.update(progress(0, steps=0, spent_fraction=0.0))
    clock.seconds += 36_000
    for fresh, kept, dropped in ((12_802_470, "ex/s", "epoch"), (158_024_704_000, "wait 75%", "ex/s")):
        live.display._next_update = 0
        live.display.update(progress(fresh, steps=fresh // 100))
        assert len(live.line()) <= 80 and kept in live.line() and dropped not in live.line()
    assert live.line().endswith("10:00:00 < 10:00:00")


def test_evaluations_stay_above_the_live_line_a_second_apart(live, clock):
    for seconds, fresh in ((0.0, 8), (0.5, 16), (1.0, 1024), (1.5, 2048)):
        clock.seconds = 200 + seconds
        live.display.mark(progress(fresh))
    live.display.stop()
    lines = [line.split() for line in live.printed().splitlines() if "loss" in line]
    assert [line[line.index("fresh") - 1] for line in lines] == ["8", "1,024", "2,048"]
    assert "2,048 fresh  loss 0.2500  accuracy 0.5000 (target 0.9)" in live.printed()

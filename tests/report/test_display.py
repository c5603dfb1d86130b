"""What a person sees while a run trains."""

from types import SimpleNamespace

import pytest

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


def test_the_live_line_says_that_the_buffer_is_filled_until_there_is_something_else(clock):
    display = RichDisplay()
    display.start(metric="accuracy", target=0.9, title="3 epochs")
    (line,) = display._bar.tasks
    display.filling(num_read=700, num_needed=2000)
    assert line.fields["metric"] == "filling the shuffle buffer: 700 of about 2,000 examples read"
    display.update(progress(8, metric=float("nan")))
    assert line.fields["metric"] == "accuracy - (target 0.9)"
    display.stop()

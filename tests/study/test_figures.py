"""Pictures have the measured values and the paper's, say what is missing, and do not change from one drawing to the
next. matplotlib writes every text of an SVG as a comment, too."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from dataecho_study import paper
from dataecho_study.figures import Picture, draw, time_model
from tests.study.made import cell, study

INF = math.inf


def texts(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text(), flags=re.DOTALL)


def by_echo(**changes):
    return study(
        cell(1000, echo="none", factor=1.0),
        cell(800, echo="batch", factor=2.0),
        cell([700, 800, INF], echo="after_augmentation", factor=2.0),
        cell([INF, INF], echo="before_augmentation", factor=2.0),
        **changes,
    )


def test_bars_have_our_ratio_the_papers_and_missed_targets(tmp_path):
    png, svg = draw(by_echo(), tmp_path, Picture())

    found = texts(svg)
    assert Image.open(png).size == (1092, 598)
    assert {"Figure 3: digits, torch, scale tiny", "0.80", "0.85", "0.66", "0.58"} <= set(found)
    assert {"2 of 3", "never", "no echo / factor"} <= {line for text in found for line in text.split("\n")}
    assert "paper&#x27;s ratio (CIFAR-10)" in found or "paper's ratio (CIFAR-10)" in found


def test_the_same_study_is_drawn_to_the_same_bytes_and_an_unfinished_one_is_marked(tmp_path):
    first = [path.read_bytes() for path in draw(by_echo(), tmp_path, Picture())]

    assert [path.read_bytes() for path in draw(by_echo(), tmp_path, Picture())] == first
    assert "Figure 3: digits, torch, scale tiny (unfinished)" in texts(
        draw(by_echo(is_complete=False), tmp_path, Picture())[1]
    )


@pytest.mark.parametrize(
    ("name", "axis", "values", "label", "theirs"),
    [
        ("figure_5", "batch_size", (64, 256), "echo=example batch_size=64", "paper (LM1B): batch_size=1024"),
        ("figure_4", "throttle_ratio", (1, 4), "echo=example throttle_ratio=4", "paper (ImageNet): factor=2"),
    ],
)
def test_along_the_factor_there_is_a_line_for_each_other_axis(tmp_path, name, axis, values, label, theirs):
    cells = [
        cell(1000 / e**0.5, echo="none" if e == 1 else "example", factor=e, **{axis: value})
        for value in values
        for e in (1.0, 2.0, 4.0)
    ]

    found = texts(draw(study(*cells, name=name), tmp_path, Picture(x="factor"))[1])

    assert {label, theirs, "ideal: 1 / factor", "echo factor"} <= set(found)


def test_a_task_of_the_paper_stands_beside_its_own_values():
    assert paper.values("figure_6", "imagenet_resnet50")[0] == "ImageNet"
    assert paper.values("figure_6", "commoncrawl_transformer")[0] == "LM1B"
    assert paper.values("figure_5", "digits")[1]["batch_size=1024"][4] == 0.313
    assert paper.values("figure_9", "digits") is None


def test_the_time_model_is_the_measured_fresh_examples_times_the_longer_side():
    cells = [
        cell(fresh, echo="none" if e == 1 else "batch", factor=e, throttle_ratio=ratio)
        for ratio in (2.0, 8.0)
        for e, fresh in ((1.0, 1000), (4.0, 500))
    ]

    found = time_model(study(*cells))

    assert list(found) == ["echo=batch factor=4"]
    assert found["echo=batch factor=4"](np.array([1.0, 2.0, 8.0])) == pytest.approx([2.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("figure_4", Picture(x="throttle_ratio", y="seconds")),
        ("figure_6", Picture(x="batch_size")),
        ("figure_7", Picture(x="shuffle_buffer")),
        ("figure_8", Picture(y="best")),
        ("own", Picture()),
    ],
)
def test_a_study_without_any_repeat_is_drawn(tmp_path, name, picture):
    empty = study(cell([], echo="none", factor=1.0), cell([], echo="batch", factor=2.0), name=name, is_complete=False)

    assert all(path.stat().st_size for path in draw(empty, tmp_path, picture))


def test_held_out_values_and_the_gap_to_training_are_drawn(tmp_path):
    made = [
        cell(1, changes={"best": 0.9, "train": 0.95}, echo=echo, factor=e)
        for echo, e in (("none", 1.0), ("batch", 4.0))
    ]

    found = texts(draw(study(*made, name="figure_8"), tmp_path, Picture(y="best"))[1])

    assert {"best held-out accuracy", "training less held-out accuracy"} <= set(found)

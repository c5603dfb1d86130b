"""The time model, R, the choice and the words, against tables made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from dataecho.diagnose.advice import FACTORS, bottleneck, diagnose, predict, speed_up
from dataecho.diagnose.measurements import Measurements, Scaling, Side

STAGES = ("read", "decode", "crop", "batch", "device")


def side(*, read=0.0, decode=0.0, crop=0.0, batch=0.0, transfer=0.0, place=0.0, step=0.0):
    workers = {"read": read, "decode": decode, "crop": crop, "batch": batch}
    return Side(worker_seconds=workers, transfer_seconds=transfer, place_seconds=place, step_seconds=step)


def measured(*, alone, both=None, cpu=None, **changes):
    """Two workers, two cores, batches of 10, ``crop`` random. ``cpu``: processor seconds where cores are shared."""
    values = {
        "stages": STAGES,
        "random_stages": frozenset({"crop"}),
        "batch_size": 10,
        "num_workers": 2,
        "num_cores": 2,
        "shares_cores": cpu is not None,
        "uses_processes": False,
        "reads_apart": alone.transfer_seconds > 0,
        "alone": alone,
        "both": both or alone,
        "cpu_seconds": {**dict.fromkeys((*STAGES, "step"), 0.0), **(cpu or {})},
        "real_seconds": 1.0,
        "cached_seconds": 1.0,
        "training_seconds": 1.0,
        "input_wait_fraction": 0.0,
        "busy_share": 0.5,
        "scaling": Scaling(num_workers=2, speed_up=1.9),
        "ratio_error": 0.02,
        "emulated": {},
    }
    return Measurements(**{**values, **changes})


# Workers, of whom there are two: 4 + 1 + 0.5 + 0.5 seconds per batch. The loop: 0.5 + 0.5.
SLOW_READ = measured(alone=side(read=8, decode=2, crop=1, batch=1, place=0.5, step=0.5))
SLOW_CROP = measured(alone=side(read=1, decode=1, crop=20, batch=1, step=1))
FETCHED = measured(alone=side(transfer=10, decode=2, crop=2, batch=2, place=0.5, step=1.5))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        # (t_up, t_down): after read the workers' 1 + 0.5 + 0.5 are more than the loop's 1.
        (SLOW_READ, {"read": (4, 2), "decode": (5, 1), "crop": (5.5, 1), "batch": (6, 1), "device": (6, 0.5)}),
        (
            SLOW_CROP,
            {"read": (0.5, 11), "decode": (1, 10.5), "crop": (11, 1), "batch": (11.5, 1), "device": (11.5, 1)},
        ),
        # Fetching and workers are side by side.
        (FETCHED, {"read": (10, 3), "decode": (10, 2), "crop": (10, 2), "batch": (10, 2), "device": (10, 1.5)}),
    ],
)
def test_every_echo_point_has_these_times(what, expected):
    points = {point.name: point for point in diagnose(what).points}
    assert list(points) == list(STAGES)
    for name, (up, down) in expected.items():
        point = points[name]
        assert (point.upstream_time, point.downstream_time) == pytest.approx((up, down))
        assert point.ratio == point.ratio_alone == pytest.approx(up / down)


@pytest.mark.parametrize(
    ("what", "after", "factor", "seconds"),
    [
        (SLOW_READ, "read", 2, 4 + 2 * 2),
        (SLOW_READ, "decode", 4, 5 + 4 * 1),
        (SLOW_READ, "crop", 4, 5.5 + 4 * 0.5),
        (SLOW_READ, "batch", 4, 6),
        (SLOW_READ, "batch", 8, 8),  # the loop: (0.5 + 0.5) times 8
        (SLOW_READ, "device", 16, 0.5 + 16 * 0.5),
        (FETCHED, "decode", 4, 10),
        (FETCHED, "decode", 5, 1 + 5 * 2),  # workers are on both sides: more than t_up
        (FETCHED, "batch", 8, 8 * 2),
    ],
)
def test_the_slowest_of_what_runs_side_by_side_decides(what, after, factor, seconds):
    assert predict(what, after, factor) == pytest.approx(seconds)
    (point,) = [point for point in diagnose(what).points if point.name == after]
    assert point.predicted[FACTORS.index(factor)] == pytest.approx(seconds / 10)  # per example


@pytest.mark.parametrize(
    ("what", "slowest", "setting", "factor", "gain"),
    [
        (SLOW_READ, "read", "echo=before_augmentation factor=5", 5, 5 * 6 / 10),
        (SLOW_CROP, "crop", "echo=after_augmentation factor=11", 11, 11 * 11.5 / 16.5),
        (FETCHED, "read", "echo=before_augmentation factor=5", 5, 5 * 10 / 11),
        # Only the copy to the device: nothing is left to repeat but what is there.
        (
            measured(alone=side(decode=1, crop=1, place=6, step=2)),
            "device",
            "echo=stage echo.after=device factor=3",
            3,
            3 * 8 / 12,
        ),
        # Nothing is random: before and after are the same thing.
        (
            replace(SLOW_READ, random_stages=frozenset()),
            "read",
            "echo=example factor=5.5",
            5.5,
            5.5 * 6 / 8.25,
        ),
        # Two random stages: decode has too little to give, batch is later than need be.
        (
            measured(alone=side(decode=8, crop=8, batch=0, step=1), random_stages=frozenset({"decode", "crop"})),
            "decode",
            "echo=after_augmentation factor=8",
            8,
            8,
        ),
    ],
)
def test_own_resources_give_this_advice(what, slowest, setting, factor, gain):
    diagnosis = diagnose(what)
    assert diagnosis.bottleneck == slowest
    assert diagnosis.advice is not None
    assert (diagnosis.advice.setting, diagnosis.advice.factor) == (setting, factor)
    assert diagnosis.advice.speed_up == pytest.approx(gain)
    assert f"Training waits for its input, most of all for '{slowest}'" in diagnosis.verdict
    assert "fresh examples to a target shrink by less than the factor" in diagnosis.verdict


# Reading waits, 10 s. Cores: decode 1, crop 1, step 2 of two cores; the step takes 2.5 s while the others work.
SHARED = measured(
    alone=side(transfer=10, decode=2, crop=2, step=2),
    both=side(transfer=10, decode=3, crop=3, step=2.5),
    cpu={"decode": 2.0, "crop": 2.0, "step": 4.0},
)


def test_shared_cores_bound_the_factor_below_r():
    points = {point.name: point for point in diagnose(SHARED).points}
    assert points["decode"].ratio == pytest.approx(10 / 2.5) and points["decode"].ratio_alone == pytest.approx(5)
    # 1 + e * (1 + 2) seconds of the cores may be 5 % more than the 10 without echo: e is at most 9.5 / 3 = 3.17.
    assert points["decode"].factor == 3.1
    assert points["decode"].speed_up == pytest.approx(3.1 * 10 / (1 + 3.1 * 3))
    assert points["crop"].factor == 4  # 2 + e * 2: the cores would have room for 4.25
    assert predict(SHARED, "decode", 8) == pytest.approx(25)  # the cores; on cores of their own it would be 20
    advice = diagnose(SHARED).advice
    assert advice is not None and advice.setting == "echo=before_augmentation factor=3.1"


def test_full_cores_have_room_for_nothing():
    full = measured(
        alone=side(decode=8, step=8), both=side(decode=24, step=10), cpu={"decode": 8.0, "step": 16.0}
    )  # 4 + e * 8 seconds of the cores
    diagnosis = diagnose(full)
    assert diagnosis.advice is None
    assert "R is up to 1.20, but input and training share 2 cores, and these have no room" in diagnosis.verdict


def test_r_of_at_most_one_says_plainly_that_echoing_will_not_save_time():
    diagnosis = diagnose(measured(alone=side(read=2, decode=2, crop=2, step=5)))
    assert diagnosis.advice is None and diagnosis.bottleneck == "step"
    assert diagnosis.verdict.startswith("Echoing will not save time here: R is at most 0.60")
    assert [point.factor for point in diagnosis.points] == [1] * 5
    assert [point.speed_up for point in diagnosis.points] == pytest.approx([1] * 5)


def test_an_r_that_is_hardly_above_one_is_not_worth_mentioning():
    diagnosis = diagnose(measured(alone=side(read=21, step=10)))
    assert diagnosis.advice is None and "worth mentioning: R is at most 1.05" in diagnosis.verdict


def test_sides_that_hinder_each_other_are_told_so():
    diagnosis = diagnose(
        measured(alone=side(crop=20, step=2), both=side(crop=20, step=40), cpu={"crop": 10.0, "step": 2.0})
    )
    assert diagnosis.advice is None and diagnosis.bottleneck == "crop"
    assert "R is at most 0.25. But input and training hinder each other; without that it would be 5.00" in (
        diagnosis.verdict
    )


def test_factors_end_at_sixteen():
    advice = diagnose(measured(alone=side(read=100, step=1))).advice
    assert advice is not None and advice.factor == 16


def test_without_echo_all_echo_points_are_the_same_and_no_factor_makes_a_fresh_example_cheaper():
    random = np.random.default_rng(0)
    for shares in (False, True):
        for _ in range(50):
            names = ("read", "decode", "crop", "batch", "transfer", "place", "step")
            times = dict(zip(names, random.random(7), strict=True))
            cpu = dict(zip((*STAGES, "step"), random.random(6), strict=True)) if shares else None
            what = measured(alone=side(**times), cpu=cpu)
            points = diagnose(what).points
            assert [point.predicted[0] for point in points] == pytest.approx([points[0].predicted[0]] * 5)
            for point in points:
                assert list(point.predicted) == sorted(point.predicted)
                assert speed_up(what, point.name, 4) <= 4 + 1e-9
            ratios = [point.ratio for point in points]
            assert ratios == sorted(ratios)  # the later the echo, the more is upstream


@pytest.mark.parametrize(
    ("slow", "slowest"),
    [
        ({"transfer": 9, "decode": 16}, "read"),
        ({"transfer": 7, "decode": 16}, "decode"),
        ({"decode": 6, "crop": 7, "step": 5}, "crop"),  # the workers' 6.5 are more than the step's 5
        ({"decode": 6, "crop": 7, "place": 4, "step": 3}, "device"),
    ],
)
def test_the_bottleneck_is_the_largest_part_of_what_is_slowest(slow, slowest):
    assert bottleneck(measured(alone=side(**slow))) == slowest

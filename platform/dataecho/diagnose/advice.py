"""From measurements to advice: R of every echo point, the time model, what to echo and how often. Pure functions.

The time model (paper, section 2). Per fresh batch, every stage up to the echo point runs once; later stages and the
step run e times. Four resources work in parallel: fetching threads, workers, the training loop and, where the step
computes on the workers' cores, these cores. The slowest decides::

    time(e) = max over the resources of (seconds up to the echo point + e * seconds after it)

If each resource is on one side of the echo point, that is max(t_up, e * t_down). Workers are on both sides of an echo
before augmentation, so that there the time is above this maximum. At e = 1 all echo points agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataecho.diagnose.law import Array, RelativeTime
from dataecho.diagnose.measurements import Measurements, Side, resources
from dataecho.pipeline.stage import BATCH
from dataecho.training.auto_factor import DEFAULT_MAX_FACTOR, PRICE

FACTORS = tuple(range(1, 17))
LEAST_FACTOR = 1.1  # smaller gains are noise
_EQUALLY_GOOD = 4.0  # repeats up to here are nearly as good as fresh examples (Muennighoff et al., 2023)
_ENOUGH = 0.5

#: The rule of choice among echo points, in words.
RULE = (
    f"The earliest echo point that has at least half of the best speed-up, counting factors up to {_EQUALLY_GOOD:g}: "
    "the earlier the echo, the more a repeat is worth. Of points with no random stage between them, whose repeats are "
    "worth the same, the last one."
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """An echo after the stage ``name``. ``upstream_time`` of a fresh batch and ``downstream_time`` of a step in
    seconds, measured while the other side runs; ``ratio`` is R; ``ratio_alone`` is R from measurements while the other
    side rests. ``factor``: the largest free factor, 1 if none is; ``speed_up``: an upper bound at this factor.
    ``predicted``: seconds per fresh example for each of :data:`FACTORS`."""

    name: str
    upstream_time: float
    downstream_time: float
    ratio: float
    ratio_alone: float
    factor: float
    speed_up: float
    predicted: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Echo after the stage ``after`` with ``factor``. ``setting``: the same on the command line; ``speed_up``: steps in
    the time of one step without echo, which bounds the speed-up of training."""

    after: str
    factor: float
    setting: str
    speed_up: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """``bottleneck``: the stage, or the step, that limits the speed without echo. ``advice`` is None where echoing will
    not save time; ``verdict``: the result in words."""

    points: tuple[Point, ...]
    bottleneck: str
    advice: Advice | None
    verdict: str


def diagnose(measured: Measurements) -> Diagnosis:
    """Derive echo points, bottleneck and advice from the measurements."""
    points = tuple(_point(measured, name) for name in measured.stages)
    slowest = bottleneck(measured)
    chosen = _choose(measured, points)
    advice = None
    if chosen is not None:
        setting = f"{echo_setting(measured, chosen.name)} factor={chosen.factor:g}"
        advice = Advice(after=chosen.name, factor=chosen.factor, setting=setting, speed_up=chosen.speed_up)
    return Diagnosis(
        points=points, bottleneck=slowest, advice=advice, verdict=_verdict(measured, points, slowest, chosen)
    )


def bottleneck(measured: Measurements) -> str:
    """The slowest stage of the slowest resource."""
    times = resources(measured.model_side, measured.num_workers)
    slowest = max(times.values(), key=lambda by_stage: sum(by_stage.values()))
    return max(slowest, key=lambda stage: slowest[stage])


def predict(measured: Measurements, after: str, factor: float) -> float:
    """Seconds per fresh batch with an echo after this stage."""
    return max(up + factor * down for up, down in _sums(measured, _model(measured), after))


def relative_time(measured: Measurements, after: str) -> RelativeTime:
    """Time per fresh example with an echo after this stage, relative to no echo, as a function of the factor and of
    scales of the upstream time."""
    sums = _sums(measured, _model(measured), after)

    def time(factor: float, scales: Array) -> Array:
        return np.max([scales * up + factor * down for up, down in sums], axis=0)

    return lambda factor, scales: time(factor, scales) / time(1, scales)


def free_factor(measured: Measurements, after: str) -> float:
    """The largest factor whose extra steps are nearly free: R, and where both sides share the cores at most the factor
    that costs :data:`PRICE` of the time without echo. Rounded down to tenths; 1 below :data:`LEAST_FACTOR`."""
    factor = min(_ratio(*_upstream_downstream(measured, measured.both, after)), DEFAULT_MAX_FACTOR)
    if measured.shares_cores:
        ((up, down),) = _sums(measured, {"cores": _cores(measured)}, after)
        most = (1 + PRICE) * predict(measured, after, 1)
        factor = min(factor, (most - up) / down if down else math.inf)
    factor = math.floor(factor * 10 + 1e-9) / 10
    return factor if factor >= LEAST_FACTOR else 1.0


def speed_up(measured: Measurements, after: str, factor: float) -> float:
    """Steps in the time of one step without echo."""
    return factor * predict(measured, after, 1) / predict(measured, after, factor)


def echo_setting(measured: Measurements, after: str) -> str:
    """The command-line setting that echoes after this stage."""
    names = measured.stages
    randoms = [number for number, name in enumerate(names) if name in measured.random_stages]
    if after == BATCH:
        return "echo=batch"
    if not randoms and after == names[-3]:
        return "echo=example"
    if randoms and after == names[randoms[0] - 1]:
        return "echo=before_augmentation"
    if randoms and after == names[randoms[-1]]:
        return "echo=after_augmentation"
    return f"echo=stage echo.after={after}"


def _point(measured: Measurements, name: str) -> Point:
    up, down = _upstream_downstream(measured, measured.both, name)
    factor = free_factor(measured, name)
    return Point(
        name=name,
        upstream_time=up,
        downstream_time=down,
        ratio=_ratio(up, down),
        ratio_alone=_ratio(*_upstream_downstream(measured, measured.alone, name)),
        factor=factor,
        speed_up=speed_up(measured, name, factor),
        predicted=tuple(predict(measured, name, factor) / measured.batch_size for factor in FACTORS),
    )


def _choose(measured: Measurements, points: tuple[Point, ...]) -> Point | None:
    """See :data:`RULE`."""
    groups: list[Point] = []
    for point in points:
        # Repeats after a random stage are worth less, and so are repeats of whole batches.
        if not groups or point.name in measured.random_stages or point.name == BATCH:
            groups.append(point)
        else:
            groups[-1] = point
    gains = [
        (point, speed_up(measured, point.name, min(point.factor, _EQUALLY_GOOD)))
        for point in groups
        if point.factor > 1
    ]
    best = max((gain for _, gain in gains), default=0.0)
    return next((point for point, gain in gains if gain >= _ENOUGH * best), None)


def _verdict(measured: Measurements, points: tuple[Point, ...], slowest: str, chosen: Point | None) -> str:
    if chosen is not None:
        return (
            f"Training waits for its input, most of all for {slowest!r}. Echoing after {chosen.name!r} "
            f"{chosen.factor:g} times (R = {chosen.ratio:.2f}) does {chosen.speed_up:.1f} times as many steps in the "
            "same time. Training becomes faster by at most that: repeats are worth less than fresh examples, so the "
            "fresh examples to a target shrink by less than the factor."
        )
    ratio, alone = max(point.ratio for point in points), max(point.ratio_alone for point in points)
    if ratio <= 1 and alone >= LEAST_FACTOR:
        return (
            f"Echoing will not save time as things are: R is at most {ratio:.2f}. But input and training hinder each "
            f"other; without that it would be {alone:.2f}, with {slowest!r} as the bottleneck. First keep them apart "
            "(pipeline=processes, fewer compute threads), then measure again."
        )
    if ratio <= 1:
        return (
            f"Echoing will not save time here: R is at most {ratio:.2f}, the input keeps up with the step at every "
            "echo point. (It may still save fresh examples.)"
        )
    if ratio < LEAST_FACTOR:
        return f"Echoing will not save time worth mentioning: R is at most {ratio:.2f}."
    return (
        f"Echoing will not save time here: R is up to {ratio:.2f}, but input and training share {measured.num_cores} "
        "cores, and these have no room for more steps."
    )


def _upstream_downstream(measured: Measurements, side: Side, after: str) -> tuple[float, float]:
    sums = _sums(measured, resources(side, measured.num_workers), after)
    return max(up for up, _ in sums), max(down for _, down in sums)


def _ratio(up: float, down: float) -> float:
    return up / down if down else math.inf


def _sums(measured: Measurements, times: dict[str, dict[str, float]], after: str) -> list[tuple[float, float]]:
    """For each resource: seconds up to the echo point, and after it."""
    names = measured.stages
    upstream = frozenset(names[: names.index(after) + 1])
    return [
        (
            sum(seconds for stage, seconds in by_stage.items() if stage in upstream),
            sum(seconds for stage, seconds in by_stage.items() if stage not in upstream),
        )
        for by_stage in times.values()
    ]


def _model(measured: Measurements) -> dict[str, dict[str, float]]:
    times = resources(measured.model_side, measured.num_workers)
    return {**times, "cores": _cores(measured)} if measured.shares_cores else times


def _cores(measured: Measurements) -> dict[str, float]:
    return {stage: seconds / measured.num_cores for stage, seconds in measured.cpu_seconds.items()}

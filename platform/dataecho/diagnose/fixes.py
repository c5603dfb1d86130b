"""Fixes to try before echoing that cost only a setting. Pure functions."""

from __future__ import annotations

from dataecho.diagnose.measurements import Measurements, resources
from dataecho.pipeline.stage import READ

_IDLE = 0.75  # busier cores have no time left for more workers
_GOOD_SCALING = 0.5  # share of the possible speed-up by more workers
_BURSTS = 0.1  # share of time spent in waiting although the input side is faster on average


def cheap_fixes(measured: Measurements, bottleneck: str) -> tuple[str, ...]:
    """One sentence per fix, the most promising first; empty where the input keeps up."""
    input_times, loop = _input_and_loop(measured)
    if input_times <= loop:
        return _against_bursts(measured)
    if bottleneck == READ:
        return _for_reading(measured)
    return _for_workers(measured, bottleneck)


def _input_and_loop(measured: Measurements) -> tuple[float, float]:
    times = {
        name: sum(by_stage.values()) for name, by_stage in resources(measured.model_side, measured.num_workers).items()
    }
    return max(times["transfer"], times["workers"]), times["loop"]


def _against_bursts(measured: Measurements) -> tuple[str, ...]:
    if measured.input_wait_fraction <= _BURSTS:
        return ()
    ahead = " and pipeline.read_ahead" if measured.reads_apart else ""
    return (
        f"Training waits {measured.input_wait_fraction:.0%} of the time although the input is faster in the mean: it "
        f"comes in bursts. Raise pipeline.look_ahead{ahead}.",
    )


def _for_reading(measured: Measurements) -> tuple[str, ...]:
    if measured.reads_apart:
        return (
            "Reading is the bottleneck: keep the data on a local disk, or give the source a cache_dir, which makes "
            "every epoch after the first a local one.",
        )
    found = []
    if measured.busy_share < _IDLE:
        found.append(
            f"Workers wait while they read and {1 - measured.busy_share:.0%} of the cores are idle: try "
            f"{_workers(measured)}={2 * measured.num_workers}."
        )
    found.append("Reading is the bottleneck: put the data on a faster disk, or into fewer and larger files.")
    return tuple(found)


def _for_workers(measured: Measurements, bottleneck: str) -> tuple[str, ...]:
    scaling = measured.scaling
    possible = min(scaling.num_workers, measured.num_cores)
    scales = scaling.speed_up >= 1 + _GOOD_SCALING * (possible - 1)
    if not scales and not measured.uses_processes:
        return (
            f"{scaling.num_workers} threads are only {scaling.speed_up:.1f} times as fast as one: {bottleneck!r} does "
            "not let go of Python's lock. Try pipeline=processes.",
        )
    if measured.busy_share < _IDLE and measured.num_workers < measured.num_cores:
        return (f"{1 - measured.busy_share:.0%} of the cores are idle: try {_workers(measured)}={measured.num_cores}.",)
    if measured.busy_share >= _IDLE:
        return (
            f"The {measured.num_cores} cores are busy: only less work in {bottleneck!r} helps (smaller images, "
            "prepared beforehand), or more cores.",
        )
    return ()


def _workers(measured: Measurements) -> str:
    return "pipeline.num_processes" if measured.uses_processes else "pipeline.num_threads"

"""Table and picture of the runs of ``headline/run.py``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.headline.setup import TARGET, Mark, Result

BASELINES = ("webdataset", "none")
_COLOURS = {"webdataset": "tab:gray", "none": "black", "auto": "tab:red", "none, local cache": "tab:green"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run and its circumstances. ``other_programs``: their share of the machine; ``num_bytes``: what the server sent,
    ``busy_seconds``: while it had a request."""

    arm: str
    seed: int
    learning_rate: float
    other_programs: float
    num_bytes: int
    busy_seconds: float
    result: Result

    def __str__(self) -> str:
        result = self.result
        told = [f"{self.arm:18} seed {self.seed}"]
        told.append("never" if result.fresh is None else f"{result.fresh:,} fresh in {result.wall_time:.1f} s")
        if result.ratio is not None:
            told.append(f"R {result.ratio:.2f}, steady {result.steady_ratio or 0:.2f}")
            told.append(f"predicted {result.predicted:.3f} ms")
        told.append(f"measured {result.measured:.3f} ms, step {result.step_time:.1f} ms")
        told.append(f"waits {result.input_wait:.0%}, e {result.factor:g}")
        told.append(f"{self.num_bytes / self.busy_seconds / 1e6:.2f} MB/s, others {self.other_programs:.1%}")
        return ", ".join(told)


def read_lines(path: Path) -> list[Line]:
    """The runs of a file; of several tries of one, the least disturbed."""
    best: dict[tuple[str, int], Line] = {}
    for text in path.read_text().splitlines():
        fields = json.loads(text)
        result = {**fields["result"], "marks": [Mark(**mark) for mark in fields["result"]["marks"]]}
        line = Line(**{**fields, "result": Result(**result)})
        known = best.get((line.arm, line.seed))
        if known is None or line.other_programs < known.other_programs:
            best[line.arm, line.seed] = line
    return list(best.values())


def cost(result: Result) -> float:
    """Fresh examples to target; a miss costs infinitely much."""
    return math.inf if result.fresh is None else float(result.fresh)


def _by_arm(lines: Sequence[Line]) -> dict[str, list[Result]]:
    order = sorted({line.arm for line in lines}, key=_position)
    return {arm: [line.result for line in lines if line.arm == arm] for arm in order}


def _position(arm: str) -> tuple[str, int]:
    order = (*BASELINES, *map(str, range(2, 17)), "auto", "none, local cache")
    return _batch(arm), order.index(_kind(arm))


def _values(results: Sequence[Result], get: Callable[[Result], float | None]) -> list[float]:
    """Of all runs; a miss is infinite."""
    return [math.inf if (value := get(result)) is None else float(value) for result in results]


def factors(
    arms: dict[str, list[Result]], baseline: str, get: Callable[[Result], float | None]
) -> dict[str, tuple[float, float, float]]:
    """How many times less an arm's mean is than that of the baseline with the same batch; then the smallest and largest
    for single runs."""
    found = {}
    for arm, results in arms.items():
        other = baseline + _batch(arm)
        if other in arms:
            base, values = statistics.mean(_values(arms[other], get)), _values(results, get)
            found[arm] = base / statistics.mean(values), base / max(values), base / min(values)
    return found


def _batch(arm: str) -> str:
    """The end of the name of an arm with a batch of its own: compared with what has the same."""
    _, comma, size = arm.partition(", batch ")
    return comma + size


def _kind(arm: str) -> str:
    return arm.removesuffix(_batch(arm))


def table(lines: Sequence[Line]) -> Iterator[str]:
    """A markdown table, one row for each arm."""
    arms = _by_arm(lines)
    rates = {line.arm: line.learning_rate for line in lines}
    fresh, wall = (factors(arms, "none", get) for get in (_fresh, _wall))
    train, over_peer = factors(arms, "none", _train), factors(arms, "webdataset", _wall)
    yield (
        "| arm | rate | fresh examples: mean (min, max) | fresh factor | wall time, s: mean (min, max) | wall factor "
        "| against webdataset | train time factor | R, second half | input wait | step, ms "
        "| ms per fresh: predicted, measured |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for arm, results in arms.items():
        yield (
            f"| {arm} | {rates[arm]:g} | {_spread(_values(results, _fresh), ',.0f')} | {_first(fresh, arm)} "
            f"| {_spread(_values(results, _wall), '.1f')} | {_first(wall, arm)} | {_first(over_peer, arm)} "
            f"| {_first(train, arm)} | {_mean(results, lambda result: result.steady_ratio, '.2f')} "
            f"| {_mean(results, lambda result: result.input_wait, '.0%')} "
            f"| {_mean(results, lambda result: result.step_time, '.1f')} "
            f"| {_mean(results, lambda result: result.predicted, '.3f')}, "
            f"{_mean(results, lambda result: result.measured, '.3f')} |"
        )


def _fresh(result: Result) -> float | None:
    return result.fresh


def _wall(result: Result) -> float | None:
    return result.wall_time


def _train(result: Result) -> float | None:
    return result.train_time


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.mean(values):{form}} ({min(values):{form}}, {max(values):{form}})"


def _first(found: dict[str, tuple[float, float, float]], arm: str) -> str:
    return f"{found[arm][0]:.2f}" if arm in found else "-"


def _mean(results: Sequence[Result], get: Callable[[Result], float | None], form: str) -> str:
    values = [value for result in results if (value := get(result)) is not None]
    return f"{statistics.mean(values):{form}}" if values else "-"


def picture(lines: Sequence[Line], path: Path) -> None:
    """Left: accuracy against wall time. Right: what echoing saves, against the factor."""
    arms = _by_arm(lines)
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curves(left, arms)
    _draw_factors(right, arms)
    figure.savefig(path, dpi=110)


def _draw_curves(axes: Axes, arms: dict[str, list[Result]]) -> None:
    numbers = [arm for arm in arms if arm.isdigit()]
    shades = {arm: colormaps["Blues"](0.35 + 0.13 * number) for number, arm in enumerate(numbers)}
    for arm, results in arms.items():
        for number, result in enumerate(results):
            axes.plot(
                [mark.wall_time for mark in result.marks],
                [mark.accuracy for mark in result.marks],
                color=_COLOURS.get(_kind(arm), shades.get(_kind(arm))),
                linestyle=":" if _batch(arm) else "-",
                linewidth=1.2,
                alpha=0.85,
                label=(f"echo {arm}" if _kind(arm) in (*numbers, "auto") else arm) if number == 0 else None,
            )
    axes.axhline(TARGET, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="wall time, s", ylabel="held-out accuracy", title="Every run, to the target", xlim=(0, None))
    axes.legend(fontsize="small", loc="lower right")


def _draw_factors(axes: Axes, arms: dict[str, list[Result]]) -> None:
    echoed = [arm for arm in arms if arm == "none" or arm.isdigit()]
    at = [1 if arm == "none" else int(arm) for arm in echoed]
    for get, label, colour in ((_fresh, "fresh examples", "tab:blue"), (_wall, "wall time", "tab:orange")):
        found = factors(arms, "none", get)
        means = [found[arm][0] for arm in echoed if arm in found]
        if not means:
            continue
        low, high = ([abs(found[arm][k] - found[arm][0]) for arm in echoed] for k in (1, 2))
        axes.errorbar(at, means, yerr=[low, high], label=f"{label}, against none", color=colour, marker="o", capsize=3)
    if "webdataset" in arms:
        found = factors(arms, "webdataset", _wall)
        axes.plot(
            at, [found[arm][0] for arm in echoed], color="tab:gray", marker="s", label="wall time, against webdataset"
        )
    axes.plot(at, at, color="black", linewidth=0.8, linestyle="--", label="ideal: the factor itself")
    axes.set(xlabel="echo factor", ylabel="times less to the target", title="What echoing saves", ylim=(0, None))
    axes.legend(fontsize="small")

"""The picture of a diagnosis."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataecho.diagnose.advice import FACTORS, Diagnosis, predict
from dataecho.diagnose.measurements import Measurements
from dataecho.diagnose.output import emulation

FILE_NAME = "diagnose.png"


def draw(folder: Path, measured: Measurements, diagnosis: Diagnosis, *, title: str) -> Path:
    """``diagnose.png`` in ``folder``. Left: the time of every stage, alone and with the other side running. Right:
    predicted time per fresh example against the factor, for every echo point; a star marks what is advised."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, measured, diagnosis.bottleneck)
    _curves(right, measured, diagnosis)
    notice = emulation(measured)
    figure.suptitle(f"{title}\n{notice}" if notice else title, color="firebrick" if notice else "black")
    path = folder / FILE_NAME
    figure.savefig(path, dpi=120)
    return path


def _bars(axes: Axes, measured: Measurements, bottleneck: str) -> None:
    rows = measured.rows
    sides = (("alone", measured.alone, "C0", -0.2), ("both running", measured.both, "C1", 0.2))
    for label, side, color, offset in sides:
        axes.barh(
            [number + offset for number in range(len(rows))],
            [measured.stage_time(side, stage) * 1000 for stage in rows],
            height=0.38,
            color=color,
            label=label,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.get_yticklabels()[rows.index(bottleneck)].set_fontweight("bold")
    axes.invert_yaxis()
    axes.set_xlabel(f"ms per batch of {measured.batch_size}, all workers at it")
    axes.set_title(f"bottleneck: {bottleneck}", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()


def _curves(axes: Axes, measured: Measurements, diagnosis: Diagnosis) -> None:
    for number, point in enumerate(diagnosis.points):
        width = 1 + 4 * (1 - (number + 1) / len(diagnosis.points))  # curves that coincide stay visible
        axes.plot(
            FACTORS,
            [seconds * 1000 for seconds in point.predicted],
            label=f"after {point.name} (R = {point.ratio:.2f})",
            linewidth=width,
            marker=".",
        )
    advice = diagnosis.advice
    if advice is not None:
        axes.plot(
            advice.factor,
            predict(measured, advice.after, advice.factor) / measured.batch_size * 1000,
            marker="*",
            markersize=16,
            linestyle="none",
            color="black",
            label=f"advised: {advice.factor:g} after {advice.after}",
        )
    axes.axhline(
        measured.training_seconds / measured.batch_size * 1000,
        color="grey",
        linewidth=0.8,
        linestyle="--",
        label="measured without echo",
    )
    axes.set_xlabel("factor")
    axes.set_ylabel("predicted ms per fresh example")
    axes.set_title("what echoing would cost", fontsize="medium")
    axes.set_xlim(left=1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")

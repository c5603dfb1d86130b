"""Fresh examples to target on miniatures of the paper's workloads, without echo and with: docs/results/workloads.md.

    python -m benchmarks.learning.workloads <folder>

Tunes the learning rate of every arm in PyTorch, measures the winners on other seeds, runs them once in TensorFlow, and
prints the table. Each run is one of ``train.py``, in its own process. A run that ``<folder>/runs.jsonl`` already has is
not repeated, so the command can be stopped and given again; several can share a folder, with a ``--task`` each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A task, the echo that is compared with none, and the rates that are tried for both."""

    echo: str
    factor: float
    rates: tuple[float, ...]


WORKLOADS = {
    "lm1b_transformer": Workload(echo="example", factor=4, rates=(0.15, 0.3, 0.45)),
    "commoncrawl_transformer": Workload(echo="example", factor=4, rates=(0.15, 0.3, 0.45)),
    "cifar10_resnet32": Workload(echo="before_augmentation", factor=4, rates=(0.1, 0.2, 0.4, 0.8)),
    "imagenet_resnet50": Workload(echo="before_augmentation", factor=4, rates=(0.1, 0.2, 0.4)),
    "coco_ssd": Workload(echo="before_augmentation", factor=4, rates=(0.01, 0.02, 0.03, 0.05)),
}
TUNING_SEEDS, FRESH_SEEDS, TENSORFLOW_SEEDS = (0,), (100, 101, 102), (100,)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings that tell one run from another."""

    task: str
    backend: str
    echo: str
    factor: float | None
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        arm = self.echo if self.factor is None else f"{self.echo}_{self.factor:g}"
        return f"{self.task}-{self.backend}-{arm}-{self.learning_rate:g}-{self.seed}"

    def command(self, folder: Path) -> list[str]:
        """The arguments of ``train.py``."""
        return [
            f"task={self.task}",
            f"backend={self.backend}",
            f"echo={self.echo}",
            f"factor={'null' if self.factor is None else f'{self.factor:g}'}",
            f"optimizer.learning_rate={self.learning_rate:g}",
            f"seed={self.seed}",
            "accelerator=cpu",
            "backend.compute_threads=1",  # as measured: another number rounds differently
            "pipeline.num_threads=1",
            "checkpoints.interval=0",
            "tracking=none",
            "display=none",
            f"run_dir={folder}",
        ]


Results = dict[Run, dict[str, float | None]]
MEASURED = ("fresh_examples_to_target", "steps_to_target", "train_time_to_target")


def read(path: Path) -> Results:
    """The measurements so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = {}
    for entry in map(json.loads, lines):
        measured = {name: entry.pop(name) for name in MEASURED}
        results[Run(**entry)] = measured
    return results


def run(one: Run, folder: Path) -> None:
    """Train, and append the result to ``runs.jsonl``; nothing where it is there already."""
    path = folder / "runs.jsonl"
    if one in read(path):
        return
    own = folder / one.name
    shutil.rmtree(own, ignore_errors=True)  # of a run that was stopped
    arguments = [sys.executable, str(PROJECT / "train.py"), *one.command(own)]
    subprocess.run(arguments, check=True, cwd=PROJECT, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((own / "summary.json").read_text())
    entry = {**asdict(one), **{name: summary[name] for name in MEASURED}}
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def arms(task: str) -> list[tuple[str, float | None]]:
    return [("none", None), (WORKLOADS[task].echo, WORKLOADS[task].factor)]


def tuning(task: str) -> list[Run]:
    """All rates of both arms, in PyTorch."""
    return [
        Run(task=task, backend="torch", echo=echo, factor=factor, learning_rate=rate, seed=seed)
        for echo, factor in arms(task)
        for rate in WORKLOADS[task].rates
        for seed in TUNING_SEEDS
    ]


def tuned_rate(task: str, echo: str, results: Results) -> float:
    """The rate with the fewest fresh examples, on average over the tuning seeds."""
    costs: dict[float, list[float]] = {}
    for one in tuning(task):
        if one.echo == echo:
            costs.setdefault(one.learning_rate, []).append(cost(results[one]))
    return min(costs, key=lambda rate: statistics.mean(costs[rate]))


def measuring(task: str, backend: str, results: Results) -> list[Run]:
    """The tuned rates of both arms on the seeds that are reported."""
    seeds = FRESH_SEEDS if backend == "torch" else TENSORFLOW_SEEDS
    return [
        Run(task=task, backend=backend, echo=echo, factor=factor, learning_rate=rate, seed=seed)
        for echo, factor in arms(task)
        for rate in [tuned_rate(task, echo, results)]
        for seed in seeds
    ]


def cost(measured: dict[str, float | None]) -> float:
    """Fresh examples to target; infinite for a miss."""
    fresh = measured["fresh_examples_to_target"]
    return math.inf if fresh is None else fresh


def table(results: Results) -> Iterator[str]:
    """One row for every task, backend and arm of which all runs are there."""
    yield (
        "| workload | backend | echo | learning rate | runs | fresh examples to target: mean (min, max) "
        "| ratio to none | steps to target |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for task in WORKLOADS:
        if not all(one in results for one in tuning(task)):
            continue
        for backend in ("torch", "tensorflow"):
            runs = measuring(task, backend, results)
            if all(one in results for one in runs):
                yield from _rows(task, backend, runs, results)


def _rows(task: str, backend: str, runs: list[Run], results: Results) -> Iterator[str]:
    baseline = None
    for echo, factor in arms(task):
        own = [one for one in runs if one.echo == echo]
        costs = [cost(results[one]) for one in own]
        mean = statistics.mean(costs)
        baseline = baseline or mean
        steps = statistics.mean(results[one]["steps_to_target"] or math.inf for one in own)
        yield (
            f"| {task} | {backend} | {echo}{'' if factor is None else f' {factor:g}'} | {own[0].learning_rate:g} "
            f"| {len(own)} | {mean:,.0f} ({min(costs):,.0f}, {max(costs):,.0f}) | {mean / baseline:.2f} "
            f"| {steps:,.0f} |"
        )


def main(folder: Path, tasks: Sequence[str], backends: Sequence[str]) -> None:
    """Tune, measure, print."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for task in tasks:
        for one in track(tuning(task), f"tuning {task}"):
            run(one, folder)
        for backend in backends:
            for one in track(measuring(task, backend, read(folder / "runs.jsonl")), f"measuring {task}, {backend}"):
                run(one, folder)
    print("\n".join(table(read(folder / "runs.jsonl"))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where runs.jsonl and the run folders are")
    parser.add_argument("--task", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--backend", nargs="*", default=["torch", "tensorflow"], choices=["torch", "tensorflow"])
    given = parser.parse_args()
    main(given.folder.resolve(), given.task, given.backend)

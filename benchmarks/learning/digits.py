"""Fresh examples to target on digits for every echo type and factor, rates tuned per arm: docs/results/digits.md.

    python -m benchmarks.learning.digits results.json     # about ten minutes on two cores

Tunes the learning rate of every arm on five seeds, measures the winner on five others, and prints the table. Each run
is one of ``train.py``.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.progress import track

from dataecho.environment import prepare
from dataecho.modes import run_mode

PROJECT = Path(__file__).resolve().parents[2]
ARMS = (
    ("none", None),
    ("batch", 2),
    ("batch", 4),
    ("after_augmentation", 2),
    ("after_augmentation", 4),
    ("before_augmentation", 2),
    ("before_augmentation", 4),
    ("before_augmentation", 8),
)
RATES = (0.05, 0.1, 0.15, 0.2)
TUNING_SEEDS, FRESH_SEEDS = range(5), range(100, 105)
BUDGETS = {64: 20_000, 256: 60_000}

Arm = tuple[int, str, int | None]


def run(job: tuple[Arm, float, int]) -> float:
    """Fresh examples to target of one run; infinite for a miss."""
    (batch_size, echo, factor), rate, seed = job
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"run_dir={folder}/run",
            f"echo={echo}",
            f"factor={'null' if factor is None else factor}",
            f"task.batch_size={batch_size}",
            f"task.budget={BUDGETS[batch_size]}",
            f"optimizer.learning_rate={rate}",
            f"seed={seed}",
            "backend.compute_threads=1",
            "pipeline.num_threads=1",
            "checkpoints.interval=0",
            "tracking=none",
            "display=none",
        ]
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            config = OmegaConf.to_container(compose("config", overrides), resolve=True)
        run_mode(config, folder=None, project=PROJECT)
        summary: dict[str, Any] = json.loads(Path(folder, "run", "summary.json").read_text())
    cost = summary["fresh_examples_to_target"]
    return math.inf if cost is None else float(cost)


def main(path: Path) -> None:
    """Tune, measure, save, print."""
    prepare()
    arms: list[Arm] = [(batch_size, *arm) for batch_size in BUDGETS for arm in ARMS]
    with multiprocessing.get_context("forkserver").Pool(2, initializer=_quiet) as pool:
        tuning = [(arm, rate, seed) for arm in arms for rate in RATES for seed in TUNING_SEEDS]
        costs = dict(zip(tuning, track(pool.imap(run, tuning), "tuning", total=len(tuning)), strict=True))
        tuned = {
            arm: min(RATES, key=lambda rate, arm=arm: statistics.mean(costs[arm, rate, s] for s in TUNING_SEEDS))
            for arm in arms
        }
        fresh = [(arm, tuned[arm], seed) for arm in arms for seed in FRESH_SEEDS]
        costs |= dict(zip(fresh, track(pool.imap(run, fresh), "measuring", total=len(fresh)), strict=True))
    records = [
        {
            "batch_size": arm[0],
            "echo": arm[1],
            "factor": arm[2],
            "learning_rate": rate,
            "seed": seed,
            "cost": _json(cost),
        }
        for (arm, rate, seed), cost in costs.items()
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    print("\n".join(_table(arms, tuned, costs)))


def _table(arms: list[Arm], tuned: dict[Arm, float], costs: dict[tuple[Arm, float, int], float]) -> Iterator[str]:
    yield "| batch size | echo | factor | learning rate | fresh examples to target: mean (min, max) | ratio to none |"
    yield "|---:|---|---:|---:|---:|---:|"
    baseline: dict[int, float] = {}
    for arm in arms:
        batch_size, echo, factor = arm
        values = [costs[arm, tuned[arm], seed] for seed in FRESH_SEEDS]
        mean = statistics.mean(values)
        baseline.setdefault(batch_size, mean)
        yield (
            f"| {batch_size} | {echo} | {factor or '-'} | {tuned[arm]:g} "
            f"| {mean:,.0f} ({min(values):,.0f}, {max(values):,.0f}) | {mean / baseline[batch_size]:.2f} |"
        )


def _json(cost: float) -> float | None:
    return cost if math.isfinite(cost) else None


def _quiet() -> None:
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - for the life of the worker


if __name__ == "__main__":
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.learning.digits results.json")
    main(Path(sys.argv[1]))

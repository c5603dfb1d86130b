"""MLflow's share of the training time: ``python -m benchmarks.overhead.tracking [--rounds 8] [--steps 4000]``.

Whole runs of the default digits configuration (evaluation, metrics and a checkpoint at every mark) take turns,
with ``tracking=none`` and with MLflow's default store, a new sqlite file; the order is turned round every time.
Compared are,
within each pair, ``train_time`` per step, which stands still for evaluation, logging and saving, so that it shows what
the sender's thread takes meanwhile; and ``wall_time`` per step, with everything from the first step to the last. The
import of MLflow and the run's creation come before that, and what is sent at the end after it: once a run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from dataecho.environment import prepare

PROJECT = Path(__file__).resolve().parents[2]


def one_run(folder: Path, tracking: str, *, steps: int, interval: int, database: Path) -> dict[str, float]:
    """Seconds per step of one run, by name; ``outside``: of the whole run, what is neither."""
    from dataecho.modes import run_mode

    overrides = [
        *("display=none", "accelerator=cpu", "backend.compute_threads=1", "stop_at_target=false", "budget=steps"),
        *(f"budget.steps={steps}", f"tracking={tracking}", f"task.eval_interval={interval}"),
        *([f"tracking.tracking_uri=sqlite:///{database}"] if tracking == "mlflow" else []),
    ]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        run_mode(config, folder=folder, project=PROJECT)
    elapsed = time.perf_counter() - started
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "train_time": summary["train_time"] / steps,
        "wall_time": summary["wall_time"] / steps,
        "outside": elapsed - summary["wall_time"],
    }


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--eval-interval", type=int, default=256, help="fresh examples between two marks")
    options = parser.parse_args()
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    pairs: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.rounds + 1):
            pair = {}
            for arm in ("none", "mlflow") if number % 2 else ("mlflow", "none"):
                pair[arm] = one_run(
                    folder / f"{number}-{arm}",
                    arm,
                    steps=options.steps,
                    interval=options.eval_interval,
                    database=folder / "mlflow.db",
                )
            pairs += [pair] if number else []  # the first imports everything and creates the database
            print(f"round {number}: " + ", ".join(f"{arm} {1e3 * pair[arm]['train_time']:.4f} ms" for arm in pair))
    table = Table("per step", "none", "mlflow", "median of the pairs' ratios", "least", "largest", box=None)
    for key in ("train_time", "wall_time"):
        ratios = [pair["mlflow"][key] / pair["none"][key] for pair in pairs]
        medians = [1e3 * statistics.median(pair[arm][key] for pair in pairs) for arm in ("none", "mlflow")]
        shares = [f"{100 * (ratio - 1):+.1f} %" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
        table.add_row(key, *(f"{value:.4f} ms" for value in medians), *shares)
    Console().print(table)
    outside = [statistics.median(pair[arm]["outside"] for pair in pairs) for arm in ("none", "mlflow")]
    print(f"once a run, outside that: none {outside[0]:.2f} s, mlflow {outside[1]:.2f} s")


if __name__ == "__main__":
    prepare()
    main()

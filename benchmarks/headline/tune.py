"""Finds the settings that ``headline/arms.py`` has: ``python -m benchmarks.headline.tune tuning.jsonl``.

Fresh examples to the target depend neither on the line nor on other programs, so learning rates are tuned on local
shards, two runs beside each other: for every arm each of ``RATES`` on ``SEEDS``, which are not the measured ones; the
least mean wins. ``auto`` and the peer take the rate of ``none``. Then the peer's workers and prefetching, over the
line, by time per fresh example of short runs. Half an hour on two cores. ``--batch-size``: of another batch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.headline import dataset, slow_line
from benchmarks.headline.arms import BYTES_PER_SECOND, ECHOED, NONE, WEBDATASET, Arm, run_once
from benchmarks.headline.report import cost
from benchmarks.headline.server import Server
from dataecho.environment import prepare

SEEDS, RATES = (0, 1), (0.1, 0.125, 0.15, 0.2)
PEER_SETTINGS = ((1, 2), (1, 4), (2, 2), (2, 4), (4, 2))  # workers, and batches that each has ready
PEER_BATCHES = 24


def main() -> None:
    """Run all, save, print the winners."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/headline-data"))
    parser.add_argument("--batch-size", type=int, default=NONE.batch_size)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    names = [arm.name for arm in (NONE, *ECHOED, WEBDATASET)]
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    slow_line.enter()
    slow_line.limit(BYTES_PER_SECOND)
    arms = [replace(arm, batch_size=options.batch_size) for arm in (NONE, *ECHOED) if arm.name in options.arms]
    prepare()
    console = Console(width=160)
    train, held_out = dataset.write(options.data)
    tried = [(arm, rate, seed) for arm in arms for rate in options.rates for seed in SEEDS]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    costs: dict[tuple[str, float, int], float] = {}
    with ThreadPoolExecutor(2) as pool, options.output.open("w") as output:
        found = pool.map(partial(_cost, train=train.resolve(), held_out=held_out.resolve()), tried)
        for (arm, rate, seed), value in zip(tried, found, strict=True):
            costs[arm.name, rate, seed] = value
            line = {
                "arm": arm.name,
                "learning_rate": rate,
                "seed": seed,
                "fresh": value if math.isfinite(value) else None,
            }
            output.write(json.dumps(line) + "\n")
            output.flush()
            console.print(line)
    for arm in arms:
        means = {rate: statistics.mean(costs[arm.name, rate, seed] for seed in SEEDS) for rate in options.rates}
        console.print(f"{arm.name}: {min(means, key=lambda rate: means[rate]):g} of {means}", highlight=False)
    if WEBDATASET.name in options.arms:
        with Server(train) as server:
            _tune_peer(server, held_out.resolve(), console)


def _tune_peer(server: Server, held_out: Path, console: Console) -> None:
    for number in range(2):
        for num_workers, ahead in PEER_SETTINGS:
            arm = replace(WEBDATASET, num_connections=num_workers, prefetch_factor=ahead)
            arm_run = arm.new_run(
                SEEDS[number], where=server.url, held_out=held_out, budget=PEER_BATCHES * arm.batch_size
            )
            result = run_once(arm, arm_run)
            told = f"{result.measured:.3f} ms per fresh example, step {result.step_time:.1f} ms"
            console.print(f"webdataset, {num_workers} workers, {ahead} batches ready: {told}", highlight=False)


def _cost(tried: tuple[Arm, float, int], *, train: Path, held_out: Path) -> float:
    arm, rate, seed = tried
    arm_run = replace(arm, learning_rate=rate).new_run(seed, where=train, held_out=held_out)
    return cost(run_once(arm, arm_run))


if __name__ == "__main__":
    main()

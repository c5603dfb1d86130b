"""Planned uses per second on one core; the goal is 3 million. Half a minute.

python -m benchmarks.engine.plan_speed
"""

from __future__ import annotations

import statistics
import time

from rich.console import Console
from rich.table import Table

from dataecho.plan.plan import Plan

NUM_EXAMPLES = 1_281_167
NUM_USES = 2_000_000
ROUNDS = 5

SETTINGS = {
    "none, buffer 1,024, batch 64": {"batch_size": 64, "shuffle_buffer": 1024},
    "none, buffer 1e6, batch 1,024": {"batch_size": 1024, "shuffle_buffer": 1_000_000},
    "items 2.5, buffer 1,024, batch 64": {"batch_size": 64, "shuffle_buffer": 1024, "factor": 2.5},
    "items 4, buffer 1e4, batch 128": {"batch_size": 128, "shuffle_buffer": 10_000, "factor": 4.0},
    "items 4, buffer 1e6, batch 1,024": {"batch_size": 1024, "shuffle_buffer": 1_000_000, "factor": 4.0},
    "batches 4, buffer 1e4, batch 128": {
        "batch_size": 128,
        "shuffle_buffer": 10_000,
        "factor": 4.0,
        "echo_batches": True,
    },
    "batches 4 through a buffer of 10": {
        "batch_size": 128,
        "shuffle_buffer": 10_000,
        "factor": 4.0,
        "echo_batches": True,
        "batch_shuffle_buffer": 10,
    },
}


def uses_per_second(settings: dict) -> float:
    """Of one plan, after its buffer is full."""
    plan = Plan({0: NUM_EXAMPLES}, num_shards=1, seed=0, **settings)
    count = plan.block_length
    plan.take(count)
    started, done = time.perf_counter(), 0
    while done < NUM_USES:
        done += sum(map(len, plan.take(count)))
    return done / (time.perf_counter() - started)


def main() -> None:
    """Median and range of several rounds, all settings taking turns."""
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, settings in SETTINGS.items():
            speeds[name].append(uses_per_second(settings) / 1e6)
    table = Table("plan", "million uses / s", "min", "max")
    for name, values in speeds.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""The arms of ``headline/run.py`` with their tuned settings, and how one of them is run once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.headline import dataset
from benchmarks.headline.setup import BUDGET, ArmRun, Result

BYTES_PER_SECOND = 6_000_000  # of the line: so slow that R is about 6


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A row of the table. ``module`` has a ``run``; ``num_connections`` share the line: of ours as many threads fetch,
    the peer has as many worker processes, with ``prefetch_factor`` batches ready in each."""

    name: str
    learning_rate: float
    batch_size: int = 1024
    module: str = "benchmarks.headline.ours"
    factor: float | str | None = None
    caches: bool = False
    num_connections: int = 4
    prefetch_factor: int = 2

    def new_run(self, seed: int, *, where: str | Path, held_out: Path, budget: int = BUDGET) -> ArmRun:
        """One run, with the shards below a folder or URL."""
        return ArmRun(
            seed=seed,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            urls=dataset.shards(where),
            held_out=held_out,
            factor=self.factor,
            caches=self.caches,
            num_connections=self.num_connections,
            prefetch_factor=self.prefetch_factor,
            budget=budget,
        )


WEBDATASET = Arm(name="webdataset", module="benchmarks.headline.peer", learning_rate=0.125, num_connections=2)
NONE = Arm(name="none", learning_rate=0.125)
ECHOED = tuple(
    Arm(name=str(factor), factor=factor, learning_rate=rate)
    for factor, rate in ((2, 0.1), (3, 0.1), (4, 0.125), (5, 0.1), (6, 0.1))
)
AUTO = Arm(name="auto", factor="auto", learning_rate=0.125)
CACHED = Arm(name="none, local cache", caches=True, learning_rate=0.125)
#: A batch that suits a training without echo better, for honesty.
SMALL = (
    Arm(
        name="webdataset, batch 128",
        module="benchmarks.headline.peer",
        learning_rate=0.075,
        batch_size=128,
        num_connections=2,
        prefetch_factor=16,
    ),
    Arm(name="none, batch 128", learning_rate=0.075, batch_size=128),
    Arm(name="6, batch 128", factor=6, learning_rate=0.05, batch_size=128),
)
ARMS = (WEBDATASET, NONE, *ECHOED, AUTO, CACHED, *SMALL)


def run_once(arm: Arm, arm_run: ArmRun) -> Result:
    """In a process of its own, which has ended when this returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, arm.module, arm_run).result()


def _run(module: str, arm_run: ArmRun) -> Result:
    result: Result = import_module(module).run(arm_run)
    return result

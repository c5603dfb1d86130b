"""The cost of the sweeper, and how busy it keeps its workers.

    python -m benchmarks.search.costs build/sweeper.json            # trials of 0.4 to 3.2 s
    UNIT=5 NUM_TRIALS=12 ROUNDS=1 python -m benchmarks.search.costs # of 2 to 16 s

Busy share: trials of unequal length that only sleep, two at a time, by our pool and by one that waits for whole batches
as Hydra's launchers do; interleaved in one run, the same lengths. Cost: processor time per trial of that sweep, of the
parent, the server and the trials' own start, divided by their number; and what the storage takes, step by step. Start:
from the moment the parent submits a trial of digits to the moment its own code begins, first with a cold server and
then with a warm one.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution

from dataecho_search.samplers import QuasiRandom
from dataecho_search.space.cells import Cell
from dataecho_search.study.objectives import Objective, RunOutcome
from dataecho_search.study.storage import open_storage, silence_optuna
from dataecho_search.study.studies import StudySpec, open_study

PROJECT = Path(__file__).resolve().parents[2]
NUM_PARALLEL, NUM_TRIALS, ROUNDS = 2, int(os.environ.get("NUM_TRIALS", "24")), int(os.environ.get("ROUNDS", "2"))
#: Seconds of sleep of trial n, in units of ``UNIT`` seconds: one in four is long.
LENGTHS = [
    float(os.environ.get("UNIT", "1")) * (0.4 + 0.2 * (n % 3) + (2.4 if n % 4 == 0 else 0.0)) for n in range(NUM_TRIALS)
]
PROGRAM = """
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from dataecho.report.summary import write_summary

LENGTHS = {lengths}


@hydra.main(version_base="1.3", config_path=None, config_name="sleep")
def main(config):
    begun = time.time()
    time.sleep(LENGTHS[config.n])
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_summary(folder, {{"metric": "accuracy", "accuracy": 0.5, "fresh_examples_to_target": 1.0, "begun": begun,
                            "ended": time.time()}})


if __name__ == "__main__":
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="sleep", node={{"n": 0, "display": "none"}})
    main()
"""


def main() -> None:
    silence_optuna()
    rounds = [(busy(barrier=False), busy(barrier=True)) for _ in range(ROUNDS)]
    results = {
        "cores": os.cpu_count(),
        "seconds_if_starts_cost_nothing": round(ideal_seconds(), 2),
        "share_of_all_time_busy": [round(ours["busy"], 4) for ours, _ in rounds],
        "share_of_all_time_busy_with_a_barrier": [round(theirs["busy"], 4) for _, theirs in rounds],
        "seconds": [round(ours["seconds"], 2) for ours, _ in rounds],
        "seconds_with_a_barrier": [round(theirs["seconds"], 2) for _, theirs in rounds],
        "cpu_ms_per_trial_of_all_processes": round(
            1e3 * statistics.mean(ours["cpu"] / NUM_TRIALS for ours, _ in rounds), 1
        ),
        "storage_ms_per_trial": {name: storage_cost(url) for name, url in (("journal", ""), ("sqlite", "sqlite"))},
        "seconds_to_a_trials_own_code": starts(),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(sys.argv[1]).write_text(text + "\n")


def ideal_seconds() -> float:
    """Of the same trials in the same order, each begun by the first worker that is free. In the end one runs alone."""
    free = [0.0] * NUM_PARALLEL
    for length in LENGTHS:
        free[free.index(min(free))] += length
    return max(free)


def busy(*, barrier: bool) -> dict[str, float]:
    """Share of the slots' time, from the first trial's begin to the last one's end, in which a trial's code ran."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sleeps.py").write_text(PROGRAM.format(lengths=LENGTHS))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        batches = [range(NUM_TRIALS)]
        if barrier:
            batches = [range(n, n + NUM_PARALLEL) for n in range(0, NUM_TRIALS, NUM_PARALLEL)]
        # The barrier: a batch's trials all end before the next batch's begin. One process for all batches, so that no
        # start of a program is counted: the batches of one sweep, by the same pool.
        spans = [_sweep(folder, f"sweep{n}", list(batch)) for n, batch in enumerate(batches)]
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = sum(end - begin for begin, end, _ in spans)
        work = sum(work for _, _, work in spans)
        spent = (cpu.ru_utime + cpu.ru_stime) - (before.ru_utime + before.ru_stime)
    return {"busy": work / (NUM_PARALLEL * seconds), "seconds": seconds, "cpu": spent}


def _sweep(folder: Path, name: str, numbers: list[int]) -> tuple[float, float, float]:
    command = [
        sys.executable, "sleeps.py", "-m", f"n={','.join(map(str, numbers))}", "hydra/sweeper=optuna",
        f"hydra.sweep.dir={name}", f"hydra.sweeper.num_parallel_trials={NUM_PARALLEL}",
        "hydra.sweeper.threads_per_trial=1", "hydra.sweeper.pool.preload.all=[]",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    runs: list[dict[str, Any]] = [json.loads(path.read_text()) for path in (folder / name).glob("*/summary.json")]
    assert len(runs) == len(numbers)
    work = sum(run["ended"] - run["begun"] for run in runs)
    return min(run["begun"] for run in runs), max(run["ended"] for run in runs), work


def storage_cost(kind: str) -> dict[str, float]:
    """Milliseconds per trial to ask, to claim, to tell, and to look where a study of so many trials stands."""
    space = {name: FloatDistribution(0, 1) for name in ("a", "b", "c")}
    objective = Objective("fresh_examples_to_target", "minimize")
    with tempfile.TemporaryDirectory() as name:
        storage = open_storage(f"sqlite:////{name}/studies.db" if kind else None, Path(name))
        spec = StudySpec(
            cell=Cell("cell", (), {}, space),
            repeat=0,
            objectives=(objective,),
            sampler=QuasiRandom(),
            sampler_name="qmc",
            seed=0,
            seed_per_trial=True,
        )
        study = open_study(spec, storage, num_trials=100)
        metrics = {f"metric_{n}": float(n) for n in range(30)}
        times: dict[str, list[float]] = {"ask": [], "start": [], "tell": [], "look": []}
        for _ in range(100):
            marks = [time.perf_counter()]
            number = study.ask()
            marks.append(time.perf_counter())
            study.claim(number, "me")
            marks.append(time.perf_counter())
            study.finish(number, RunOutcome("completed", (1.0,), metrics, None))
            marks.append(time.perf_counter())
            study.counts()
            marks.append(time.perf_counter())
            for part, begin, end in zip(times, marks, marks[1:], strict=False):
                times[part].append(end - begin)
    return {part: round(1e3 * statistics.median(values), 2) for part, values in times.items()}


def starts() -> dict[str, Any]:
    """Of digits with PyTorch: the time until the task function is called, from the moment of submission."""
    with tempfile.TemporaryDirectory() as name:
        command = [
            sys.executable, str(PROJECT / "train.py"), "-m", "optimizer.learning_rate=interval(0.05,0.2)",
            "hydra.sweeper.num_trials=12", "tracking=none", "budget=steps", "budget.steps=4", f"hydra.sweep.dir={name}",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        pairs = [path.read_text().split() for path in sorted(Path(name).rglob("started.txt"))]
    seconds = [float(began) - float(submitted) for submitted, began in pairs]
    return {"first": round(seconds[0], 3), "median_of_the_rest": round(statistics.median(seconds[1:]), 3),
            "longest_of_the_rest": round(max(seconds[1:]), 3)}  # fmt: skip


if __name__ == "__main__":
    main()

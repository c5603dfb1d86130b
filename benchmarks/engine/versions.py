"""This checkout against another one of the same project, in turns: is anything slower?

    git worktree add /tmp/other <commit>
    python -m benchmarks.engine.versions --other /tmp/other --rounds 15

Rows: the three workloads of ``loaders/compare.py`` at each version's best setting, and the echoed ones of
``engine/time_model.py``. The other checkout may be so old that its benchmarks lie in one folder.
Each version has a process of its own, which is asleep while the other works. Both run the setting that is best for both
together, by the median of three short runs. A round has two runs of each version, one within the other (a b b a), so
that a machine that becomes slower or faster meanwhile is the same for both; its ratio is of their sums. The table has
medians of rounds, with the 95 % interval of the median (by order statistics).

Objects come from malloc, not from Python's pools (``--pools`` for these): there the iterators of numpy that two threads
use at once may share a line of the cache, which slows small images by up to 8 %, in one version and not in the other,
as luck has it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOADERS = ("jpeg", "small", "tokens")
ECHOES = {"contended 1": 1, "contended 2": 2, "contended 4": 4, "contended 8": 8, "throttled 4": 4}
SECONDS, TUNING = 1.0, 0.5


class Version:
    """A process that runs the benchmarks of one checkout."""

    def __init__(self, checkout: Path, data: Path, *, allocator: str) -> None:
        roots = ("platform", "benchmarks", "plugins", "tasks", ".")
        path = ":".join(str(checkout / root) for root in roots)
        # -P: the folder of this file is not searched, or both would run its neighbours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONMALLOC": allocator},
        )

    def ask(self, *question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(folder: Path) -> None:
    """Read questions from standard input, one a line, and print an answer to each."""
    import cv2
    from threadpoolctl import threadpool_limits

    in_folders = find_spec("loaders_ours") is None
    ours = import_module("benchmarks.loaders.ours_loader" if in_folders else "loaders_ours")
    work = import_module("benchmarks.loaders.work" if in_folders else "loaders_work")

    cv2.setNumThreads(0)
    threadpool_limits(1)
    data, known, steps, sources = work.Data(folder), {}, {}, {}
    for line in sys.stdin:
        kind, *rest = json.loads(line)
        if kind == "settings":
            known[rest[0]] = ours.arms(rest[0], data)["dataecho"]
            print(json.dumps(list(known[rest[0]])), flush=True)
        elif kind == "rate":
            workload, setting, seconds = rest
            batches = known[workload][setting]()
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < 0.4 or count < 20:
                next(batches)
                count += 1
            started, count = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                next(batches)
                count += 1
            rate = count * work.BATCH_SIZES[workload] / (time.perf_counter() - started)
            batches.close()
            print(json.dumps(rate), flush=True)
        else:
            from dataecho.pipeline.throttle import Throttle

            time_model = import_module("benchmarks.engine.time_model" if in_folders else "time_model")

            case, factor, seconds = rest
            if not sources:
                sources["contended"] = time_model.JpegsInMemory(data)
                line_rate = time_model.BATCH / time_model.READING
                sources["throttled"] = Throttle(examples_per_second=line_rate).slow_down(sources["contended"])
                steps.update({name: time_model.Training(time_model.STEPS[name]) for name in sources})
            num_threads = {"throttled": 2, "contended": 1}[case]
            rate = time_model.delivered(sources[case], steps[case], factor, num_threads=num_threads, seconds=seconds)
            print(json.dumps(rate), flush=True)


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, 95 %, without an assumption on the distribution: order statistics of the binomial."""
    from scipy.stats import binom

    ordered, count = sorted(values), len(values)
    low = int(binom.ppf(0.025, count, 0.5)) - 1
    low = max(low, 0)
    return ordered[low], ordered[count - 1 - low]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--data", type=Path, default=Path("runs/loaders-data"), help="made if it is not there: 350 MB")
    parser.add_argument("--rows", nargs="+", default=[*LOADERS, *ECHOES])
    parser.add_argument("--pools", action="store_true", help="Python's own allocator")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    from benchmarks.loaders.work import make_data

    make_data(given.data)
    here = Path(__file__).resolve().parents[2]
    allocator = "pymalloc" if given.pools else "malloc"
    checkouts = {"other": given.other.resolve(), "this": here}
    versions = {name: Version(folder, given.data, allocator=allocator) for name, folder in checkouts.items()}
    best: dict[str, str] = {}
    for workload in (row for row in given.rows if row in LOADERS):
        settings = [version.ask("settings", workload) for version in versions.values()]
        rates = {
            setting: math.prod(
                statistics.median(version.ask("rate", workload, setting, TUNING) for _ in range(3))
                for version in versions.values()
            )
            for setting in settings[0]
            if setting in settings[1]
        }
        best[workload] = max(rates, key=lambda setting: rates[setting])
        print(f"{workload}: {best[workload]}", flush=True)
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in given.rows}
    for number in range(given.rounds):
        for row in given.rows:
            rates = {"this": 0.0, "other": 0.0}
            first, second = ("this", "other") if number % 2 else ("other", "this")
            for name in (first, second, second, first):
                if row in LOADERS:
                    rates[name] += versions[name].ask("rate", row, best[row], SECONDS) / 2
                else:
                    rates[name] += versions[name].ask("echo", row.split()[0], ECHOES[row], SECONDS) / 2
            found[row].append((rates["other"], rates["this"]))
        shown = (f"{row} {pairs[-1][1] / pairs[-1][0]:.2f}" for row, pairs in found.items())
        print(f"round {number + 1}: {', '.join(shown)}", flush=True)
    for row, pairs in found.items():
        ratios = [this / other for other, this in pairs]
        low, high = interval(ratios)
        other, this = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
        print(f"{row}: {other:,.0f} -> {this:,.0f} examples/s, ratio {ratio}")
    for version in versions.values():
        version.close()


if __name__ == "__main__":
    main()

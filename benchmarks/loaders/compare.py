"""Delivered examples per second of dataecho without echo, PyTorch's DataLoader, tf.data, webdataset and grain.

    pip install torch==2.13.0
    pip install tensorflow-cpu==2.21.0 webdataset==1.0.2 grain==0.2.18 opencv-python-headless==5.0.0.93
    pip install --no-deps -e . && pip install numpy scikit-learn filelock rich
    python -m benchmarks.loaders.compare                        # an hour, on a machine that does nothing else
    python -m benchmarks.loaders.compare --workloads jpeg --loaders ours torch --rounds 3

in an environment of their own: the peers need not agree with the project's locks. A peer that is missing is named and
left out. Three workloads (``loaders/work.py``), on every side the same functions: JPEG files of 256 px, decoded, random
resized crop to 160, batches of 64; images of 32 px in memory, shifted, flipped, normalised, batches of 128; token rows
in memory, batches of 64. Every loader shuffles, and has a process of its own.

First every setting of every loader runs twice for a moment, and the best of each loader is kept. Then the kept ones
take turns, dataecho twice (the same against itself: the noise). A loader is opened anew for each round and warmed up
before it is timed. A round in which other programs took more than 5 % of the machine is repeated, three times at most.
With ``--step`` the caller computes for so many milliseconds after every batch, as training would: a loader that works
in the caller's thread adds its time to that, others work beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.loaders.work import BATCH_SIZES, Data, check, make_data

#: Module of arms -> packages it needs, as they are imported and as they are installed.
LOADERS = {
    "ours": {"dataecho": "dataecho"},
    "torch": {"torch": "torch"},
    "tensorflow": {"tensorflow": "tensorflow-cpu"},
    "webdataset": {"webdataset": "webdataset", "torch": "torch"},
    "grain": {"grain": "grain"},
    "bare": {"cv2": "opencv-python-headless"},
}
GOALS = {"jpeg": 1.3, "small": 1.0, "tokens": 1.0}
MOST_FOREIGN, MOST_REPEATS = 0.05, 3
AGAIN = ", again"
#: Not the same functions, or no loader: in the table, but never the peer that others are compared with.
APART = ("tf.data, its own operations", "bare threads, functions and stacking")


@dataclass(frozen=True)
class Arm:
    """A loader with its settings; ``name`` is what the table says, the best of each name is kept."""

    loader: str
    name: str
    setting: str


@dataclass(frozen=True)
class Measured:
    """Examples per second; share of the machine's time that other programs took; runs it needed."""

    rate: float
    foreign: float
    num_runs: int


def _serve(loader: str, folder: Path, connection: Connection) -> None:
    """The process of one loader."""
    os.setsid()  # whatever it starts belongs to this session: so its time can be told from that of other programs
    arms = importlib.import_module(f"benchmarks.loaders.{loader}_loader").arms
    data = Data(folder)
    known: dict[str, Any] = {}
    while (order := _next(connection)) is not None:
        workload, arm, seconds, step = order
        known[workload] = known.get(workload) or arms(workload, data)
        if arm is None:
            connection.send(
                [Arm(loader, name, setting) for name in known[workload] for setting in known[workload][name]]
            )
        else:
            connection.send(_measure(known[workload][arm.name][arm.setting], workload, seconds, step))


def _next(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:  # the other side has ended
        return None


def _measure(open_loader: Any, workload: str, seconds: float, step: float) -> tuple[float, float]:
    batches = open_loader()
    matrix = np.ones((128, 128), np.float32)
    num_products = _products(matrix, step)
    started = time.perf_counter()
    check(workload, next(batches))
    num_batches = 1
    while time.perf_counter() - started < 1 or num_batches < 20:
        next(batches)
        num_batches += 1
    num_batches, others, started = 0, _foreign_seconds(), time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(batches)
        for _ in range(num_products):
            matrix @ matrix
        num_batches += 1
    spent = time.perf_counter() - started
    foreign = (_foreign_seconds() - others) / spent / (os.cpu_count() or 1)
    if hasattr(batches, "close"):  # generators; tf.data's iterator ends with its last reference
        batches.close()
    return num_batches * BATCH_SIZES[workload] / spent, foreign


def _products(matrix: np.ndarray, step: float) -> int:
    """How many products take ``step`` milliseconds when nothing else runs."""
    if not step:
        return 0
    times = []
    for _ in range(200):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return round(step / 1e3 / statistics.median(times))


def _foreign_seconds() -> float:
    """Processor seconds spent so far on what does not belong to this session; Linux only."""
    ticks = os.sysconf("SC_CLK_TCK")
    columns = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    busy, mine, session = sum(columns) - columns[3] - columns[4], 0, str(os.getsid(0))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == session:
            mine += int(fields[11]) + int(fields[12])
    return (busy - mine) / ticks


class Bench:
    """The processes of all loaders, and the file that every run is written to."""

    def __init__(self, loaders: list[str], folder: Path, output: TextIO, step: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, self._output, self._step = {}, output, step
        for loader in loaders:
            self._connections[loader], theirs = context.Pipe()
            context.Process(target=_serve, args=(loader, folder, theirs)).start()
            theirs.close()

    def close(self) -> None:
        """End them."""
        for connection in self._connections.values():
            connection.close()

    def arms(self, workload: str) -> list[Arm]:
        """Everything there is."""
        return [arm for loader in self._connections for arm in self._ask(loader, workload, None, 0.0)]

    def run(self, workload: str, arm: Arm, seconds: float, phase: str) -> float:
        """Examples per second, of the least disturbed try."""
        tries = []
        while len(tries) <= MOST_REPEATS:
            tries.append(self._ask(arm.loader, workload, arm, seconds))
            if tries[-1][1] <= MOST_FOREIGN:
                break
        rate, foreign = min(tries, key=lambda measured: measured[1])
        measured = Measured(rate, foreign, len(tries))
        line = {"phase": phase, "workload": workload, "step_ms": self._step, **asdict(arm), **asdict(measured)}
        self._output.write(json.dumps(line) + "\n")
        self._output.flush()
        return rate

    def _ask(self, loader: str, workload: str, arm: Arm | None, seconds: float) -> Any:
        self._connections[loader].send((workload, arm, seconds, self._step))
        return self._connections[loader].recv()


def tuned(bench: Bench, workload: str, arms: list[Arm], console: Console) -> list[Arm]:
    """The fastest setting of each name in two short runs, none right after the other."""
    rates: dict[Arm, list[float]] = {arm: [] for arm in arms}
    for _ in range(2):
        for arm in arms:
            rates[arm].append(bench.run(workload, arm, 1.5, "tune"))
    best: dict[str, Arm] = {}
    for arm, values in rates.items():
        console.print(f"{workload:7} {arm.name:28} {arm.setting:40} {statistics.mean(values):12,.0f}")
        if arm.name not in best or statistics.mean(values) > statistics.mean(rates[best[arm.name]]):
            best[arm.name] = arm
    return list(best.values())


def compared(bench: Bench, workload: str, arms: dict[str, Arm], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Examples per second of every round, by label; each arm starts a round equally often."""
    rates: dict[str, list[float]] = {label: [] for label in arms}
    labels = list(arms)
    for number in range(rounds):
        for shift in range(len(labels)):
            label = labels[(number + shift) % len(labels)]
            rates[label].append(bench.run(workload, arms[label], seconds, "compare"))
    return rates


def shown(workload: str, arms: dict[str, Arm], rates: dict[str, list[float]]) -> Table:
    """Medians, quartiles, and every round against the same round of the best peer."""
    medians = {label: statistics.median(values) for label, values in rates.items()}
    peers = [label for label in rates if arms[label].loader != "ours" and label not in APART]
    best = max(peers or rates, key=lambda label: medians[label])
    table = Table("loader", "setting", "examples / s", "quartiles", f"against {best}", "quartiles", title=workload)
    for label, values in sorted(rates.items(), key=lambda item: -medians[item[0]]):
        ratios = [value / other for value, other in zip(values, rates[best], strict=True)]
        low, _, high = statistics.quantiles(values, n=4)
        least, _, most = statistics.quantiles(ratios, n=4)
        table.add_row(
            label,
            arms[label].setting,
            f"{medians[label]:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{least:.2f} to {most:.2f}",
        )
    table.caption = f"goal: dataecho at least {GOALS[workload]} of the best peer"
    return table


def found(loaders: list[str], console: Console) -> list[str]:
    """Those whose packages are here; the others are named."""
    here = []
    for loader in loaders:
        missing = [package for name, package in LOADERS[loader].items() if find_spec(name) is None]
        if missing:
            console.print(f"LEFT OUT: {loader}, for want of {', '.join(missing)} (pip install {' '.join(missing)})")
        else:
            here.append(loader)
    return here


def machine(loaders: list[str]) -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = {package for loader in loaders for package in LOADERS[loader].values()}
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in sorted(packages | {"numpy", "opencv-python-headless"})},
    }


def main() -> None:
    """Tune, compare, print; every run goes into ``--output`` as a line of JSON."""
    parser = argparse.ArgumentParser(description="dataecho without echo against other loaders")
    parser.add_argument("--data", type=Path, default=Path("runs/loaders-data"), help="made if it is not there: 350 MB")
    parser.add_argument("--output", type=Path, default=Path("runs/loaders.jsonl"))
    parser.add_argument("--workloads", nargs="+", choices=list(BATCH_SIZES), default=list(BATCH_SIZES))
    parser.add_argument("--loaders", nargs="+", choices=list(LOADERS), default=list(LOADERS))
    parser.add_argument("--settings", nargs="+", default=[""], help="only settings that contain one of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--step", type=float, default=0.0, metavar="MILLISECONDS")
    options = parser.parse_args()
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    console = Console(width=160)
    loaders = found(options.loaders, console)
    make_data(options.data)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("a") as output:
        output.write(json.dumps({"phase": "machine", **machine(loaders)}) + "\n")
        console.print(machine(loaders))
        bench = Bench(loaders, options.data, output, options.step)
        try:
            for workload in options.workloads:
                arms = [arm for arm in bench.arms(workload) if any(part in arm.setting for part in options.settings)]
                best = {arm.name: arm for arm in tuned(bench, workload, arms, console)}
                best |= {name + AGAIN: arm for name, arm in best.items() if arm.loader == "ours"}
                console.print(shown(workload, best, compared(bench, workload, best, options.rounds, options.seconds)))
        finally:
            bench.close()


if __name__ == "__main__":
    main()

"""The paper's protocol in miniature, twice: unbroken, and killed with SIGKILL three times on the way.

    python -m benchmarks.search.protocol build/protocol [--trials 8] [override ...]

Searches digits without echo and with three echoes of factor 2, five repeats each, and compares the two sweeps: every
search point, every result, every winner. Ends with exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dataecho_search.report.cells import summarize
from dataecho_search.study.results import StudyResult, read_results
from dataecho_search.study.storage import open_storage

PROJECT = Path(__file__).resolve().parents[2]
CELLS = ["sweep=digits", "echo=none,batch,after_augmentation,before_augmentation", "factor=2", "tracking=none"]
#: What a kill may change: work done twice takes time, and reads are counted as done.
TIMES = ("time", "wait", "ratio", "read_examples", "bytes", "restarts")


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--trials", type=int, default=8)
    arguments.add_argument("--kills", type=int, default=3)
    arguments.add_argument("overrides", nargs="*")
    given = arguments.parse_intermixed_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    overrides = [*CELLS, f"hydra.sweeper.num_trials={given.trials}", *given.overrides]

    begun = time.monotonic()
    unbroken = given.folder / "unbroken"
    finish(unbroken, overrides)
    seconds = time.monotonic() - begun
    wanted = read(unbroken)
    num_trials = sum(len(result.trials) for result in wanted)

    broken = given.folder / "killed"
    for kill in range(given.kills):
        kill_after(broken, overrides, num_finished=num_trials * (kill + 1) // (given.kills + 1))
    finish(broken, overrides)
    found = read(broken)
    num_resumed = sum(
        (broken / trial.folder / "output.log").read_text().count("Training to") > 1
        for result in found
        for trial in result.trials
    )

    differences = compare(wanted, found)
    summary = {
        "num_trials": num_trials,
        "num_diverged": sum(trial.state == "diverged" for result in wanted for trial in result.trials),
        "seconds_unbroken": round(seconds),
        "kills": given.kills,
        "trials_that_ran_on_from_their_checkpoint": num_resumed,
        "differences": differences,
        "winners": [
            {"cell": row.name, "mean": row.mean, "costs": row.costs, "ratio": row.ratio} for row in summarize(found)
        ],
        "border_warnings": [warning for result in found for warning in result.border_warnings],
    }
    (given.folder / "protocol.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    print("the same points, results and winners" if not differences else f"{len(differences)} differences")
    return int(bool(differences))


def command(folder: Path, overrides: list[str]) -> list[str]:
    return [sys.executable, str(PROJECT / "train.py"), "-m", *overrides, f"hydra.sweep.dir={folder}"]


def finish(folder: Path, overrides: list[str]) -> None:
    subprocess.run(command(folder, overrides), check=True)


def kill_after(folder: Path, overrides: list[str], *, num_finished: int) -> None:
    """Start or continue, and kill when so many trials have ended and another one is on its way."""
    process = subprocess.Popen(command(folder, overrides), stdout=subprocess.DEVNULL)
    while count_finished(folder) < num_finished:
        if process.poll() is not None:
            raise SystemExit("the sweep ended before it could be killed")
        time.sleep(0.05)
    while not any(is_training(path.parent) for path in folder.glob("*/*/*/metrics.jsonl")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    print(f"killed after {count_finished(folder)} trials", flush=True)


def count_finished(folder: Path) -> int:
    return len(list(folder.glob("*/*/*/summary.json")))


def is_training(folder: Path) -> bool:
    """Whether a run has a checkpoint and no end."""
    with contextlib.suppress(FileNotFoundError):  # a checkpoint that was just replaced
        return not (folder / "summary.json").exists() and any(folder.glob("checkpoints/step-*"))
    return False


def read(folder: Path) -> list[StudyResult]:
    return read_results(open_storage(None, folder))


def compare(wanted: list[StudyResult], found: list[StudyResult]) -> list[str]:
    """The differences, in words."""
    differences = []
    if [result.name for result in wanted] != [result.name for result in found]:
        differences.append("the studies")
    for mine, theirs in zip(wanted, found, strict=False):
        if facts(mine) != facts(theirs):
            differences.append(f"{mine.name}: {facts(mine)} became {facts(theirs)}")
        winner = [result.winner.folder if result.winner is not None else None for result in (mine, theirs)]
        if winner[0] != winner[1]:
            differences.append(f"{mine.name}: the winner {winner[0]} became {winner[1]}")
    return differences


def facts(result: StudyResult) -> list[Any]:
    """Everything about a study's trials but times."""
    return [
        (
            trial.folder,
            trial.state,
            dict(trial.params),
            trial.values,
            trial.seed,
            {name: value for name, value in trial.metrics.items() if not any(word in name for word in TIMES)},
        )
        for trial in result.trials
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())

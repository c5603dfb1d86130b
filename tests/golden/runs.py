"""Runs that were killed, as the code that recorded them left them, and what they came to where nothing killed them.

``python -m tests.golden.runs`` records them anew; only a format that old folders are refused for is a reason to.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.end_to_end import killed_run
from tests.support import TIMES

FOLDER = Path(__file__).with_name("runs")
EXPECTED = FOLDER / "expected.json"
KILLED_AFTER = 21
COMMON = (
    "tracking=none",
    "budget=fresh",
    "budget.fresh=900",
    "stop_at_target=false",
    "task.eval_interval=300",
    "task.shuffle_buffer=128",
    "task.batch_size=32",
    "optimizer.learning_rate=0.05",
    "checkpoints.keep=1",
    "pictures.num_examples=0",
)
ECHOES = {
    "none": ("echo=none",),
    "batch": ("echo=batch", "factor=2.5", "echo.shuffle_buffer=3"),
    "device": ("echo=stage", "echo.after=device", "factor=2"),
    "before": ("echo=before_augmentation", "factor=2.5"),
    "after": ("echo=after_augmentation", "factor=3"),
    "read": ("echo=stage", "echo.after=read", "factor=2"),
}
BACKENDS = {
    "torch": ("backend=torch", "backend.compute_threads=1"),
    "tensorflow": ("backend=tensorflow", "backend.compute_threads=1"),
}
#: Fresh processes, but the libraries are imported once.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.end_to_end.killed_run"])


def run(folder: Path, backend: str, echo: str, *, kill_after: int = 10**9, resume: bool = False) -> int | None:
    """The exit code of a run in ``folder``."""
    overrides = [f"run_dir={folder}", *COMMON, *BACKENDS[backend], *ECHOES[echo], *(["resume=auto"] if resume else [])]
    process = SERVER.Process(target=killed_run.main, args=(kill_after, overrides))
    process.start()
    process.join(timeout=240)
    return process.exitcode


def counts(folder: Path) -> dict[str, Any]:
    """Whole numbers of a finished run: the same on every machine."""
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if type(value) is int and name not in TIMES}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    expected = {}
    with tempfile.TemporaryDirectory() as temporary:
        for backend in BACKENDS:
            for echo in ECHOES:
                name = f"{backend}-{echo}"
                assert run(Path(temporary) / name, backend, echo) == 0
                expected[name] = counts(Path(temporary) / name)
                run(FOLDER / name, backend, echo, kill_after=KILLED_AFTER)
                for log in (*FOLDER.glob(f"{name}/*.log"), *FOLDER.glob(f"{name}/*.lock")):
                    log.unlink()
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A trial's own process: composes the trial's configuration with Hydra and runs the task function."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from dataecho.environment import keep_output_going
from dataecho.training.disk import EXIT_CODE as DISK_FULL
from dataecho.training.disk import DiskFull, is_full
from dataecho_search.study import pruning

#: In a run folder: everything the trial printed, why it failed if it did, and when it was submitted and began.
OUTPUT, ERROR, STARTED = "output.log", "error.txt", "started.txt"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What all jobs of a sweep share: Hydra's state, and what it was asked to run."""

    singletons: Any
    hydra_context: Any
    task_function: Any
    config: Any


@dataclass(frozen=True, kw_only=True)
class Trial:
    """``overrides`` of this trial; ``number`` as Hydra counts jobs; ``link`` to the study, for pruning;
    ``submitted``: when, in seconds since the Unix epoch."""

    overrides: Sequence[str]
    number: int
    sweep_dir: Path
    subdir: str
    link: pruning.Link | None
    submitted: float


def new_sweep(hydra_context: Any, task_function: Any, config: Any) -> bytes:
    """What is the same for all jobs, once."""
    from hydra.core.singleton import Singleton

    return cloudpickle.dumps(
        Sweep(
            singletons=Singleton.get_state(),
            hydra_context=hydra_context,
            task_function=task_function,
            config=config,
        )
    )


def pack(sweep: bytes, trial: Trial) -> bytes:
    """A job's payload. It goes from process to process, never to a disk."""
    return cloudpickle.dumps((sweep, trial))


def execute(payload: bytes) -> int:
    """Run a job; the exit code of the process that does nothing else. What it prints goes to the trial's folder."""
    blob, trial = cloudpickle.loads(payload)
    folder = trial.sweep_dir / trial.subdir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _printing_to(folder / OUTPUT):
            return _run(cloudpickle.loads(blob), trial, folder)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        return _failed(folder, error)


def _run(sweep: Sweep, trial: Trial, folder: Path) -> int:
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobStatus, run_job, setup_globals
    from omegaconf import open_dict

    (folder / ERROR).unlink(missing_ok=True)
    sweep.singletons["instances"][Plugins] = Plugins.instance()  # found already: not looked for again
    Singleton.set_state(sweep.singletons)
    setup_globals()
    pruning.connect(trial.link)
    config = sweep.hydra_context.config_loader.load_sweep_config(sweep.config, list(trial.overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = trial.number
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(trial.sweep_dir), trial.subdir
    (folder / STARTED).write_text(f"{trial.submitted} {time.time()}\n")
    done = run_job(
        hydra_context=sweep.hydra_context,
        task_function=sweep.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status == JobStatus.COMPLETED:
        return 0
    return _failed(folder, done._return_value)


def _failed(folder: Path, error: BaseException) -> int:
    """Tell why; the exit code."""
    traceback.print_exception(error)
    with contextlib.suppress(OSError):  # the disk may be what failed
        (folder / ERROR).write_text(f"{type(error).__name__}: {error}\n")
    return DISK_FULL if is_full(error) or isinstance(error, DiskFull) else 1


@contextlib.contextmanager
def _printing_to(path: Path) -> Any:
    """Of this process and of those it starts. Never a reason to fail."""
    import os

    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    keep_output_going()
    yield
    sys.stdout.flush()
    sys.stderr.flush()

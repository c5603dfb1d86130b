"""Runs one trial in its own process: composes its configuration with Hydra and calls the task function."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from dataecho.environment import keep_output_going
from dataecho.training.disk import EXIT_CODE as DISK_FULL
from dataecho.training.disk import DiskFull, is_full
from dataecho_search.study import pruning

#: Files in a run folder: the trial's output, the reason of its failure, and when it was submitted and started.
OUTPUT, ERROR, STARTED = "output.log", "error.txt", "started.txt"


@dataclass(frozen=True, kw_only=True)
class SweepContext:
    """The part of a payload that all trials of a sweep share: Hydra's state, and the task function."""

    singletons: Any
    hydra_context: Any
    task_function: Any
    config: Any
    environment: Mapping[str, str]
    """MLflow's variables of the sweep's process, for trials on machines that have others or none."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial to run. ``number``: Hydra's job number; ``link``: its study, for pruning; ``submitted``: seconds since
    the Unix epoch."""

    overrides: Sequence[str]
    number: int
    sweep_dir: Path
    subdir: str
    link: pruning.StudyLink | None
    submitted: float


def pack_sweep(hydra_context: Any, task_function: Any, config: Any) -> bytes:
    """Serialize the shared part of all payloads, once a sweep."""
    from hydra.core.singleton import Singleton

    return cloudpickle.dumps(
        SweepContext(
            singletons=Singleton.get_state(),
            hydra_context=hydra_context,
            task_function=task_function,
            config=config,
            environment={name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        )
    )


def pack_trial(sweep: bytes, trial: TrialSpec) -> bytes:
    """Return a trial's payload. It is sent between processes and never written to disk: it may hold secrets."""
    return cloudpickle.dumps((sweep, trial))


def execute(payload: bytes) -> int:
    """Run a trial, with its output in its folder, and return the exit code for its process."""
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


def _run(sweep: SweepContext, trial: TrialSpec, folder: Path) -> int:
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobStatus, run_job, setup_globals
    from omegaconf import open_dict

    (folder / ERROR).unlink(missing_ok=True)
    os.environ.update(sweep.environment)
    sweep.singletons["instances"][Plugins] = Plugins.instance()  # keep the plugins that were found already
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
    """Write the reason of the failure and return the exit code."""
    traceback.print_exception(error)
    with contextlib.suppress(OSError):  # the disk itself may have failed
        (folder / ERROR).write_text(f"{type(error).__name__}: {error}\n")
    return DISK_FULL if is_full(error) or isinstance(error, DiskFull) else 1


@contextlib.contextmanager
def _printing_to(path: Path) -> Any:
    """Redirect the output of this process and its children to ``path``. A full disk there is no error."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    keep_output_going()
    try:
        yield
    finally:  # also before an exit: whoever sees that the trial has ended may read the file
        sys.stdout.flush()
        sys.stderr.flush()

"""Folders of runs and the checkpoints in them, as ``run_dir``, ``resume`` and ``checkpoint`` name them.

Every function raises :class:`SettingError` for a folder or checkpoint that cannot be used.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from dataecho.errors import SettingError, require
from dataecho.invocation import command
from dataecho.settings import Settings
from dataecho.training.checkpoint import CheckpointStore, find_checkpoint, list_checkpoints, load_checkpoint
from dataecho.training.spool import FILE_NAME as SPOOL


def run_folder(settings: Settings, folder: Path | None) -> Path:
    """The folder of a training run: a sweep's ``folder``, ``resume=<path>``, ``run_dir``, or one named by the time."""
    if folder is not None:
        require(
            settings.run_dir is None,
            "run_dir",
            settings.run_dir,
            allowed="nothing in a sweep, where every run has its own folder",
            cure="Use hydra.sweep.dir=... for the folder of all of them.",
        )
    if settings.resume not in (None, "auto"):
        run = find_checkpoint(Path(settings.resume), best=False).parent.parent.absolute()
        require(
            settings.run_dir is None or Path(settings.run_dir).absolute() == run,
            "run_dir",
            settings.run_dir,
            allowed=f"nothing, or {run}, for that run is continued",
            cure="Leave run_dir out.",
        )
        return run
    if settings.run_dir is not None:
        folder = Path(settings.run_dir)
    require(
        settings.resume is None or folder is not None,
        "resume",
        "auto",
        allowed="auto together with run_dir=..., or the path of a run folder or checkpoint",
        cure="Name the run folder that is to be continued if it exists: run_dir=runs/mine resume=auto.",
    )
    if folder is None:
        folder = Path("runs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")
    return folder.absolute()


def resume_state(settings: Settings, folder: Path) -> dict[str, Any] | None:
    """The checkpoint to continue from; None for a new run, whose folder must hold none."""
    if settings.resume is None:
        require(
            not (folder / SPOOL).exists() and not list_checkpoints(folder / "checkpoints"),
            "run_dir",
            str(folder),
            allowed="a folder without a run in it",
            cure="Add resume=auto to continue that run, or choose another run_dir.",
        )
        return None
    if settings.resume == "auto":
        return CheckpointStore(folder).newest()
    return load_checkpoint(find_checkpoint(Path(settings.resume), best=False))


def new_folder(settings: Settings, folder: Path | None) -> Path:
    """Make the folder of a mode that does not train: ``folder``, ``run_dir``, or one named by the time and the mode."""
    folder = folder or Path(settings.run_dir or datetime.now().strftime(f"runs/%Y-%m-%d/%H-%M-%S-%f-{settings.mode}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            "run_dir", str(folder), allowed="a folder that can be written", cure=f"Choose another one ({error})."
        ) from error
    return folder


def chosen_checkpoint(settings: Settings) -> Path:
    """The checkpoint that ``checkpoint`` names; the best one of a run folder."""
    if settings.checkpoint is None:
        raise SettingError(
            "checkpoint",
            None,
            allowed="the path of a checkpoint, or of a run folder for its best one",
            cure=f"For instance: {command(f'mode={settings.mode}', 'checkpoint=runs/mine')}",
        )
    return find_checkpoint(Path(settings.checkpoint), best=True)

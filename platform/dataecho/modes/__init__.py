"""The modes of the command line, a file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataecho.errors import require
from dataecho.modes.diagnose import diagnose
from dataecho.modes.evaluate import evaluate
from dataecho.modes.export import export
from dataecho.modes.preview import preview
from dataecho.modes.sync import sync
from dataecho.modes.train import train
from dataecho.report.compare import compare_runs
from dataecho.settings import read_settings


def run_mode(config: Any, *, folder: Path | None, project: Path, repeat: str | None = None) -> float | None:
    """Run the mode of ``config``. Returns the cost of a training run (infinite if it missed its target), else None.
    ``repeat``: the command that repeats it, where there is one.

    Raises :class:`SettingError` for settings that cannot be used, and ``SystemExit`` after a signal.
    """
    settings = read_settings(config)
    for key, mode in (
        ("resume", ("train", "sync")),
        ("checkpoint", ("evaluate", "export")),
        ("weights", ("train",)),
        ("law", ("diagnose",)),
        ("runs", ("report",)),
    ):
        require(
            settings.mode in mode or not getattr(settings, key),
            key,
            getattr(settings, key),
            allowed=f"nothing with mode={settings.mode}",
            cure=f"It belongs to mode={' or mode='.join(mode)}.",
        )
    match settings.mode:
        case "train":
            return train(config, folder=folder, project=project, repeat=repeat)
        case "evaluate":
            evaluate(config)
        case "export":
            export(settings)
        case "diagnose":
            diagnose(config, folder=folder, project=project)
        case "preview":
            preview(config, folder=folder)
        case "report":
            compare_runs(settings.runs, Path(settings.run_dir) if settings.run_dir else Path("report"))
        case "sync":
            sync(config)
    return None

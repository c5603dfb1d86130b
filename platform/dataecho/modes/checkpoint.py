"""The checkpoint that a mode is about."""

from __future__ import annotations

from pathlib import Path

from dataecho.errors import SettingError
from dataecho.settings import Settings
from dataecho.training.checkpoint import find_checkpoint


def chosen_checkpoint(settings: Settings) -> Path:
    """What ``checkpoint=`` names; of a run folder the best one."""
    if settings.checkpoint is None:
        raise SettingError(
            "checkpoint",
            None,
            allowed="the path of a checkpoint, or of a run folder for its best one",
            cure=f"For instance: python train.py mode={settings.mode} checkpoint=runs/mine",
        )
    return find_checkpoint(Path(settings.checkpoint), best=True)

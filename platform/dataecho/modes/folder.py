"""Where a mode that trains nothing puts what it finds."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from dataecho.errors import SettingError
from dataecho.settings import Settings


def new_folder(settings: Settings, folder: Path | None) -> Path:
    """``folder``, ``run_dir`` or a folder named by the time and the mode, made now. Raises :class:`SettingError` where
    that cannot be done."""
    folder = folder or Path(settings.run_dir or datetime.now().strftime(f"runs/%Y-%m-%d/%H-%M-%S-%f-{settings.mode}"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            "run_dir", str(folder), allowed="a folder that can be written", cure=f"Choose another one ({error})."
        ) from error
    return folder

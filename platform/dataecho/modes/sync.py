"""``mode=sync``: sends what MLflow has not received from a run, or from every run of a sweep."""

from __future__ import annotations

from pathlib import Path

from dataecho.errors import SettingError, require
from dataecho.invocation import command
from dataecho.settings import Node, read_settings
from dataecho.tracking.mlflow_tracker import send_later
from dataecho.tracking.record import tracked_folders
from dataecho.training.checkpoint import CheckpointStore


def sync(config: Node) -> None:
    """To where the runs were recorded, or to where ``tracking.tracking_uri`` and ``tracking.experiment`` say."""
    settings = read_settings(config)
    require(
        settings.resume not in (None, "auto"),
        "resume",
        settings.resume,
        allowed="the path of a run folder, or of a folder with many",
        cure=f"For instance: {command('mode=sync', 'resume=runs/mine')}",
    )
    folder, tracking = Path(str(settings.resume)), settings.tracking
    if "tracking_uri" not in tracking:
        raise SettingError("tracking", tracking, allowed="tracking=mlflow", cure="Only MLflow has a server.")
    folders = tracked_folders(folder) or [folder]
    for number, run_folder in enumerate(folders, start=1):
        if len(folders) > 1:
            print(f"{number} of {len(folders)}: {run_folder.relative_to(folder)}")
        newest = CheckpointStore(run_folder).newest()
        if not send_later(
            run_folder,
            tracking_uri=tracking["tracking_uri"],
            experiment=tracking.get("experiment"),
            position=newest["spool_position"] if newest else None,
            retry_interval=tracking.get("retry_interval", 1.0),
        ):
            print(f"Not everything of {run_folder} could be sent; it is kept. Try again when that is mended.")
            raise SystemExit(1)
    print(f"Everything of {folder} has been sent.")

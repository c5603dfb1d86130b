"""``mode=sync``: sends what a run could not send, or every run of a sweep."""

from __future__ import annotations

from pathlib import Path

from dataecho.errors import SettingError, require
from dataecho.settings import Node, read_settings
from dataecho.tracking.mlflow_tracker import send_later
from dataecho.tracking.record import read_record, tracked_folders
from dataecho.tracking.redact import without_credentials
from dataecho.training.checkpoint import CheckpointStore


def sync(config: Node) -> None:
    settings = read_settings(config)
    require(
        settings.resume not in (None, "auto"),
        "resume",
        settings.resume,
        allowed="the path of a run folder, or of a folder with many",
        cure="For instance: python train.py mode=sync resume=runs/mine",
    )
    folder, uri = Path(str(settings.resume)), settings.tracking.get("tracking_uri")
    if not isinstance(uri, str):
        raise SettingError("tracking", settings.tracking, allowed="tracking=mlflow", cure="Only MLflow has a server.")
    folders = tracked_folders(folder) or [folder]
    for number, run_folder in enumerate(folders, start=1):
        if len(folders) > 1:
            print(f"{number} of {len(folders)}: {run_folder.relative_to(folder)}")
        _sync_one(run_folder, uri, retry_interval=settings.tracking.get("retry_interval", 1.0))
    print(f"Everything of {folder} has been sent.")


def _sync_one(folder: Path, uri: str, *, retry_interval: float) -> None:
    record = read_record(folder)
    require(
        record is None or record.tracking_uri == without_credentials(uri),
        "tracking.tracking_uri",
        without_credentials(uri),
        allowed=f"{record.tracking_uri if record else ''}, where this run is recorded",
        cure="Name it, with your credentials if it needs some.",
    )
    newest = CheckpointStore(folder).newest()
    position = newest["spool_position"] if newest else None
    if not send_later(folder, tracking_uri=uri, position=position, retry_interval=retry_interval):
        print(f"Not everything of {folder} could be sent; it is kept. Try again when the server answers.")
        raise SystemExit(1)

"""``make dashboard``: MLflow's page for the runs that are tracked, with their addresses."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sys
from pathlib import Path

from dataecho.places import project
from dataecho.tracking.connection import URI_VARIABLE, from_environment, sqlite_path
from dataecho.tracking.redact import without_credentials
from dataecho.tracking.view import KEY, TAG

_SLIM = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def addresses(uri: str, *, page: str) -> list[str]:
    """Lines with the address of each experiment with runs of dataecho in MLflow's ``page``; only for a sqlite
    store."""
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return []
    query = (
        "SELECT experiments.experiment_id, experiments.name FROM experiments JOIN experiment_tags "
        "ON experiments.experiment_id = experiment_tags.experiment_id "
        "WHERE experiment_tags.key = ? AND experiments.lifecycle_stage = 'active' ORDER BY 1"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute(query, (TAG,)).fetchall()
    except sqlite3.Error:  # the server will say what is wrong with it
        return []
    return [
        f"The runs of {name} with the columns that matter: {page}/#/experiments/{number}/runs?viewStateShareKey={KEY}"
        for number, name in found
    ]


def main() -> None:
    """Show the store that ``MLFLOW_TRACKING_URI`` names, or the project's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", type=Path, default=project(), help="the folder with mlflow.db")
    parser.add_argument("--port", type=int, default=5000)
    given = parser.parse_args()
    uri = from_environment(URI_VARIABLE) or f"sqlite:///{given.project}/mlflow.db"
    if uri.startswith(("http://", "https://")):
        print(f"{URI_VARIABLE} names a server, which has its own page: {without_credentials(uri)}")
        return
    page = f"http://127.0.0.1:{given.port}"
    print(f"The dashboard: {page}, ready in 10 to 30 seconds. Ctrl-C ends it.")
    print(*addresses(uri, page=page), sep="\n", flush=True)
    path = sqlite_path(uri)
    root = given.project if path is None else path.parent
    # One worker and no job runner: 2 processes, not 15.
    command = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root", str(root / "mlruns")]
    command += ["--host", "127.0.0.1", "--port", str(given.port), "--workers", "1"]
    os.execve(sys.executable, [sys.executable, *command], {**os.environ, **_SLIM})


if __name__ == "__main__":
    main()

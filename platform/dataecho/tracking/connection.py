"""The connection to MLflow: allowed URIs, environment, client and experiment.

Functions import MLflow themselves: the import takes 2 seconds, and belongs in the sender's thread.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from dataecho.errors import SettingError, require
from dataecho.places import checkout, project
from dataecho.tracking.redact import without_credentials
from dataecho.tracking.view import ensure_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

URI_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
ALLOWED = "sqlite:////absolute/path.db, http(s)://host:port, or the URI of another server or database that MLflow knows"
_CURE = "Use for example tracking.tracking_uri=sqlite:////absolute/path/mlflow.db."
# Bounded, so that a hanging server blocks a thread for seconds, not minutes. No retries inside MLflow: it would repeat
# creations whose answer was lost; the sender checks first and then repeats.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_SECONDS_FOR_ANOTHER_PROCESS_TO_CREATE = 60.0
_OF_A_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class DeletedExperiment(Exception):
    """The experiment was deleted and accepts no runs."""

    def __init__(self, name: str, experiment_id: str) -> None:
        super().__init__(f"the experiment {name!r} was deleted")
        self.experiment_id = experiment_id


def from_environment(name: str) -> str | None:
    """The value of MLflow's environment variable ``name``; None where it is unset or empty."""
    return os.environ.get(name, "").strip() or None


def check_settings(
    *, tracking_uri: str, experiment: str, artifact_root: str | None, uri_key: str = "tracking.tracking_uri"
) -> None:
    """Raise :class:`SettingError`, without credentials in its text, unless the settings are valid. Opens nothing.
    ``uri_key``: the setting or variable that holds the URI."""
    _check_uri(tracking_uri, key=uri_key)
    require(
        bool(experiment.strip()),
        "tracking.experiment",
        experiment,
        allowed="a name",
        cure="Use for example tracking.experiment=dataecho.",
    )
    require(
        artifact_root is None or Path(artifact_root).is_absolute() or "://" in artifact_root,
        "tracking.artifact_root",
        artifact_root,
        allowed="an absolute path, a URI, or nothing",
        cure="A relative path would depend on the current folder: write it in full.",
    )


def _check_uri(uri: str, *, key: str) -> None:
    if uri == "databricks":
        return
    try:
        scheme = urlsplit(uri).scheme
        shown = without_credentials(uri)
    except ValueError:  # not shown: credentials cannot be removed from an invalid URI
        raise SettingError(key, "(no URI)", allowed=ALLOWED, cure=_CURE) from None
    is_file_store = "://" not in uri or scheme == "file"
    require(
        not is_file_store,
        key,
        shown,
        allowed=ALLOWED,
        cure=f"MLflow no longer writes to folders. {_CURE}",
    )
    path = sqlite_path(uri)
    require(
        path is None or path.is_absolute(),
        key,
        shown,
        allowed=ALLOWED,
        cure=f"A relative path would depend on the current folder, and memory would be lost. {_CURE}",
    )


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI; None for other URIs."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?://(?:/(?P<path>[^?]*))?(?:\?.*)?", uri)
    return Path(found["path"] or "") if found else None


def dashboard(uri: str, *, experiment_id: str, run_id: str) -> str:
    """A command, or an address without credentials, that shows the run."""
    path, shown = sqlite_path(uri), without_credentials(uri)
    if path is not None and path == Path.cwd() / "mlflow.db" and Path.cwd() == project():  # which both open
        return "make dashboard" if checkout() else "python -m dataecho.tracking.dashboard"
    if uri.startswith(("http://", "https://")):
        return f"{shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if run_id else shown
    return "databricks" if uri.startswith("databricks") else f"mlflow server --backend-store-uri {shlex.quote(shown)}"


def open_client(uri: str) -> MlflowClient:
    """A separate client: MLflow's global URI and active run stay unchanged. Creates a missing sqlite database.

    Sets MLflow's environment variables, except those that the user has set. With ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``
    above 0 MLflow itself may repeat the creation of a run.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with _creation_lock(uri):
        return MlflowClient(tracking_uri=uri)


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    # MLflow does not guard the creation: of several processes with a new file, all but one fail in a migration.
    path = sqlite_path(uri)
    if path is None:
        return nullcontext()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", timeout=_SECONDS_FOR_ANOTHER_PROCESS_TO_CREATE)


def experiment_id(client: MlflowClient, *, uri: str, name: str, artifact_root: str | None) -> str:
    """The experiment's id; creates it if it is missing, with the view of :mod:`dataecho.tracking.view`.

    A new experiment of a sqlite store keeps its artifacts in a separate folder in ``artifact_root``, by default
    ``mlruns`` beside the database. A server chooses the place itself.
    """
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is None:
        found = client.get_experiment(_create(client, uri=uri, name=name, artifact_root=artifact_root))
    if found.lifecycle_stage != "active":
        raise DeletedExperiment(name, found.experiment_id)
    ensure_view(client, found)
    return found.experiment_id


def cure(error: BaseException, *, uri: str) -> str:
    """The cure for ``error`` of the server at ``uri`` where waiting does not help; empty for transient errors."""
    shown, text = without_credentials(uri), str(error)
    code = getattr(error, "error_code", "")
    if isinstance(error, DeletedExperiment):
        restore = f"mlflow experiments restore --experiment-id {error.experiment_id}"
        return f"Restore it ({URI_VARIABLE}={shlex.quote(shown)} {restore}), or choose another: tracking.experiment=..."
    if "out-of-date database schema" in text:
        return (
            "An older MLflow made this database, or a newer one. Copy it for safety, then bring it up to date: "
            f"mlflow db upgrade {shlex.quote(shown)}"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            "Give credentials that it takes, before the command: MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if code == "ENDPOINT_NOT_FOUND":
        return f"No MLflow answers at {shown}: correct tracking.tracking_uri, or {URI_VARIABLE}."
    if isinstance(error, ImportError):
        return f"Install what it needs: pip install {error.name}" if error.name else "Install what it needs."
    if getattr(error, "errno", None) in _OF_A_FOLDER or any(
        words in text for words in ("unable to open database file", "readonly database", "file is not a database")
    ):
        return f"Choose a database in a folder that can be written. {_CURE}"
    return ""


def _create(client: MlflowClient, *, uri: str, name: str, artifact_root: str | None) -> str:
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    location = None
    if path is not None:
        root = artifact_root if artifact_root is not None else str(path.parent / "mlruns")
        folder = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".") or "experiment"
        location = f"{root.rstrip('/')}/{folder}"
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process created it, or the answer was lost
        if found is None:
            raise
        return found.experiment_id

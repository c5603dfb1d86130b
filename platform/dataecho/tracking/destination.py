"""The server and experiment of a run, in order of precedence: settings, the run's record, MLflow's environment
variables, the default."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho.tracking.connection import (
    EXPERIMENT_VARIABLE,
    URI_VARIABLE,
    check_settings,
    from_environment,
)
from dataecho.tracking.record import Record
from dataecho.tracking.redact import without_credentials

DEFAULT_EXPERIMENT = "dataecho"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """``tracking_uri`` and ``experiment``: the settings, None where they are not set; ``default_uri``: for a new run
    without any."""

    tracking_uri: str | None = None
    experiment: str | None = None
    default_uri: str = ""

    def check(self, artifact_root: str | None) -> None:
        """Raise :class:`SettingError` where a new run could not be tracked."""
        uri, experiment = self.of(None)
        is_variable = self.tracking_uri is None and from_environment(URI_VARIABLE) is not None
        key = URI_VARIABLE if is_variable else "tracking.tracking_uri"
        check_settings(tracking_uri=uri, experiment=experiment, artifact_root=artifact_root, uri_key=key)

    def of(self, record: Record | None) -> tuple[str, str]:
        """The URI, with its credentials, and the experiment of the run with this record; None for a new run."""
        variable = from_environment(URI_VARIABLE)
        if record is None:
            uri = self.default_uri if variable is None else variable
            experiment = from_environment(EXPERIMENT_VARIABLE) or DEFAULT_EXPERIMENT
        else:
            is_there = variable is not None and without_credentials(variable) == record.tracking_uri
            uri = variable if variable is not None and is_there else record.tracking_uri
            experiment = record.experiment
        return (
            uri if self.tracking_uri is None else self.tracking_uri,
            experiment if self.experiment is None else self.experiment,
        )

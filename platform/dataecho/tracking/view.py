"""The columns of an experiment's page in MLflow, as a shared view: ``?viewStateShareKey=dataecho``.

MLflow (3.17) keeps a shared view in a tag of the experiment. A server that does not know it shows its own columns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

KEY = "dataecho"
TAG = f"mlflow.sharedViewState.{KEY}"
_COLUMNS = (
    *("metrics.`fresh_examples_to_target`", "metrics.`upstream_downstream_ratio`"),
    *("tags.`task`", "tags.`backend`", "tags.`echo`", "tags.`factor`"),
)


def ensure_view(client: MlflowClient, experiment: Experiment) -> None:
    """Give the experiment its view, unless it has one, which a user may have changed."""
    if TAG not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, TAG, json.dumps({"selectedColumns": _COLUMNS}))

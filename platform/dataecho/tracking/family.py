"""Makes runs children of a run, whichever arrives first: all know the parent by a uuid that was chosen before.

A child is created with the uuid as a tag, and then looks for the parent; a parent is created with its own, and then
looks for children. Whichever comes second finds the other, so that no order and no file has to be agreed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

UUID_TAG = "dataecho.uuid"
PARENT_UUID_TAG = "dataecho.parent_uuid"
PARENT_TAG = "mlflow.parentRunId"  # what MLflow's page nests by

_RUNS_A_CALL = 1000


def join_parent(client: MlflowClient, run_id: str, *, experiment_id: str, parent_uuid: str) -> None:
    """Make the run a child of the run with ``parent_uuid``, if that is there. The same again changes nothing."""
    found = client.search_runs([experiment_id], filter_string=f"tags.`{UUID_TAG}` = '{parent_uuid}'", max_results=1)
    for parent in found:
        client.set_tag(run_id, PARENT_TAG, parent.info.run_id)


def adopt_children(client: MlflowClient, run_id: str, *, experiment_id: str, uuid: str) -> None:
    """Make every run that names ``uuid`` as its parent's a child of this run. The same again changes nothing."""
    page: str | None = None
    while page != "":
        found = client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{PARENT_UUID_TAG}` = '{uuid}'",
            max_results=_RUNS_A_CALL,
            page_token=page,
        )
        for child in found:
            if child.data.tags.get(PARENT_TAG) != run_id:
                client.set_tag(child.info.run_id, PARENT_TAG, run_id)
        page = found.token or ""

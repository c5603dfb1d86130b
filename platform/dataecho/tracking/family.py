"""Makes runs children of a run, in any order of arrival: a uuid that was chosen beforehand names the parent.

A child is created with the parent's uuid as a tag, and then looks for the parent; a parent is created with its uuid,
and then looks for children. The second to arrive finds the first, so that neither order nor a shared file is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

UUID_TAG = "dataecho.uuid"
PARENT_UUID_TAG = "dataecho.parent_uuid"
PARENT_TAG = "mlflow.parentRunId"  # the tag by which MLflow's page nests runs

_RUNS_A_CALL = 1000


def join_parent(client: MlflowClient, run_id: str, *, experiment_id: str, parent_uuid: str) -> None:
    """Make the run a child of the run with ``parent_uuid``, if that exists. Idempotent."""
    found = client.search_runs([experiment_id], filter_string=f"tags.`{UUID_TAG}` = '{parent_uuid}'", max_results=1)
    for parent in found:
        client.set_tag(run_id, PARENT_TAG, parent.info.run_id)


def adopt_children(client: MlflowClient, run_id: str, *, experiment_id: str, uuid: str) -> None:
    """Make every run with ``uuid`` as its parent a child of this run. Idempotent."""
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

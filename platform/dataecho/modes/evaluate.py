"""``mode=evaluate``: held-out metrics of a checkpoint."""

from __future__ import annotations

from dataecho.compose import compose_workload
from dataecho.compose.run_folder import chosen_checkpoint
from dataecho.errors import require
from dataecho.report.summary import print_evaluation
from dataecho.settings import Node, read_settings
from dataecho.training.checkpoint import load_checkpoint
from dataecho.training.weights import checkpoint_weights


def evaluate(config: Node) -> None:
    path = chosen_checkpoint(read_settings(config))
    state = load_checkpoint(path)
    workload = compose_workload(config)
    trained_on, here = state["ranks"]["0"]["feed"]["identity"]["source"], workload.train_source.digest
    require(
        trained_on == here,
        "task",
        f"{workload.task.name} with training data {here}",
        allowed=f"the data that the checkpoint was trained on, {trained_on}",
        cure="Give the settings of the run: with another split, held-out examples may have been trained on.",
    )
    workload.backend.load_weights(checkpoint_weights(path))
    metrics = workload.evaluate()
    if not workload.backend.ranks.is_first:
        return
    print_evaluation(metrics, task=workload.task, checkpoint=path, counts=state["counts"])

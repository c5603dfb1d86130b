"""``mode=evaluate``: held-out metrics of a checkpoint."""

from __future__ import annotations

from dataecho.compose import compose_workload
from dataecho.compose.repeat import FILE_NAME as COMMAND
from dataecho.compose.run_folder import chosen_checkpoint
from dataecho.errors import SettingError, require
from dataecho.report.summary import print_evaluation
from dataecho.settings import Node, flatten, read_settings
from dataecho.training.checkpoint import load_checkpoint
from dataecho.training.identity import backend_of, require_same_model, require_same_run
from dataecho.training.weights import checkpoint_weights


def evaluate(config: Node) -> None:
    settings = read_settings(config)
    path = chosen_checkpoint(settings)
    state = load_checkpoint(path)
    backend, trained_by = str(settings.backend.get("name")), backend_of(state)
    # Of an older run the settings are not known; the user types those that evaluation needs.
    known = (path.parent.parent / COMMAND).exists()
    (require_same_run if known else require_same_model)(state, flatten(config))
    workload = compose_workload(config)
    trained_on, here = state["ranks"]["0"]["feed"]["identity"]["source"], workload.train_source.digest
    require(
        trained_on == here,
        "task",
        f"{workload.task.name} with training data {here}",
        allowed=f"the data that the checkpoint was trained on, {trained_on}",
        cure="Give the settings of the run: with another split, held-out examples may have been trained on.",
    )
    try:
        workload.backend.load_weights(checkpoint_weights(path))
    except SettingError as error:
        if backend == trained_by:
            raise
        raise SettingError(
            "backend",
            backend,
            allowed=f"{trained_by}, which trained the checkpoint, or one whose model has weights of the same names",
            cure=f"Leave backend out. {error}",
        ) from error
    metrics = workload.evaluate()
    if not workload.backend.ranks.is_first:
        return
    print_evaluation(metrics, task=workload.task, checkpoint=path, counts=state["counts"])
    if backend != trained_by:
        print(f"The checkpoint was trained by backend={trained_by} and is evaluated by backend={backend}.")

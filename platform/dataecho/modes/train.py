"""``mode=train``: one run, from its first batch to its summary."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from dataecho.compose import TrainingRun, compose_training, versions
from dataecho.compose.repeat import FILE_NAME as COMMAND
from dataecho.errors import setting
from dataecho.invocation import command
from dataecho.masking import masked_nested
from dataecho.pictures.held_out import show_held_out
from dataecho.pictures.predictions import FILE_NAME, TEXT_FILE_NAME, draw_predictions, has_text, in_words
from dataecho.report.curves import learning_curves
from dataecho.report.display import new_display
from dataecho.report.summary import print_start, print_summary, write_summary
from dataecho.settings import Node
from dataecho.training.checkpoint import FOLDER as CHECKPOINTS
from dataecho.training.checkpoint import list_checkpoints
from dataecho.training.disk import DiskFull, is_full, retry_while_full
from dataecho.training.interruption import Interrupted
from dataecho.training.skips import read_skips
from dataecho.training.trainer import RunResult, Trainer

_LOG = logging.getLogger(__name__)


def train(config: Node, *, folder: Path | None, project: Path, repeat: str | None = None) -> float:
    run = compose_training(config, folder=folder, project=project)
    display = new_display(run.workload.settings.display, num_examples=run.info.dataset["num_examples"])
    trainer = run.new_trainer(display)
    if not run.workload.backend.ranks.is_first:
        return _train_along(run, trainer)
    tracker = run.workload.tracker
    print_start(trainer.memory, run.workload.emulated, parts=_parts(run))
    if run.notice:
        print(run.notice)
    config_path = run.folder / "config.json"
    status = "failed"
    artifacts = [config_path]
    tags: dict[str, str] = {}
    try:
        config_path.write_text(json.dumps(masked_nested(config), indent=2) + "\n")
        if repeat is not None:
            (run.folder / COMMAND).write_text(repeat + "\n", encoding="utf-8")
        tracker.start(run.info)
        outcome = trainer.run()
        status = "finished"
        tags = {
            "reached_target": str(outcome.reached_target).lower(),
            "diverged": str(outcome.diverged).lower(),
            "pruned": str(outcome.pruned).lower(),
            "final_factor": f"{outcome.metrics['factor']:g}",
        }
        artifacts.append(
            retry_while_full(
                lambda: _write_summary(run, trainer, outcome),
                folder=run.folder,
                timeout=run.workload.settings.checkpoints.disk_timeout,
            )
        )
        artifacts.append(
            learning_curves(
                [(run.info.name, run.folder)],
                run.folder / "learning_curve.png",
                metric=run.workload.task.metric,
                target=run.workload.task.target,
                higher_is_better=run.workload.task.higher_is_better,
            )
        )
        artifacts += _predictions(run, outcome)
        print_summary(
            outcome,
            task=run.workload.task,
            folder=run.folder,
            where=tracker.where,
            skipped=read_skips(run.folder),
            emulated=run.workload.emulated,
        )
        print(_after_a_miss(run, outcome), _repeated(repeat), sep="", end="")
    except Interrupted as interrupted:
        status = "interrupted"
        print(
            f"Interrupted by {interrupted}; the checkpoint is written.\n{_continued(run.folder)}{_repeated(repeat)}",
            end="",
            file=sys.stderr,
        )
        raise SystemExit(128 + interrupted.signal_number) from None
    except Exception as error:
        note = f"{_continued(run.folder)}{_repeated(repeat)}".rstrip()
        if is_full(error):
            raise _with_note(_disk_full(run.folder, error), note) from error
        _with_note(error, note)
        raise
    finally:
        tracker.finish(status=status, artifacts=artifacts, tags=tags)
    return _cost(outcome.metrics)


def _disk_full(folder: Path, error: Exception) -> DiskFull:
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    safe = f"Everything up to {checkpoints[-1]} is safe" if checkpoints else "No checkpoint had been written yet"
    return DiskFull(f"The disk of {folder} is full ({error}). {safe}. Make room, and continue.")


def _after_a_miss(run: TrainingRun, outcome: RunResult) -> str:
    """The setting to change after the budget was spent without the target, as a line; empty after any other end."""
    if outcome.reached_target or outcome.diverged or outcome.pruned:
        return ""
    budget = run.workload.settings.budget
    given = {unit: value for unit, value in asdict(budget).items() if value is not None}
    longer = [f"budget.{unit}={2 * value}" for unit, value in given.items()]
    if outcome.is_improving:
        return f"It was still improving. Spend more: {command(setting('resume', run.folder), *longer)}\n"
    rate = run.workload.settings.optimizer.learning_rate
    return (
        f"It had stopped improving. Try another optimizer.learning_rate than {rate:g}, or a larger "
        f"{', '.join(f'budget.{unit}' for unit in given)} with schedule=linear.\n"
    )


def _with_note(error: Exception, note: str) -> Exception:
    if note:
        vars(error).setdefault("__notes__", []).append(note)  # as `add_note`, which Python 3.10 has not
    return error


def _continued(folder: Path) -> str:
    """The command that continues the run, as a line; empty before the first checkpoint."""
    if not list_checkpoints(folder / CHECKPOINTS):
        return ""
    return f"Continue: {command(setting('resume', folder))}\n"


def _repeated(repeat: str | None) -> str:
    """The command that begins the run anew, as a line; empty where it is not known."""
    return "" if repeat is None else f"Repeat:   {repeat}\n"


def _train_along(run: TrainingRun, trainer: Trainer) -> float:
    """Train on a rank other than 0, which writes and prints nothing."""
    try:
        outcome = trainer.run()
        _predictions(run, outcome)
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.signal_number) from None
    return _cost(outcome.metrics)


def _predictions(run: TrainingRun, outcome: RunResult) -> list[Path]:
    """Write the model's predictions for held-out examples. All ranks compute them, rank 0 writes. A failure is logged
    and does not end the run. A model that has diverged gets no picture: its outputs are not numbers."""
    workload, settings = run.workload, run.workload.settings
    if outcome.diverged or not settings.pictures.num_examples:
        return []
    try:
        shown = show_held_out(
            workload.task,
            workload.eval_source,
            workload.backend,
            num_examples=settings.pictures.num_examples,
            devices=settings.accelerator.devices,
        )
        if not workload.backend.ranks.is_first:
            return []
        fresh = int(outcome.metrics["fresh_examples"] or 0)
        title = f"{run.info.name}, {settings.backend['name']}: held-out examples after {fresh:,} fresh examples"
        paths = [draw_predictions(shown, title=title).save(run.folder / FILE_NAME)]
        if has_text(shown):
            paths.append(run.folder / TEXT_FILE_NAME)
            paths[-1].write_text("\n".join([title, "", *in_words(shown)]), encoding="utf-8")
        return paths
    except Exception as error:
        _LOG.warning("No picture of what the model predicts: %s: %s", type(error).__name__, str(error))
        return []


def _cost(metrics: Mapping[str, float | None]) -> float:
    fresh = metrics["fresh_examples_to_target"]
    return math.inf if fresh is None else float(fresh)


def _parts(run: TrainingRun) -> str:
    """How a batch is divided over processes and devices; empty for one device."""
    workload = run.workload
    num_ranks, devices = workload.backend.ranks.num_ranks, workload.settings.accelerator.devices
    if num_ranks * devices == 1:
        return ""
    rows = workload.rank_batch_size // devices
    return f"Batch of {workload.task.batch_size} rows: {num_ranks} processes x {devices} devices x {rows} rows"


def _write_summary(run: TrainingRun, trainer: Trainer, outcome: RunResult) -> Path:
    settings, reading = run.workload.settings, trainer.reading
    return write_summary(
        run.folder,
        {
            **{name: value for name, value in outcome.metrics.items() if name != "reached_target"},
            "reached_target": outcome.reached_target,
            "diverged": outcome.diverged,
            "pruned": outcome.pruned,
            "metric": run.workload.task.metric,
            "higher_is_better": run.workload.task.higher_is_better,
            "seed": settings.seed,
            "num_ranks": run.workload.backend.ranks.num_ranks,
            "devices": settings.accelerator.devices,
            "emulated_source": run.workload.emulated,
            "memory": {
                "predicted": asdict(trainer.memory),
                "measured": {
                    "results": reading.mean_stored_bytes,
                    "records": reading.mean_waiting_bytes,
                    "batches": reading.batch_bytes,
                },
            },
            "fetched_bytes": reading.fetched_bytes,
            "worker_restarts": reading.num_restarts,
            "skipped": [asdict(skipped) for skipped in read_skips(run.folder)],
            "versions": versions(run.workload.backend),
            "git_revision": run.info.tags["git_revision"],
            "dataset": dict(run.info.dataset),
            "config": masked_nested(run.workload.config),
        },
    )

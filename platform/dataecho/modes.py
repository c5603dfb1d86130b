"""What ``mode=`` can be: one function each, from a configuration to what a person sees."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from dataecho.compose import TrainingRun, compose_training, compose_workload, versions
from dataecho.diagnose.advice import diagnose
from dataecho.diagnose.fixes import cheap_fixes
from dataecho.diagnose.measure import measure
from dataecho.diagnose.output import print_tables, write_json
from dataecho.diagnose.picture import draw
from dataecho.diagnose.progress import showing
from dataecho.environment import git_revision
from dataecho.errors import SettingError, require
from dataecho.report.compare import compare_runs
from dataecho.report.curves import learning_curves
from dataecho.report.display import new_display
from dataecho.report.summary import print_evaluation, print_start, print_summary, write_summary
from dataecho.settings import Node, Settings, read_settings
from dataecho.tracking.mlflow_tracker import send_later
from dataecho.tracking.record import read_record, tracked_folders
from dataecho.tracking.redact import masked_nested, without_credentials
from dataecho.training.checkpoint import CheckpointStore, find_checkpoint, load_checkpoint
from dataecho.training.interruption import Interrupted
from dataecho.training.skips import read_skips
from dataecho.training.trainer import Outcome, Trainer
from dataecho.training.weights import FILE_NAME as WEIGHTS
from dataecho.training.weights import checkpoint_weights, write_weights


def run_mode(config: Any, *, folder: Path | None, project: Path) -> float | None:
    """Do what ``config['mode']`` says; the cost of a training run (infinite for a miss), None for other modes.

    Raises :class:`SettingError` for whatever cannot be done, and ``SystemExit`` after a signal.
    """
    settings = read_settings(config)
    for key, mode in (
        ("resume", ("train", "sync")),
        ("checkpoint", ("evaluate", "export")),
        ("weights", ("train",)),
        ("runs", ("report",)),
    ):
        require(
            settings.mode in mode or not getattr(settings, key),
            key,
            getattr(settings, key),
            allowed=f"nothing with mode={settings.mode}",
            cure=f"It belongs to mode={' or mode='.join(mode)}.",
        )
    if settings.mode == "train":
        return _train(config, folder=folder, project=project)
    if settings.mode == "evaluate":
        _evaluate(config)
    elif settings.mode == "export":
        _export(settings)
    elif settings.mode == "diagnose":
        _diagnose(config, folder=folder, project=project)
    elif settings.mode == "sync":
        _sync(config)
    else:
        compare_runs(settings.runs, Path(settings.run_dir) if settings.run_dir else Path("report"))
    return None


def _train(config: Node, *, folder: Path | None, project: Path) -> float:
    run = compose_training(config, folder=folder, project=project)
    trainer = run.new_trainer(new_display(run.workload.settings.display, run.workload.task.metric))
    if not run.workload.backend.ranks.is_first:
        return _train_along(trainer)
    tracker = run.workload.tracker
    print_start(trainer.memory, run.workload.emulated, parts=_parts(run))
    config_path = run.folder / "config.json"
    config_path.write_text(json.dumps(masked_nested(config), indent=2) + "\n")
    status = "failed"
    artifacts = [config_path]
    tags: dict[str, str] = {}
    try:
        tracker.start(run.info)
        outcome = trainer.run()
        status = "finished"
        tags = {
            "reached_target": str(outcome.reached_target).lower(),
            "diverged": str(outcome.diverged).lower(),
            "pruned": str(outcome.pruned).lower(),
            "final_factor": f"{outcome.metrics['factor']:g}",
        }
        artifacts.append(_write_summary(run, trainer, outcome))
        artifacts.append(
            learning_curves(
                [(run.info.name, run.folder)],
                run.folder / "learning_curve.png",
                metric=run.workload.task.metric,
                target=run.workload.task.target,
                higher_is_better=run.workload.task.higher_is_better,
            )
        )
        print_summary(
            outcome,
            task=run.workload.task,
            folder=run.folder,
            where=tracker.where,
            skipped=read_skips(run.folder),
            emulated=run.workload.emulated,
        )
    except Interrupted as interrupted:
        status = "interrupted"
        print(
            f"Interrupted by {interrupted}; the checkpoint is written. Continue with the same settings and "
            f"{shlex.quote(f'resume={run.folder}')}",
            file=sys.stderr,
        )
        raise SystemExit(128 + interrupted.signal_number) from None
    finally:
        tracker.finish(status=status, artifacts=artifacts, tags=tags)
    return _cost(outcome.metrics)


def _train_along(trainer: Trainer) -> float:
    """The part of a rank for which rank 0 writes and speaks."""
    try:
        outcome = trainer.run()
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.signal_number) from None
    return _cost(outcome.metrics)


def _cost(metrics: Mapping[str, float | None]) -> float:
    fresh = metrics["fresh_examples_to_target"]
    return math.inf if fresh is None else float(fresh)


def _parts(run: TrainingRun) -> str:
    """How a batch is divided, empty where it is not."""
    workload = run.workload
    num_ranks, devices = workload.backend.ranks.num_ranks, workload.settings.accelerator.devices
    if num_ranks * devices == 1:
        return ""
    rows = workload.rank_batch_size // devices
    return f"Batch of {workload.task.batch_size} rows: {num_ranks} processes x {devices} devices x {rows} rows"


def _write_summary(run: TrainingRun, trainer: Trainer, outcome: Outcome) -> Path:
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


def _evaluate(config: Node) -> None:
    path = _checkpoint(read_settings(config))
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


def _export(settings: Settings) -> None:
    checkpoint = _checkpoint(settings)
    path = write_weights(checkpoint.parent.parent / WEIGHTS, checkpoint_weights(checkpoint))
    print(f"The weights of {checkpoint} are in {path}. A new run, in any framework, starts from them with")
    print(shlex.quote(f"weights={path}"))


def _checkpoint(settings: Settings) -> Path:
    if settings.checkpoint is None:
        raise SettingError(
            "checkpoint",
            None,
            allowed="the path of a checkpoint, or of a run folder for its best one",
            cure=f"For instance: python train.py mode={settings.mode} checkpoint=runs/mine",
        )
    return find_checkpoint(Path(settings.checkpoint), best=True)


def _diagnose(config: Node, *, folder: Path | None, project: Path) -> None:
    settings = read_settings(config)
    require(
        settings.echo.after is None,
        "echo",
        settings.echo.name,
        allowed="none with mode=diagnose",
        cure="It measures without echo, and says where to echo and how often.",
    )
    workload = compose_workload(config)
    num_ranks = workload.backend.ranks.num_ranks
    require(
        num_ranks == 1,
        "mode",
        settings.mode,
        allowed=f"train, evaluate with {num_ranks} processes",
        cure="One process measures what each of several would: start it without torchrun or TF_CONFIG.",
    )
    folder = folder or Path(settings.run_dir or datetime.now().strftime("runs/%Y-%m-%d/%H-%M-%S-%f-diagnose"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            "run_dir", str(folder), allowed="a folder that can be written", cure=f"Choose another one ({error})."
        ) from error
    with showing(settings.display) as show:
        measured = measure(
            workload.train_source,
            workload.task.stages(),
            workload.backend,
            batch_size=workload.task.batch_size,
            shuffle_buffer=workload.task.shuffle_buffer,
            seed=settings.seed,
            settings=workload.executor,
            seconds=settings.diagnose.seconds,
            emulated=workload.emulated,
            show=show,
        )
    diagnosis = diagnose(measured)
    fixes = cheap_fixes(measured, diagnosis.bottleneck)
    about = {
        "task": workload.task.name,
        "versions": versions(workload.backend),
        "git_revision": git_revision(project),
        "config": masked_nested(config),
    }
    files = [
        write_json(folder, measured, diagnosis, fixes, about),
        draw(folder, measured, diagnosis, title=f"{workload.task.name}, {settings.backend['name']}"),
    ]
    print_tables(measured, diagnosis, fixes, files=files, console=Console())


def _sync(config: Node) -> None:
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
        _sync_one(run_folder, uri)
    print(f"Everything of {folder} has been sent.")


def _sync_one(folder: Path, uri: str) -> None:
    record = read_record(folder)
    require(
        record is None or record.tracking_uri == without_credentials(uri),
        "tracking.tracking_uri",
        without_credentials(uri),
        allowed=f"{record.tracking_uri if record else ''}, where this run is recorded",
        cure="Name it, with your credentials if it needs some.",
    )
    newest = CheckpointStore(folder).newest()
    if not send_later(folder, tracking_uri=uri, position=newest["spool_position"] if newest else None):
        print(f"Not everything of {folder} could be sent; it is kept. Try again when the server answers.")
        raise SystemExit(1)

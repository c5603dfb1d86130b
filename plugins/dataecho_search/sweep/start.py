"""Composes a sweep from Hydra's configuration and the command line, and runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from omegaconf import OmegaConf, open_dict
from optuna.pruners import BasePruner, NopPruner

from dataecho.build import build
from dataecho.errors import SettingError, require
from dataecho.training.contracts import Task
from dataecho_search.report.display import SweepDisplay, new_display
from dataecho_search.samplers import SamplerFactory
from dataecho_search.space.cells import Cell, read_cells
from dataecho_search.space.dimensions import at, describe
from dataecho_search.space.seeds import digest
from dataecho_search.study.objectives import METRIC, Objective, read_objectives
from dataecho_search.study.results import StudyResult
from dataecho_search.study.storage import open_storage, retry_while_unavailable, silence_optuna
from dataecho_search.study.studies import RESULT_NEUTRAL, StudySpec, open_study
from dataecho_search.sweep.loop import Sweep, SweepParts
from dataecho_search.sweep.member import SweepMember
from dataecho_search.sweep.settings import Node, SweepSettings, backend_name, read_sweep_settings, threads_per_trial
from dataecho_search.workers import trial_process
from dataecho_search.workers.pool import Pool, PoolContext

_FACTS = "sweep.json"
#: The variables that limit a process's compute threads, for each framework.
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "PJRT_NPROC")


@dataclass(frozen=True, kw_only=True)
class HydraParts:
    """Hydra's part of a sweep: what composes a trial's configuration, and the function that runs it. ``config``: that
    of the multirun."""

    context: Any
    task_function: Any
    config: Any


def run_sweep(
    node: Node, arguments: Sequence[str], hydra_context: Any, task_function: Any, config: Any
) -> list[StudyResult]:
    """Run, join or continue the sweep. Raises :class:`SettingError` before anything is started for unusable settings,
    and ``SystemExit`` after a signal or where trials failed."""
    parts = HydraParts(context=hydra_context, task_function=task_function, config=config)
    settings = read_sweep_settings(node)
    parser = OverridesParser.create(config_loader=hydra_context.config_loader)
    cells, fixed = read_cells(settings.params, arguments, parser)
    composed = compose(cells[0], parts)
    is_search = settings.num_repeats > 1 or any(cell.space for cell in cells)
    folder = _folder(settings, cells, fixed, config, composed, is_search=is_search)
    return run_cells(settings, cells, parts, folder=folder, is_search=is_search)


def run_cells(
    settings: SweepSettings,
    cells: Sequence[Cell],
    hydra: HydraParts,
    *,
    folder: Path,
    is_search: bool,
    new_display: Callable[[str], SweepDisplay] = new_display,
) -> list[StudyResult]:
    """Run, join or continue the sweep of ``cells`` in ``folder``. ``new_display`` is given the configuration's
    ``display``. Raises as :func:`run_sweep`."""
    config = hydra.config
    silence_optuna()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    _refuse_launcher(config)
    composed = {cell.name: compose(cell, hydra) for cell in cells}
    first = next(iter(composed.values()))
    objectives = _objectives(settings, first)
    sampler = build(settings.sampler, SamplerFactory, key="hydra.sweeper.sampler")
    for cell in cells:
        sampler.check(cell.space, num_objectives=len(objectives))
    pruner = _pruner(settings, objectives)
    seed_per_trial = is_search and "seed" in first and not any("seed" in cell.all_keys() for cell in cells)
    specs = [
        StudySpec(
            cell=cell,
            repeat=repeat,
            objectives=objectives,
            sampler=sampler,
            sampler_name=json.dumps(settings.sampler, sort_keys=True),
            seed=settings.seed,
            seed_per_trial=seed_per_trial,
            single_run_folder=None if is_search else str(number),
        )
        for number, cell in enumerate(cells)
        for repeat in range(settings.num_repeats)
    ]
    begun_with = json.loads((folder / _FACTS).read_text()) if (folder / _FACTS).exists() else {}
    threads = threads_per_trial(settings, begun_with.get("threads_per_trial"))
    pool_context = PoolContext(
        folder=folder,
        num_slots=min(settings.num_parallel_trials, sum(_num_trials(settings, spec) for spec in specs)),
        threads_per_trial=threads,
        modules=_modules(composed.values()),
        environment={name: os.environ.get(name, str(threads)) for name in _THREADS},
    )
    wait = partial(retry_while_unavailable, url=settings.storage, timeout=settings.storage_timeout, results=folder)
    try:
        wait(lambda: folder.mkdir(parents=True, exist_ok=True))
        storage = wait(lambda: open_storage(settings.storage, folder))
        studies = wait(lambda: [open_study(spec, storage, num_trials=_num_trials(settings, spec)) for spec in specs])
        wait(lambda: _write_facts(folder, config, begun_with, threads))
    except OSError as error:
        raise SettingError(
            "hydra.sweep.dir",
            str(folder),
            allowed="a folder that can be written",
            cure=f"Choose another one ({error}).",
        ) from error
    parts = SweepParts(
        folder=folder,
        settings=settings,
        studies=studies,
        composed=composed,
        shared=trial_process.pack_sweep(hydra.context, hydra.task_function, _with_folder(config, folder)),
        pruner=pruner,
        is_search=is_search,
        display=new_display(str(first.get("display", "auto"))),
        retrying=wait,
        num_slots=pool_context.num_slots,
    )
    with build(settings.pool, Pool, pool_context, key="hydra.sweeper.pool") as pool:
        with SweepMember(folder, num_slots=pool.num_slots) as member:
            return Sweep(parts, pool, member).run()


def _refuse_launcher(config: Any) -> None:
    launcher = config.hydra.runtime.choices.get("hydra/launcher")
    require(
        launcher in (None, "basic"),
        "hydra/launcher",
        launcher,
        allowed="basic: a launcher is not asked here, for pools run the trials",
        cure="Leave it out, and say hydra.sweeper.num_parallel_trials=4, for instance, or hydra/sweeper/pool=ray for "
        "several machines.",
    )


def compose(cell: Cell, hydra: HydraParts) -> Node:
    """Compose the configuration at the middle of a cell's space. Raises where Hydra refuses the overrides."""
    middle = {key: at(dimension, 0.5) for key, dimension in cell.space.items()}
    composed = hydra.context.config_loader.load_sweep_config(hydra.config, [*cell.overrides, *cell.point(middle)])
    with open_dict(composed):
        del composed["hydra"]
    node = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def _objectives(settings: SweepSettings, composed: Node) -> tuple[Objective, ...]:
    names = [settings.objective] if isinstance(settings.objective, str) else settings.objective
    higher_is_better = False
    if METRIC in names:
        higher_is_better = build(composed["task"], Task, key="task").higher_is_better
    return read_objectives(settings.objective, settings.direction, higher_is_better=higher_is_better)


def _pruner(settings: SweepSettings, objectives: Sequence[Objective]) -> BasePruner | None:
    pruner = build(settings.pruner, BasePruner, key="hydra.sweeper.pruner")
    if isinstance(pruner, NopPruner):
        return None
    require(
        len(objectives) == 1,
        "hydra/sweeper/pruner",
        type(pruner).__name__,
        allowed=f"none with {len(objectives)} objectives",
        cure="What is worth going on is not defined there: leave the pruner out, or choose one objective.",
    )
    return pruner


def _num_trials(settings: SweepSettings, spec: StudySpec) -> int:
    """Return the number of trials that shall count: one where there is nothing to search."""
    if not spec.cell.space:
        return 1
    return int(min(settings.num_trials, spec.sampler.num_points(spec.cell.space)))


def _folder(
    settings: SweepSettings,
    cells: Sequence[Cell],
    fixed: Sequence[str],
    config: Any,
    composed: Node,
    *,
    is_search: bool,
) -> Path:
    """Return the sweep's folder: the same for the same command, which thereby continues. A plain multirun has a new
    one."""
    given = any(str(text).startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra)
    if given or not is_search:
        require(
            not given or settings.name is None,
            "hydra.sweeper.name",
            settings.name,
            allowed="nothing together with hydra.sweep.dir",
            cure="Leave one of them out: the name is for a folder in runs/sweeps.",
        )
        return Path(str(config.hydra.sweep.dir)).absolute()
    if settings.name is not None:
        return Path("runs/sweeps", settings.name).absolute()
    about: list[str | int] = [describe(cells[-1].space), json.dumps(settings.sampler, sort_keys=True), settings.seed]
    about += sorted(text for text in fixed if not text.startswith(RESULT_NEUTRAL))
    about += [str(settings.objective), str(settings.direction)]
    task = composed.get("task")
    name = str(task["_target_"]).split(".")[1] if isinstance(task, dict) and "_target_" in task else "sweep"
    return Path("runs/sweeps", f"{name}-{digest(*about, length=6)}").absolute()


def _modules(composed: Any) -> dict[str, list[str]]:
    """Return, by backend, the modules of all parts of its runs, for the fork server to import."""
    modules: dict[str, dict[str, None]] = {}
    for node in composed:
        backend = backend_name(node)
        found = modules.setdefault(backend, {"dataecho_search.workers.preloaded": None})
        if "task" not in node:  # a program other than dataecho
            continue
        found["dataecho.modes"] = None
        parts = [value for value in node.values() if isinstance(value, dict)]
        model = node["task"].get("models", {}).get(backend)
        for part in [*parts, model or {}]:
            target = part.get("_target_")
            if isinstance(target, str) and "." in target:
                found[target.rpartition(".")[0]] = None
                if "mlflow" in target:  # the tracker imports it late
                    found["mlflow.tracking"] = None
    return {backend: list(found) for backend, found in modules.items()}


def _with_folder(config: Any, folder: Path) -> Any:
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
    return config


def _write_facts(folder: Path, config: Any, begun_with: Mapping[str, Any], threads: int) -> None:
    if begun_with:
        return
    OmegaConf.save(config, folder / "multirun.yaml")
    draft = folder / f"{_FACTS}.{os.getpid()}"
    draft.write_text(json.dumps({"threads_per_trial": threads}) + "\n")
    draft.replace(folder / _FACTS)

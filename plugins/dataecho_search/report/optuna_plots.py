"""Draws Optuna's plots of a study as PNGs, which need neither network nor browser."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from dataecho_search.study.results import COMPLETED, StudyResult


def draw_study(result: StudyResult, folder: Path) -> tuple[list[Path], list[str]]:
    """Write ``history``, ``importances``, ``parallel_coordinate`` and ``slice`` into ``folder``, for each objective
    (its name is part of the file's where there are several), and ``pareto_front`` where there are two or three.

    Returns the files, and a sentence for each plot that the trials do not allow, with the reason.
    """
    drawn: list[Path] = []
    missing: dict[str, list[str]] = {}
    with _quiet():
        for name, plot, why, options in _plots(result):
            path = folder / f"{name}.png"
            why = why or _draw(plot, result.study, path, **options)
            if why:
                missing.setdefault(why, []).append(name)
            else:
                drawn.append(path)
    return drawn, [f"{', '.join(names)}: {why}" for why, names in missing.items()]


def _plots(result: StudyResult) -> Iterator[tuple[str, Callable[..., Any], str, dict[str, Any]]]:
    """Yield each plot's name, function, the reason why it cannot be drawn (or an empty text), and options."""
    from optuna.visualization import matplotlib as plots

    several = len(result.objectives) > 1
    for index, objective in enumerate(result.objectives):

        def target(trial: optuna.trial.FrozenTrial, index: int = index) -> float:
            return float(trial.values[index])

        for name, plot in (
            ("history", plots.plot_optimization_history),
            ("importances", plots.plot_param_importances),
            ("parallel_coordinate", plots.plot_parallel_coordinate),
            ("slice", plots.plot_slice),
        ):
            options = {"target_name": objective.replace("_", " "), **({"target": target} if several else {})}
            yield f"{name}_{objective}" if several else name, plot, _why_not(result, name, index), options
    if len(result.objectives) in (2, 3):
        why = _why_not(result, "pareto_front", 0)
        yield "pareto_front", plots.plot_pareto_front, why, {"target_names": list(result.objectives)}


def _why_not(result: StudyResult, plot: str, index: int) -> str:
    """Return why the trials do not allow ``plot``, else an empty text. Optuna would draw an empty figure or raise."""
    done = [trial for trial in result.trials if trial.state == COMPLETED and len(trial.values) > index]
    finite = [trial for trial in done if math.isfinite(trial.values[index])]
    if not done:
        return "no trial has completed"
    if not finite:
        return f"none of {len(done)} completed trials has a finite value: all missed the target"
    if plot == "importances" and len({trial.values[index] for trial in finite}) < 2:
        return f"it compares values, and {len(finite)} trials with a finite one have all the same"
    if plot == "importances" and not any(
        len({trial.params.get(name) for trial in finite}) > 1 for name in result.space
    ):
        return "no parameter differs between the trials with a finite value"
    if plot in ("importances", "parallel_coordinate", "slice") and not result.space:
        return "nothing was searched"
    return ""


def _draw(plot: Callable[..., Any], study: optuna.Study | None, path: Path, **options: Any) -> str:
    """Draw and save. Return the reason if that failed, else an empty text."""
    from matplotlib import pyplot

    if study is None:
        return "the study's storage is not at hand"
    try:
        plot(study, **options)
        pyplot.gcf().savefig(path, dpi=100, bbox_inches="tight")
    except Exception as error:  # a missing figure must not cost a sweep's results
        return f"{type(error).__name__}: {error}"
    finally:
        pyplot.close("all")
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Draw without a window and a lasting change of style, and silence what :func:`_why_not` says better."""
    import matplotlib

    logger = logging.getLogger("optuna")
    level = logger.level
    with warnings.catch_warnings(), matplotlib.rc_context({"backend": "agg"}):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", module="optuna")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)

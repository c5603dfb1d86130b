"""Studies as plain records, for tables, reports and trackers. Only reading them imports Optuna."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

COMPLETED, PRUNED, DIVERGED, FAILED = "completed", "pruned", "diverged", "failed"
RETRIED = "retried"  # failed, and repeated by another trial
RUNNING, WAITING = "running", "waiting"
COUNTED = (COMPLETED, PRUNED)

#: A winner in this outer share of a dimension lies at its border: the space may be too small (paper, section 3).
BORDER_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial. ``state``: one of the names above; ``values``: one for each objective, infinite for a missed target,
    empty unless completed; ``folder``: the run folder, relative to the sweep's; ``metrics``: the numbers of its
    summary; ``seconds``: from its claim to its end."""

    number: int
    state: str
    params: Mapping[str, Any]
    values: tuple[float, ...]
    folder: str
    seed: int | None
    metrics: Mapping[str, float]
    mlflow_run_id: str | None
    seconds: float | None

    @property
    def reached(self) -> bool:
        """Whether it has completed with a finite value for every objective."""
        return self.state == COMPLETED and bool(self.values) and all(math.isfinite(value) for value in self.values)


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """One study: a cell in one repeat. ``cell``: the fixed settings that name it; ``space``: its dimensions, each as
    Optuna serializes it (name, attributes); ``study``: the Optuna study, for Optuna's plots."""

    name: str
    cell: Mapping[str, str]
    repeat: int
    objectives: tuple[str, ...]
    directions: tuple[str, ...]
    space: Mapping[str, Mapping[str, Any]]
    num_trials: int
    trials: tuple[TrialResult, ...]
    study: optuna.Study | None = field(default=None, repr=False, compare=False)

    @property
    def cell_name(self) -> str:
        """The study's name without its repeat."""
        return self.name.rpartition("/")[0]

    @property
    def num_counted(self) -> int:
        """The number of completed and pruned trials."""
        return sum(trial.state in COUNTED for trial in self.trials)

    @property
    def finished(self) -> bool:
        """Whether it has all its trials."""
        return self.num_counted >= self.num_trials

    @property
    def winner(self) -> TrialResult | None:
        """The trial with the best value, the earliest of equals; None where none reached the target, or with several
        objectives."""
        if len(self.objectives) != 1:
            return None
        (sign,) = self.signs
        reached = [trial for trial in self.trials if trial.reached]
        return min(reached, key=lambda trial: (sign * trial.values[0], trial.number), default=None)

    @property
    def signs(self) -> tuple[float, ...]:
        """For each objective the factor that makes smaller values better: 1 or -1."""
        return tuple(1.0 if direction == "minimize" else -1.0 for direction in self.directions)

    @property
    def front(self) -> tuple[TrialResult, ...]:
        """The Pareto front: trials that no other beats in every objective; with one objective, the winner."""
        if len(self.objectives) == 1:
            return (self.winner,) if self.winner else ()
        reached = [trial for trial in self.trials if trial.reached]
        signed = [[sign * value for sign, value in zip(self.signs, trial.values, strict=True)] for trial in reached]

        def is_beaten(values: list[float]) -> bool:
            return any(other != values and all(a <= b for a, b in zip(other, values, strict=True)) for other in signed)

        return tuple(trial for trial, values in zip(reached, signed, strict=True) if not is_beaten(values))

    @property
    def border_warnings(self) -> tuple[str, ...]:
        """A sentence for each dimension in which the winner lies at the border of the space: the optimum may lie
        beyond."""
        if self.winner is None:
            return ()
        warnings = []
        for name, description in self.space.items():
            side = border(description, self.winner.params.get(name))
            if side:
                low, high = description["attributes"]["low"], description["attributes"]["high"]
                warnings.append(
                    f"{self.name}: the winner's {name}={self.winner.params[name]:.4g} lies at the {side} end of "
                    f"{low:g} to {high:g}: widen it there."
                )
        return tuple(warnings)


def border(description: Mapping[str, Any], value: Any) -> str:
    """Return ``lower`` or ``upper`` where ``value`` lies in the outer :data:`BORDER_SHARE` of a numeric dimension (of
    its logarithm, where that is searched), else an empty text. Choices, and dimensions of two values, have no
    border."""
    attributes = description.get("attributes", {})
    if value is None or "low" not in attributes:
        return ""
    low, high = float(attributes["low"]), float(attributes["high"])
    if high <= low:
        return ""
    step = attributes.get("step")
    if step is not None and not attributes.get("log") and high - low < 2 * step:
        return ""
    scale = math.log if attributes.get("log") else float
    share = (scale(value) - scale(low)) / (scale(high) - scale(low))
    if share <= BORDER_SHARE:
        return "lower"
    return "upper" if share >= 1 - BORDER_SHARE else ""


def read_results(storage: optuna.storages.BaseStorage) -> list[StudyResult]:
    """Read every study that a sweep left in ``storage``, in order of creation; other studies are skipped."""
    import optuna

    results = []
    for frozen in sorted(storage.get_all_studies(), key=lambda frozen: frozen._study_id):
        if "cell" in frozen.user_attrs:
            study = optuna.load_study(study_name=frozen.study_name, storage=storage)
            results.append(study_result(study))
    return results


def study_result(study: optuna.Study) -> StudyResult:
    """Read one study of a sweep."""
    attributes, trials = study.user_attrs, study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    return StudyResult(
        name=study.study_name,
        cell=attributes["cell"],
        repeat=attributes["repeat"],
        objectives=tuple(attributes["objectives"]),
        directions=tuple(direction.name.lower() for direction in study.directions),
        space=json.loads(attributes["space"]),
        num_trials=attributes["num_trials"],
        trials=tuple(_trial_result(trial, retried=trial.number in retried) for trial in trials),
        study=study,
    )


def _trial_result(trial: optuna.trial.FrozenTrial, *, retried: bool) -> TrialResult:
    from optuna.trial import TrialState

    attributes, completed = trial.user_attrs, trial.state == TrialState.COMPLETE
    return TrialResult(
        number=trial.number,
        state=RETRIED if retried else _state(trial),
        params=dict(trial.params),
        values=tuple(trial.values) if completed and trial.values is not None else (),
        folder=attributes.get("folder", ""),
        seed=attributes.get("seed"),
        metrics=attributes.get("metrics", {}),
        mlflow_run_id=attributes.get("mlflow_run_id"),
        seconds=trial.duration.total_seconds() if trial.duration else None,
    )


def _state(trial: optuna.trial.FrozenTrial) -> str:
    # The reason is recorded before the state: a trial whose state is finished has one.
    return str(trial.user_attrs.get("state_reason")) if trial.state.is_finished() else trial.state.name.lower()

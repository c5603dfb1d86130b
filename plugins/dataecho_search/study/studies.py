"""One Optuna study for each cell and repeat, and every step in a trial's life.

A trial keeps its number. It is asked for (with all its parameters, and then waits), claimed by a member of the sweep
(and runs), and finished, or released to wait again where its worker was lost. A kill can cut any step; the next leader
sees the unfinished step and completes it. Only this module uses Optuna's private access to trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from dataecho.errors import SettingError, shown
from dataecho.masking import masked_text
from dataecho_search.samplers import SamplerFactory
from dataecho_search.space.cells import Cell
from dataecho_search.space.dimensions import describe
from dataecho_search.space.seeds import derive, digest
from dataecho_search.study.objectives import Objective, RunOutcome
from dataecho_search.study.results import COMPLETED, COUNTED, FAILED, PRUNED

_OPEN = (TrialState.RUNNING, TrialState.WAITING)
_SECONDS_TO_SIGN = 5.0  # at most between a claim and the record of its owner


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The identity of a study: one of the same name that differs in any of it is refused. ``seed``: the sweep's;
    ``seed_per_trial``: whether every trial has its own training seed; ``single_run_folder``: the run folder where the
    study is a single run."""

    cell: Cell
    repeat: int
    objectives: tuple[Objective, ...]
    sampler: SamplerFactory
    sampler_name: str
    seed: int
    seed_per_trial: bool
    single_run_folder: str | None = None

    @property
    def name(self) -> str:
        """``<cell>/<repeat>``."""
        return f"{self.cell.name}/{self.repeat}"

    @property
    def study_seed(self) -> int:
        """The seed of the study's points."""
        return derive(self.seed, self.name, "points")

    def identity(self) -> dict[str, Any]:
        """The identity as attributes of the Optuna study."""
        return {
            "cell": dict(self.cell.facts),
            "repeat": self.repeat,
            "objectives": [objective.name for objective in self.objectives],
            "space": describe(self.cell.space),
            "sampler": self.sampler_name,
            "sampler_seed": self.study_seed,
            "fixed": sorted(masked_text(text) for text in self.cell.overrides if not text.startswith(RESULT_NEUTRAL)),
        }


#: Overrides that do not change a trial's result: a sweep may be continued with others.
RESULT_NEUTRAL = ("tracking", "display", "checkpoints.", "pipeline", "+tracking")


@dataclass
class Study:
    """An open study. ``num_trials``: how many trials shall count in the end."""

    spec: StudySpec
    study: optuna.Study
    num_trials: int
    _unsigned: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    def trials(self) -> list[FrozenTrial]:
        """Read all trials."""
        return self.study.get_trials(deepcopy=False)

    # ---- asking: the leader only

    def recover(self, is_alive: Callable[[str], bool], *, alone: bool) -> list[FrozenTrial]:
        """Complete unfinished asks, and return the running trials whose owner is dead. ``alone``: no other member
        lives, so a claim without an owner is dead too."""
        orphans = []
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            if "folder" not in trial.user_attrs:
                self._complete_asking(trial.number)
                continue
            owner = trial.user_attrs.get("owner")
            if owner is None and not alone:
                since = self._unsigned.setdefault(trial.number, time.monotonic())
                if time.monotonic() - since > _SECONDS_TO_SIGN:
                    orphans.append(trial)
            elif owner is None or not is_alive(owner):
                orphans.append(trial)
        return orphans

    def ask(self) -> int:
        """Add a waiting trial at the next point and return its number."""
        trial_id = self._storage.create_new_trial(self.study._study_id)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._complete_asking(number)
        return number

    def retry(self, trial: FrozenTrial) -> int:
        """Add, in one step, a waiting trial that repeats the failed ``trial``; return its number."""
        attributes = {name: trial.user_attrs[name] for name in ("ordinal", "seed", "folder")}
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**attributes, "retry_of": trial.number},
            )
        )
        return len(self.trials()) - 1

    def _next_ordinal(self) -> int:
        return sum("retry_of" not in trial.user_attrs for trial in self.trials())

    def _complete_asking(self, number: int) -> None:
        trials = self.trials()
        ordinal = sum("retry_of" not in trial.user_attrs for trial in trials[:number])
        self.study.sampler = self._sampler(ordinal)
        trial = optuna.trial.Trial(self.study, trials[number]._trial_id)
        for name, distribution in self.spec.cell.space.items():
            trial._suggest(name, distribution)
        trial.set_user_attr("ordinal", ordinal)
        if self.spec.seed_per_trial:
            trial.set_user_attr("seed", derive(self.spec.seed, self.name, "training", ordinal))
        trial.set_user_attr("folder", self._folder(ordinal, self._trial(number).params))
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _sampler(self, ordinal: int) -> optuna.samplers.BaseSampler:
        return self.spec.sampler.sampler(self.spec.cell.space, seed=self.spec.study_seed, ordinal=ordinal)

    def _folder(self, ordinal: int, params: Mapping[str, Any]) -> str:
        if self.spec.single_run_folder is not None:
            return self.spec.single_run_folder
        point = digest(self.name, *(f"{key}={params[key]!r}" for key in sorted(params)))
        return f"{self.name}/{ordinal:04d}-{point}"

    # ---- running: any member

    def abandoned(self, owner: str, *, running: Container[int]) -> list[int]:
        """The numbers of trials that ``owner`` claimed but does not run, because an error came between the two."""
        return [
            trial.number
            for trial in self.trials()
            if trial.state == TrialState.RUNNING
            and trial.user_attrs.get("owner") == owner
            and trial.number not in running
        ]

    def claim(self, number: int, owner: str) -> bool:
        """Claim a waiting trial for ``owner``; of several members that try, one gets True."""
        trial_id = self._id(number)
        try:
            if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return False
        except RuntimeError:  # it is finished
            return False
        self._storage.set_trial_user_attr(trial_id, "owner", owner)
        return True

    def release(self, number: int) -> None:
        """Let a running trial wait again."""
        self._storage.set_trial_user_attr(self._id(number), "owner", None)
        self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def count_loss(self, number: int) -> int:
        """Record one more lost worker of the trial and return their number."""
        losses = self._trial(number).user_attrs.get("losses", 0) + 1
        self._storage.set_trial_user_attr(self._id(number), "losses", losses)
        return int(losses)

    def finish(self, number: int, outcome: RunOutcome) -> None:
        """Record the end of a trial. May be repeated."""
        if self._trial(number).state.is_finished():
            return
        trial_id = self._id(number)
        attributes = {
            "metrics": dict(outcome.metrics),
            "mlflow_run_id": outcome.mlflow_run_id,
            "state_reason": outcome.state,
        }
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        if outcome.state == COMPLETED:
            self.study.tell(number, list(outcome.values))
        else:
            state = TrialState.PRUNED if outcome.state == PRUNED else TrialState.FAIL
            self.study.tell(number, state=state, skip_if_finished=True)

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial failed, and why."""
        self._storage.set_trial_user_attr(self._id(number), "error", reason)
        self.finish(number, RunOutcome(FAILED, (), {}, None))

    # ---- counting

    def counts(self) -> StudyCounts:
        """Count the trials by their state."""
        trials = self.trials()
        retried = {trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs}
        reasons = [
            "retried" if trial.number in retried else trial.user_attrs.get("state_reason", "") for trial in trials
        ]
        return StudyCounts(
            num_counted=sum(
                reason in COUNTED and trial.state.is_finished() for trial, reason in zip(trials, reasons, strict=True)
            ),
            num_open=sum(trial.state in _OPEN for trial in trials),
            num_diverged=reasons.count("diverged"),
            failed=tuple(trial for trial, reason in zip(trials, reasons, strict=True) if reason == FAILED),
            waiting=tuple(trial.number for trial in trials if trial.state == TrialState.WAITING),
            num_asked=self._next_ordinal(),
        )

    @property
    def _storage(self) -> BaseStorage:
        return self.study._storage

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))


@dataclass(frozen=True)
class StudyCounts:
    """Trials of a study by state. ``num_counted``: completed and pruned; ``num_open``: asked and not finished,
    including ``waiting``; ``failed``: those without another attempt; ``num_asked``: points so far."""

    num_counted: int
    num_open: int
    num_diverged: int
    failed: Sequence[FrozenTrial]
    waiting: Sequence[int]
    num_asked: int


def open_study(spec: StudySpec, storage: BaseStorage, *, num_trials: int) -> Study:
    """Create or continue the study. Raises :class:`SettingError` where one of this name has another identity."""
    wanted_directions = [objective.direction for objective in spec.objectives]
    study = optuna.create_study(
        study_name=spec.name, storage=storage, directions=wanted_directions, load_if_exists=True
    )
    wanted, found = spec.identity(), study.user_attrs
    if "num_trials" not in found and not study.get_trials(deepcopy=False):
        for key, value in wanted.items():  # the study is new, or its creator was killed just here
            study.set_user_attr(key, value)
        study.set_user_attr("num_trials", num_trials)
        found = study.user_attrs
    if isinstance(found.get("fixed"), list):  # older versions stored them with their secrets
        found = {**found, "fixed": sorted(map(masked_text, found["fixed"]))}
    for key, value in wanted.items():
        if found.get(key) != value:
            raise _other(spec.name, key, value, found.get(key))
    directions = [direction.name.lower() for direction in study.directions]
    if directions != wanted_directions:
        raise _other(spec.name, "direction", wanted_directions, directions)
    if found["num_trials"] != num_trials:
        study.set_user_attr("num_trials", num_trials)
    return Study(spec, study, num_trials)


def running_trial(storage: BaseStorage, study_name: str, number: int, pruner: BasePruner) -> optuna.trial.Trial:
    """Open, in the process that runs it, a trial that another process asked for, to report to it."""
    study = optuna.load_study(
        study_name=study_name, storage=storage, sampler=optuna.samplers.RandomSampler(), pruner=pruner
    )
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return optuna.trial.Trial(study, trial_id)


def _other(name: str, key: str, given: Any, there: Any) -> SettingError:
    return SettingError(
        f"{key} of the study {name}",
        given,
        allowed=f"{shown(there)}, with which the study of that name was begun",
        cure="Continue it with that, or begin another: give another hydra.sweeper.name or hydra.sweep.dir.",
    )

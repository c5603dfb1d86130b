"""The loop of a sweep: ask, start, tell, with no barrier anywhere.

::

    loop, until every study has its trials:
        if this process holds the lease: complete what others left half done; ask as many points as there is room for
        start waiting trials while there are free slots
        tell each trial that has ended

Every member of a sweep runs this loop; only the one with the lease asks. Every step can be cut by a kill, and is
continued by the same command from what storage and folders say.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from dataecho.report.summary import FILE_NAME as SUMMARY
from dataecho.training.checkpoint import FOLDER as CHECKPOINTS
from dataecho.training.disk import EXIT_CODE as DISK_FULL
from dataecho.training.interruption import SIGNALS, Interruption
from dataecho_search.report.background import Background
from dataecho_search.report.display import SweepDisplay
from dataecho_search.report.mlflow_parents import left_to_send, open_parent, open_sweep, trial_overrides
from dataecho_search.report.sweep_report import write_report
from dataecho_search.report.winners import print_winners
from dataecho_search.study.objectives import Outcome, read_outcome
from dataecho_search.study.pruning import Link
from dataecho_search.study.results import COMPLETED, StudyResult, study_result
from dataecho_search.study.storage import make_sure_of_room
from dataecho_search.study.studies import Standing, Study
from dataecho_search.sweep.members import Membership
from dataecho_search.sweep.settings import Node, SweepSettings
from dataecho_search.workers import trial_process
from dataecho_search.workers.pool import Completion, Job, Pool

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.5
_MOST_LOSSES = 3
_SECONDS_FOR_CHECKPOINTS = 60.0
_INTERRUPTED = tuple(128 + number for number in SIGNALS)


@dataclass(frozen=True, kw_only=True)
class SweepParts:
    """``composed``: by cell, the configuration of a run in the middle of its space; ``shared``: what all jobs have in
    common; ``patiently(call)`` outlasts a database that does not answer."""

    folder: Path
    settings: SweepSettings
    studies: Sequence[Study]
    composed: Mapping[str, Node]
    shared: bytes
    pruner: BasePruner | None
    is_search: bool
    display: SweepDisplay
    patiently: Callable[[Callable[[], Any]], Any]
    num_slots: int


class Sweep:
    """This process's part in a sweep."""

    def __init__(self, parts: SweepParts, pool: Pool, membership: Membership) -> None:
        self._parts, self._pool, self._membership = parts, pool, membership
        self._open = list(parts.studies)
        self._running: dict[str, tuple[Study, int]] = {}
        self._parents: dict[str, str | None] = {}
        self._given_up: dict[str, str] = {}
        self._errors: list[str] = []
        self._interruption = Interruption()
        self._num_started = 0
        self._needs_room = False
        self._background = Background()

    def run(self) -> list[StudyResult]:
        """To the end. Raises ``SystemExit`` after a signal, and where trials failed."""
        try:
            with self._interruption, self._parts.display:
                self._parts.patiently(self._show_all)
                self._loop()
        finally:
            self._background.close()
        return self._conclude()

    # ---- the loop

    def _loop(self) -> None:
        first = True
        while not self._interruption.signal_number:
            self._parts.patiently(lambda first=first: self._lead(may_retry=first))
            first = False
            self._parts.patiently(self._start_waiting)
            if not self._open:
                return
            for completion in self._pool.wait(_SECONDS_BETWEEN_LOOKS):
                self._parts.patiently(lambda completion=completion: self._ended(completion))
        self._stop()

    def _lead(self, *, may_retry: bool) -> None:
        """What only the holder of the lease does; and see which studies are done."""
        self._take_up_abandoned()
        took_over = self._membership.take_lease()
        if self._membership.asks:
            others = self._membership.others()
            for study in self._open:
                for trial in study.recover(self._membership.lives, alone=not others):
                    self._put_back(study, trial)
            if took_over and may_retry and not others:
                for study in self._open:
                    for trial in study.standing().failed:
                        study.retry(trial)
            self._ask(self._pool.num_slots + sum(others.values()))
        done = [study for study in self._open if self._is_done(study, study.standing())]
        for study in done:
            self._open.remove(study)
            if self._membership.asks:
                self._study_ended(study)

    def _take_up_abandoned(self) -> None:
        """A step that was repeated, because a database or a disk failed in it, may have left a claim behind."""
        for study in self._open:
            running = {number for other, number in self._running.values() if other is study}
            for number in study.abandoned(self._membership.name, running=running):
                study.release(number)

    def _ask(self, room: int) -> None:
        """As many points as there is room for in all members, in the order of the studies."""
        for study in self._open:
            standing = study.standing()
            room -= standing.num_open
            if self._why_given_up(study, standing):
                continue
            wanted = min(
                study.num_trials - standing.num_counted - standing.num_open,
                study.plan.sampler.num_points(study.plan.cell.space) - standing.num_asked,
                1 - standing.num_asked if not study.plan.cell.space else room,
                room,
            )
            for _ in range(int(max(0, wanted))):
                study.ask()
            room -= int(max(0, wanted))
            if room <= 0:
                return

    def _is_done(self, study: Study, standing: Standing) -> bool:
        if standing.num_open:
            return False
        if standing.num_counted >= study.num_trials:
            return True
        reason = self._why_given_up(study, standing)
        if reason:
            self._given_up[study.name] = reason
        space = study.plan.cell.space
        asked_all = standing.num_asked >= (study.plan.sampler.num_points(space) if space else 1)
        return bool(reason) or asked_all

    def _why_given_up(self, study: Study, standing: Standing) -> str:
        settings = self._parts.settings
        if standing.num_diverged > settings.most_diverged:
            return (
                f"{standing.num_diverged} of {standing.num_asked} trials diverged "
                f"(hydra.sweeper.max_diverged_trials={settings.most_diverged}): lower the upper end of "
                f"{', '.join(study.plan.cell.space) or 'what makes it diverge'}."
            )
        if len(standing.failed) > settings.max_failed_trials:
            error = standing.failed[-1].user_attrs.get("error", "")
            return (
                f"{len(standing.failed)} trials failed (hydra.sweeper.max_failed_trials="
                f"{settings.max_failed_trials}), the last one with: {error}"
            )
        return ""

    # ---- trials

    def _start_waiting(self) -> None:
        if self._needs_room:
            make_sure_of_room(self._parts.folder)
            self._needs_room = False
        for study in self._open:
            for number in study.standing().waiting:
                if len(self._running) >= self._pool.num_slots:
                    return
                trial = study.trials()[number]
                if self._told_from_folder(study, trial) or not study.claim(number, self._membership.name):
                    continue
                self._start(study, trial)

    def _start(self, study: Study, trial: FrozenTrial) -> None:
        self._num_started += 1
        key = f"{study.name} {trial.number} {self._num_started}"
        folder = trial.user_attrs["folder"]
        composed = self._parts.composed[study.plan.cell.name]
        payload = trial_process.pack(
            self._parts.shared,
            trial_process.Trial(
                overrides=self._overrides(study, trial, composed),
                number=trial.number if self._parts.is_search else self._parts.studies.index(study),
                sweep_dir=self._parts.folder,
                subdir=folder,
                link=self._link(study, trial),
                submitted=time.time(),
            ),
        )
        self._running[key] = (study, trial.number)
        backend = composed.get("backend")
        self._pool.submit(
            Job(
                key=key,
                backend=str(backend.get("name", "")) if isinstance(backend, Mapping) else "",
                folder=self._parts.folder / folder,
                payload=payload,
            )
        )
        self._parts.display.started(study.name, trial.number)

    def _overrides(self, study: Study, trial: FrozenTrial, composed: Node) -> list[str]:
        cell = study.plan.cell
        overrides = [*cell.overrides, *cell.point(trial.params)]
        mine = {text.partition("=")[0].lstrip("+") for text in overrides}
        if "seed" in trial.user_attrs:
            overrides.append(f"seed={trial.user_attrs['seed']}")
        if composed.get("mode") == "train" and "resume" not in mine:
            overrides.append("resume=auto")
        if self._parts.pruner is not None and "pruner" in composed:
            overrides.append("pruner._target_=dataecho_search.study.pruning.OptunaPruner")
        tracking = composed.get("tracking")
        if self._parts.is_search and isinstance(tracking, Mapping):
            tags = {"study": study.name, "repeat": str(study.plan.repeat), "trial": str(trial.number)}
            name = f"trial {trial.number} of {study.name}"
            overrides += trial_overrides(self._parent(study, tracking), name=name, tags=tags)
        return overrides

    def _parent(self, study: Study, tracking: Mapping[str, Any]) -> str | None:
        folder, cell = self._parts.folder, study.plan.cell
        if not self._parents and len(self._parts.studies) > 1:
            open_sweep(tracking, folder, {"num_studies": str(len(self._parts.studies))})
        if study.name not in self._parents:
            tags = {**cell.facts, "repeat": str(study.plan.repeat)}
            self._parents[study.name] = open_parent(tracking, folder, study.name, tags)
        return self._parents[study.name]

    def _link(self, study: Study, trial: FrozenTrial) -> Link | None:
        if self._parts.pruner is None:
            return None
        return Link(
            storage=self._parts.settings.storage,
            sweep_dir=self._parts.folder,
            study_name=study.name,
            number=trial.number,
            pruner=self._parts.pruner,
        )

    def _ended(self, completion: Completion) -> None:
        """May be repeated; the last step forgets the job."""
        study, number = self._running[completion.key]
        trial = study.trials()[number]
        folder = self._parts.folder / trial.user_attrs["folder"]
        outcome = read_outcome(folder, study.plan.objectives)
        if outcome is None and completion.exit_code == 0 and not self._parts.is_search:  # another mode than train
            outcome = Outcome(COMPLETED, tuple(float("inf") for _ in study.plan.objectives), {}, None)
        if outcome is not None and not trial.state.is_finished():
            study.finish(number, outcome)
            self._finished(study, number)
        elif completion.exit_code in _INTERRUPTED or (completion.is_lost and self._interruption.signal_number):
            study.release(number)
        elif (completion.is_lost or completion.exit_code == DISK_FULL) and study.count_loss(number) < _MOST_LOSSES:
            if completion.is_lost:
                log.warning("Trial %d of %s lost its worker (%s); it goes on.", number, study.name, completion.reason)
            else:
                log.warning("Trial %d of %s met a full disk; it goes on when there is room.", number, study.name)
                self._needs_room = True
            study.release(number)
        elif not trial.state.is_finished():
            self._failed(study, number, _reason(completion, folder))
        self._running.pop(completion.key)

    def _failed(self, study: Study, number: int, reason: str) -> None:
        folder = study.trials()[number].user_attrs["folder"]
        self._errors.append(f"{folder}: {reason} (its output: {self._parts.folder / folder / trial_process.OUTPUT})")
        study.fail(number, reason)
        self._finished(study, number)

    def _told_from_folder(self, study: Study, trial: FrozenTrial) -> bool:
        """A run that had ended when whoever was to tell it was killed."""
        outcome = read_outcome(self._parts.folder / trial.user_attrs["folder"], study.plan.objectives)
        if outcome is None or not study.claim(trial.number, self._membership.name):
            return False
        study.finish(trial.number, outcome)
        self._finished(study, trial.number)
        return True

    def _put_back(self, study: Study, trial: FrozenTrial) -> None:
        if (study, trial.number) not in self._running.values():
            study.release(trial.number)

    def _finished(self, study: Study, number: int) -> None:
        result = study_result(study.study)
        self._drop_checkpoints(result, number)
        self._parts.display.finished(result, number)

    def _drop_checkpoints(self, result: StudyResult, number: int) -> None:
        """Of all that cannot win any more; a failed trial may be tried again."""
        if not self._parts.is_search or self._parts.settings.keep_checkpoints == "all":
            return
        kept = {trial.folder for trial in result.front}
        is_best = result.trials[number].folder in kept
        for trial in result.trials if is_best else [result.trials[number]]:
            if trial.state in ("completed", "pruned", "diverged") and trial.folder not in kept:
                shutil.rmtree(self._parts.folder / trial.folder / CHECKPOINTS, ignore_errors=True)

    # ---- the end

    def _study_ended(self, study: Study) -> None:
        self._parts.display.ended(study.name)
        if self._parts.is_search:
            results = [study_result(other.study) for other in self._parts.studies if other not in self._open]
            self._report(results)

    def _report(self, results: Sequence[StudyResult], *, ended: bool = False) -> None:
        tracking = next(iter(self._parts.composed.values())).get("tracking", {})
        self._background.run(lambda: write_report(results, self._parts.folder, tracking, ended=ended))

    def _show_all(self) -> None:
        for study in self._parts.studies:
            self._parts.display.study(study_result(study.study))

    def _conclude(self) -> list[StudyResult]:
        results: list[StudyResult] = self._parts.patiently(
            lambda: [study_result(study.study) for study in self._parts.studies]
        )
        if self._parts.is_search:
            self._report(results, ended=True)
            self._background.close()
        if self._interruption.signal_number:
            print("Interrupted; checkpoints are written. The same command continues the sweep.", file=sys.stderr)
            raise SystemExit(128 + self._interruption.signal_number)
        if self._parts.is_search:
            print_winners(results, self._parts.folder)
        left = left_to_send(self._parts.folder)
        if left:
            print(f"warning: {left}", file=sys.stderr)
        for name, reason in self._given_up.items():
            print(f"error: the study {name} was given up: {reason}", file=sys.stderr)
        for error in self._errors:
            print(f"error: {error}", file=sys.stderr)
        if self._given_up or self._errors:
            raise SystemExit(1)
        return results

    def _stop(self) -> None:
        """End what runs, with checkpoints; at once after another signal, or when that takes too long."""
        self._pool.interrupt()
        deadline = time.monotonic() + _SECONDS_FOR_CHECKPOINTS
        while self._running and time.monotonic() < deadline:
            for completion in self._pool.wait(_SECONDS_BETWEEN_LOOKS):
                self._parts.patiently(lambda completion=completion: self._ended(completion))
        self._pool.close()


def _reason(completion: Completion, folder: Path) -> str:
    if completion.is_lost:
        return f"its worker was lost {_MOST_LOSSES} times, the last time: {completion.reason}"
    try:
        return (folder / trial_process.ERROR).read_text().strip()
    except FileNotFoundError:
        return f"it ended with exit code {completion.exit_code} and left no {SUMMARY}"

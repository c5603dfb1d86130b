"""The loop of a sweep: ask, start, finish, without a barrier.

::

    loop, until every study has its trials:
        if this process leads: complete steps that a kill has cut; ask for as many points as there are free slots
        start waiting trials while there are free slots
        finish each trial whose process has ended

Every member of a sweep runs this loop; only the leader asks. A kill can cut any step: the same command reads storage
and folders, and completes it."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from dataecho.report.summary import FILE_NAME as SUMMARY
from dataecho.training.checkpoint import FOLDER as CHECKPOINTS
from dataecho.training.disk import EXIT_CODE as DISK_FULL
from dataecho.training.interruption import SIGNALS, Interruption
from dataecho_search.report.display import SweepDisplay
from dataecho_search.report.mlflow_parents import (
    note_end,
    open_parent,
    open_sweep,
    trial_overrides,
    unsent_warning,
)
from dataecho_search.report.report_thread import ReportThread
from dataecho_search.report.sweep_report import write_report
from dataecho_search.report.winners import print_winners
from dataecho_search.study.objectives import RunOutcome, read_run_outcome
from dataecho_search.study.pruning import StudyLink
from dataecho_search.study.results import COMPLETED, StudyResult, study_result
from dataecho_search.study.storage import require_disk_space
from dataecho_search.study.studies import Study, StudyCounts
from dataecho_search.sweep.member import SweepMember
from dataecho_search.sweep.settings import Node, SweepSettings, backend_name
from dataecho_search.workers import trial_process
from dataecho_search.workers.pool import Completion, Pool, TrialAttempt

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_LOSSES = 3
_SECONDS_FOR_CHECKPOINTS = 60.0
_INTERRUPTED = tuple(128 + number for number in SIGNALS)


@dataclass(frozen=True, kw_only=True)
class SweepParts:
    """The parts of a sweep. ``composed``: by cell, the configuration at the middle of its space; ``shared``: the common
    part of all payloads; ``retrying(call)`` repeats a call while the storage is unavailable."""

    folder: Path
    settings: SweepSettings
    studies: Sequence[Study]
    composed: Mapping[str, Node]
    shared: bytes
    pruner: BasePruner | None
    is_search: bool
    display: SweepDisplay
    retrying: Callable[[Callable[[], Any]], Any]
    num_slots: int


class Sweep:
    """A sweep as one of its members runs it."""

    def __init__(self, parts: SweepParts, pool: Pool, member: SweepMember) -> None:
        self._parts, self._pool, self._member = parts, pool, member
        self._open = list(parts.studies)
        self._running: dict[str, tuple[Study, int]] = {}
        self._parents: dict[str, str | None] = {}
        self._given_up: dict[str, str] = {}
        self._errors: list[str] = []
        self._interruption = Interruption()
        self._num_started = 0
        self._disk_was_full = False
        self._report_thread = ReportThread()

    def run(self) -> list[StudyResult]:
        """Run to the end and return the results. Raises ``SystemExit`` after a signal, and where trials failed."""
        try:
            with self._interruption, self._parts.display:
                self._parts.retrying(self._show_all)
                self._loop()
        finally:
            self._report_thread.close()
        return self._conclude()

    # ---- the loop

    def _loop(self) -> None:
        first = True
        while not self._interruption.signal_number:
            self._parts.retrying(partial(self._lead, may_retry=first))
            first = False
            self._parts.retrying(self._start_waiting)
            if not self._open:
                return
            for completion in self._pool.wait(_SECONDS_BETWEEN_LOOKS):
                self._parts.retrying(partial(self._on_completion, completion))
        self._stop()

    def _lead(self, *, may_retry: bool) -> None:
        """Do the leader's part if this process leads, and close the studies that are done."""
        self._release_abandoned()
        took_over = self._member.try_to_lead()
        if self._member.is_leader:
            others = self._member.other_members()
            for study in self._open:
                for trial in study.recover(self._member.is_alive, alone=not others):
                    self._release_orphan(study, trial)
            if took_over and may_retry and not others:
                for study in self._open:
                    for trial in study.counts().failed:
                        study.retry(trial)
            self._ask(self._pool.num_slots + sum(others.values()))
        done = [study for study in self._open if self._is_done(study, study.counts())]
        for study in done:
            self._open.remove(study)
            if self._member.is_leader:
                self._study_ended(study)

    def _release_abandoned(self) -> None:
        """Release the claims of a step that failed and was repeated: their trials do not run."""
        for study in self._open:
            running = {number for other, number in self._running.values() if other is study}
            for number in study.abandoned(self._member.name, running=running):
                study.release(number)

    def _ask(self, num_free: int) -> None:
        """Ask for as many points as all members have free slots, in the order of the studies."""
        for study in self._open:
            counts = study.counts()
            num_free -= counts.num_open
            if self._give_up_reason(study, counts):
                continue
            wanted = min(
                study.num_trials - counts.num_counted - counts.num_open,
                study.spec.sampler.num_points(study.spec.cell.space) - counts.num_asked,
                1 - counts.num_asked if not study.spec.cell.space else num_free,
                num_free,
            )
            for _ in range(int(max(0, wanted))):
                study.ask()
            num_free -= int(max(0, wanted))
            if num_free <= 0:
                return

    def _is_done(self, study: Study, counts: StudyCounts) -> bool:
        if counts.num_open:
            return False
        if counts.num_counted >= study.num_trials:
            return True
        reason = self._give_up_reason(study, counts)
        if reason:
            self._given_up[study.name] = reason
        space = study.spec.cell.space
        asked_all = counts.num_asked >= (study.spec.sampler.num_points(space) if space else 1)
        return bool(reason) or asked_all

    def _give_up_reason(self, study: Study, counts: StudyCounts) -> str:
        settings = self._parts.settings
        if counts.num_diverged > settings.diverged_limit:
            return (
                f"{counts.num_diverged} of {counts.num_asked} trials diverged "
                f"(hydra.sweeper.max_diverged_trials={settings.diverged_limit}): lower the upper end of "
                f"{', '.join(study.spec.cell.space) or 'what makes it diverge'}."
            )
        if len(counts.failed) > settings.max_failed_trials:
            error = counts.failed[-1].user_attrs.get("error", "")
            return (
                f"{len(counts.failed)} trials failed (hydra.sweeper.max_failed_trials="
                f"{settings.max_failed_trials}), the last one with: {error}"
            )
        return ""

    # ---- trials

    def _start_waiting(self) -> None:
        if self._disk_was_full:
            require_disk_space(self._parts.folder)
            self._disk_was_full = False
        for study in self._open:
            for number in study.counts().waiting:
                if len(self._running) >= self._pool.num_slots:
                    return
                trial = study.trials()[number]
                if self._finish_from_folder(study, trial) or not study.claim(number, self._member.name):
                    continue
                self._start(study, trial)

    def _start(self, study: Study, trial: FrozenTrial) -> None:
        self._num_started += 1
        key = f"{study.name} {trial.number} {self._num_started}"
        folder = trial.user_attrs["folder"]
        composed = self._parts.composed[study.spec.cell.name]
        payload = trial_process.pack_trial(
            self._parts.shared,
            trial_process.TrialSpec(
                overrides=self._overrides(study, trial, composed),
                number=trial.number if self._parts.is_search else self._parts.studies.index(study),
                sweep_dir=self._parts.folder,
                subdir=folder,
                link=self._link(study, trial),
                submitted=time.time(),
            ),
        )
        self._running[key] = (study, trial.number)
        self._pool.submit(
            TrialAttempt(
                key=key,
                backend=backend_name(composed),
                folder=self._parts.folder / folder,
                payload=payload,
            )
        )
        self._parts.display.started(study.name, trial.number)

    def _overrides(self, study: Study, trial: FrozenTrial, composed: Node) -> list[str]:
        cell = study.spec.cell
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
            tags = {"study": study.name, "repeat": str(study.spec.repeat), "trial": str(trial.number)}
            name = f"trial {trial.number} of {study.name}"
            overrides += trial_overrides(self._parent(study, tracking), name=name, tags=tags, tracking=tracking)
        return overrides

    def _parent(self, study: Study, tracking: Mapping[str, Any]) -> str | None:
        folder, cell = self._parts.folder, study.spec.cell
        if not self._parents and len(self._parts.studies) > 1:
            open_sweep(tracking, folder, {"num_studies": str(len(self._parts.studies))})
        if study.name not in self._parents:
            tags = {**cell.facts, "repeat": str(study.spec.repeat)}
            self._parents[study.name] = open_parent(tracking, folder, study.name, tags)
        return self._parents[study.name]

    def _link(self, study: Study, trial: FrozenTrial) -> StudyLink | None:
        if self._parts.pruner is None:
            return None
        return StudyLink(
            storage=self._parts.settings.storage,
            sweep_dir=self._parts.folder,
            study_name=study.name,
            number=trial.number,
            pruner=self._parts.pruner,
        )

    def _on_completion(self, completion: Completion) -> None:
        """Finish, release or fail the trial of an ended attempt. May be repeated: the last step forgets the attempt."""
        study, number = self._running[completion.key]
        trial = study.trials()[number]
        folder = self._parts.folder / trial.user_attrs["folder"]
        outcome = read_run_outcome(folder, study.spec.objectives)
        if outcome is None and completion.exit_code == 0 and not self._parts.is_search:  # a mode other than train
            outcome = RunOutcome(COMPLETED, tuple(float("inf") for _ in study.spec.objectives), {}, None)
        if outcome is not None and not trial.state.is_finished():
            study.finish(number, outcome)
            self._finished(study, number)
        elif completion.exit_code in _INTERRUPTED or (completion.is_lost and self._interruption.signal_number):
            study.release(number)
        elif (completion.is_lost or completion.exit_code == DISK_FULL) and study.count_loss(number) < _MAX_LOSSES:
            if completion.is_lost:
                log.warning("Trial %d of %s lost its worker (%s); it continues.", number, study.name, completion.reason)
            else:
                log.warning("Trial %d of %s met a full disk; it continues when there is space.", number, study.name)
                self._disk_was_full = True
            study.release(number)
        elif not trial.state.is_finished():
            self._failed(study, number, _failure_reason(completion, folder))
        self._running.pop(completion.key)

    def _failed(self, study: Study, number: int, reason: str) -> None:
        folder = study.trials()[number].user_attrs["folder"]
        self._errors.append(f"{folder}: {reason} (its output: {self._parts.folder / folder / trial_process.OUTPUT})")
        study.fail(number, reason)
        self._finished(study, number)

    def _finish_from_folder(self, study: Study, trial: FrozenTrial) -> bool:
        """Finish a trial whose run ended but whose member was killed before it could record that."""
        outcome = read_run_outcome(self._parts.folder / trial.user_attrs["folder"], study.spec.objectives)
        if outcome is None or not study.claim(trial.number, self._member.name):
            return False
        study.finish(trial.number, outcome)
        self._finished(study, trial.number)
        return True

    def _release_orphan(self, study: Study, trial: FrozenTrial) -> None:
        if (study, trial.number) not in self._running.values():
            study.release(trial.number)

    def _finished(self, study: Study, number: int) -> None:
        result = study_result(study.study)
        note_end(self._parts.folder / result.trials[number].folder)
        self._drop_checkpoints(result, number)
        self._parts.display.finished(result, number)

    def _drop_checkpoints(self, result: StudyResult, number: int) -> None:
        """Delete checkpoints of trials that cannot win any more; those of failed ones stay, for another attempt."""
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
        self._report_thread.run(lambda: write_report(results, self._parts.folder, tracking, ended=ended))

    def _show_all(self) -> None:
        for study in self._parts.studies:
            self._parts.display.study(study_result(study.study))

    def _conclude(self) -> list[StudyResult]:
        results: list[StudyResult] = self._parts.retrying(
            lambda: [study_result(study.study) for study in self._parts.studies]
        )
        if self._parts.is_search:
            self._report(results, ended=True)
            self._report_thread.close()
        if self._interruption.signal_number:
            print("Interrupted; checkpoints are written. The same command continues the sweep.", file=sys.stderr)
            raise SystemExit(128 + self._interruption.signal_number)
        if self._parts.is_search:
            print_winners(results, self._parts.folder)
        left = unsent_warning(self._parts.folder)
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
        """Let running trials write checkpoints and end; kill those that take too long."""
        self._pool.interrupt()
        deadline = time.monotonic() + _SECONDS_FOR_CHECKPOINTS
        while self._running and time.monotonic() < deadline:
            for completion in self._pool.wait(_SECONDS_BETWEEN_LOOKS):
                self._parts.retrying(partial(self._on_completion, completion))
        self._pool.close()


def _failure_reason(completion: Completion, folder: Path) -> str:
    if completion.is_lost:
        return f"its worker was lost {_MAX_LOSSES} times, the last time: {completion.reason}"
    try:
        return (folder / trial_process.ERROR).read_text().strip()
    except FileNotFoundError:
        return f"it ended with exit code {completion.exit_code} and left no {SUMMARY}"

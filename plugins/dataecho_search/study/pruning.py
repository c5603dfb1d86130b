"""Reports a trial's intermediate values to its study, and asks whether to prune it.

The link to the study is no configuration and stays in the process: a database's URL may hold a password.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from dataecho.errors import SettingError
from dataecho.training.contracts import Pruner

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StudyLink:
    """The trial that this process runs, and its storage; ``sweep_dir`` contains the journal where ``storage`` is
    None."""

    storage: str | None
    sweep_dir: Path
    study_name: str
    number: int
    pruner: BasePruner


_link: StudyLink | None = None


def connect(link: StudyLink | None) -> None:
    """Set the trial that this process runs."""
    global _link
    _link = link


@final
class OptunaPruner(Pruner):
    """Reports to the study of this process's trial. Steps are fresh examples at the marks, a scale that all trials
    share. Values are signed so that better lies in the study's direction; otherwise a study that minimises a cost would
    prune the trials with the highest accuracy."""

    def __init__(self) -> None:
        if _link is None:
            raise SettingError(
                "pruner",
                "dataecho_search.study.pruning.OptunaPruner",
                allowed="this only in a trial of a sweep",
                cure="Choose it for the sweep: hydra/sweeper/pruner=median, for instance.",
            )
        self._link = _link
        self._trial: Trial | None = None
        self._silent = False

    def should_prune(self, *, fresh_examples: int, value: float, higher_is_better: bool) -> bool:
        if self._silent:
            return False
        try:
            trial = self._open()
            if fresh_examples not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(signed(value, higher_is_better, trial), step=fresh_examples)
            return trial.should_prune()
        except Exception as error:
            log.warning("The study cannot be reached, so this trial is not pruned: %s", str(error))
            self._silent = True
            return False

    def _open(self) -> Trial:
        if self._trial is None:
            from dataecho_search.study.storage import open_storage, silence_optuna
            from dataecho_search.study.studies import running_trial

            silence_optuna()
            link = self._link
            storage = open_storage(link.storage, link.sweep_dir)
            self._trial = running_trial(storage, link.study_name, link.number, link.pruner)
        return self._trial


def signed(value: float, higher_is_better: bool, trial: Any) -> float:
    """Return ``value``, negated where the metric's better direction is not that of the study."""
    maximizes = trial.study.direction.name == "MAXIMIZE"
    return value if higher_is_better == maximizes else -value

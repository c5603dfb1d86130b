"""The marks of a run: evaluate, record the target, log, prune and save, on a grid of fresh examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from dataecho.training.contracts import Backend, Pruner
from dataecho.training.divergence import Divergence
from dataecho.training.metrics import check_names
from dataecho.training.recipe import Recipe
from dataecho.training.run_folder import RunFolder
from dataecho.training.spent import Spent


@final
class Marks:
    """Mark k is at k times ``eval_interval`` fresh examples. ``evaluate()`` gives the held-out metrics, and
    ``take_window()`` the timing metrics since the last mark; ``save()`` writes a checkpoint. All three are
    collective."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        backend: Backend,
        evaluate: Callable[[], dict[str, float]],
        take_window: Callable[[], dict[str, float]],
        save: Callable[[], None],
        pruner: Pruner,
        spent: Spent,
        folder: RunFolder,
    ) -> None:
        self.target, self._settings = recipe.target, recipe.settings
        self._backend, self._pruner, self._spent, self._folder = backend, pruner, spent, folder
        self._evaluate, self._take_window, self._save = evaluate, take_window, save
        self._divergence = Divergence(recipe.settings.max_loss_ratio)
        self._next, self._evaluated_steps = 1, 0
        self.num_evaluations = 0
        #: Steps and metric of the best checkpoint; None before the first.
        self.best: dict[str, Any] = {"steps": None, "value": None}
        #: The training loss and the held-out metrics of the newest mark.
        self.metrics: dict[str, float] = {}
        self.diverged = self.pruned = False

    @property
    def position(self) -> int:
        """Of the next mark, in fresh examples."""
        return self._next * self._settings.eval_interval

    @property
    def has_unevaluated_steps(self) -> bool:
        """Whether steps have been trained since the last evaluation."""
        return self._spent.counts.steps > self._evaluated_steps

    @property
    def run_has_ended(self) -> bool:
        """Whether a mark ended the run: it diverged, was pruned, or has reached the target and stops there."""
        return self.diverged or self.pruned or (self.target.reached and self._settings.stop_at_target)

    def evaluate(self, *, last: bool) -> None:
        """Evaluate the next mark and write its line; save where a checkpoint is due. ``last``: the budget is spent."""
        loss = self._backend.take_loss()
        self.diverged = self._divergence.found_in(loss)
        held_out = self._evaluate()
        self.metrics = {"train_loss": loss, **held_out}
        self.num_evaluations += 1
        self._evaluated_steps = self._spent.counts.steps
        self._spent.count_reads()
        value = held_out[self.target.metric]
        self.target.record(value, self._spent.metrics())
        line = {**self._spent.metrics(), **self.metrics, **self._take_window(), **self.target.as_metrics()}
        check_names(line, of_task=held_out)
        self._folder.add_metrics(self.position, line)
        self.pruned = not (last or self.run_has_ended) and self._should_prune(value)
        self._next += 1
        if last or self.run_has_ended or self._checkpoint_is_due():
            if self.target.is_better(value, self.best["value"]):
                self.best = {"steps": self._spent.counts.steps, "value": value}
            self._save()

    def _should_prune(self, value: float) -> bool:
        """The verdict of the first rank's pruner: those of the ranks could differ."""
        ranks = self._backend.ranks
        prune = ranks.is_first and self._pruner.should_prune(
            fresh_examples=self.position, value=value, higher_is_better=self.target.higher_is_better
        )
        return bool(ranks.gather([float(prune)])[0, 0])

    def _checkpoint_is_due(self) -> bool:
        interval = self._settings.checkpoints.interval
        return bool(interval) and self.num_evaluations % interval == 0

    def state_dict(self) -> dict[str, Any]:
        """The place on the grid, the newest metrics and the best checkpoint; JSON values."""
        return {
            "mark": self._next,
            "num_evaluations": self.num_evaluations,
            "evaluated_steps": self._evaluated_steps,
            "best": self.best,
            "metrics": self.metrics,
            "diverged": self.diverged,
            **self.target.state_dict(),
            **self._divergence.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken. A run that was pruned may go on."""
        self._next, self.num_evaluations = state["mark"], state["num_evaluations"]
        self._evaluated_steps, self.diverged = state["evaluated_steps"], state["diverged"]
        self.best, self.metrics = state["best"], state["metrics"]
        self.target.load_state_dict(state)
        self._divergence.load_state_dict(state)

"""The loop: train on what the feed delivers, evaluate on a grid of fresh examples, stop at the target or the budget.

::

    loop:
        batch = next(feed)                       # only this call is timed as input wait; ranks agree on the rest
        if batch would exceed the budget: break
        if batch would carry the fresh examples past the next mark:
            stop train_time and the feed; evaluate the mark; save; stop if the target is reached or the run is pruned
        train on batch; count it
    evaluate the open mark; save

Every repeat of a fresh batch is trained before its mark is evaluated, on the same grid for every factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataecho.pipeline.accounting.memory import Memory
from dataecho.pipeline.accounting.meter import Reading
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import Feed
from dataecho.training.agreement import Step, agree
from dataecho.training.auto_factor import FactorControl, FixedFactor
from dataecho.training.checkpoint import gather_states, split_by_rank
from dataecho.training.contracts import (
    Backend,
    Display,
    HookInfo,
    NoDisplay,
    NoPruner,
    NoTracker,
    Progress,
    Pruner,
    Tracker,
)
from dataecho.training.hooks import Hooks, Unit
from dataecho.training.interruption import Interrupted, Interruption
from dataecho.training.marks import Marks
from dataecho.training.origin import Origin
from dataecho.training.recipe import Recipe, TrainerSettings
from dataecho.training.run_folder import RunFolder
from dataecho.training.skips import gather_skips
from dataecho.training.spent import Spent
from dataecho.training.stateful import Stateful
from dataecho.training.target import COSTS
from dataecho.training.timing import Timekeeper, TimeModel

__all__ = ["Observers", "Origin", "RunResult", "Trainer", "TrainerSettings"]

_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Who follows a run: ``tracker`` records it, ``display`` shows it, ``pruner`` may end it."""

    tracker: Tracker = field(default_factory=NoTracker)
    display: Display = field(default_factory=NoDisplay)
    pruner: Pruner = field(default_factory=NoPruner)


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``metrics``: those of the whole run, by their names in :mod:`dataecho.training.metrics`; None
    for the costs of a target that was not reached. ``diverged``: the training loss became no finite number, or far
    larger than it was at the first mark. ``pruned``: a pruner ended the run. ``best``: the metric of the best
    checkpoint; None without one. ``is_improving``: the best is the newest."""

    metrics: dict[str, float | None]
    reached_target: bool
    diverged: bool
    pruned: bool
    best: float | None
    is_improving: bool


class Trainer:
    """One run in ``folder``, or one rank's part in it: rank 0 writes all shared files, the others have a temporary
    ``folder`` each. ``new_feed(state)`` opens the feed; ``evaluate()`` gives held-out metrics. Raises
    :class:`SettingError` where ``origin`` is another run's checkpoint, or ``folder`` cannot be written."""

    def __init__(
        self,
        folder: Path,
        *,
        new_feed: Callable[[dict[str, Any] | None], Feed],
        evaluate: Callable[[], dict[str, float]],
        backend: Backend,
        recipe: Recipe,
        time_model: TimeModel,
        observers: Observers,
        origin: Origin,
        factor_control: FactorControl | None = None,
    ) -> None:
        self._backend, self._ranks = backend, backend.ranks
        self._recipe, self._observers, self._identity = recipe, observers, origin.identity
        origin.check(self._ranks)
        own = None if origin.state is None else origin.state["ranks"][str(self._ranks.rank)]
        self._feed = new_feed(None if own is None else own["feed"])
        self._interruption, self._hooks = Interruption(), Hooks()
        self._resident: dict[int, Any] = {}  # batches on the device that still have repeats
        self._folder = RunFolder(
            folder,
            keep_checkpoints=recipe.settings.checkpoints.keep,
            disk_timeout=recipe.settings.checkpoints.disk_timeout,
            is_ending=lambda: self._interruption.signal_number != 0,
        )
        self._spent = Spent(folder, ranks=self._ranks, meter=self._feed.meter)
        self._keeper = Timekeeper(self._feed.meter, time_model)
        self._marks = Marks(
            recipe,
            backend=backend,
            evaluate=evaluate,
            take_window=self._take_window,
            save=self._save,
            pruner=observers.pruner,
            spent=self._spent,
            folder=self._folder,
        )
        self._parts: list[Stateful] = [self._spent, self._keeper, self._marks]
        if self._ranks.is_first:  # the files of the others are temporary
            self._parts.append(self._folder)
        if origin.state is not None and own is not None:
            self._load_state(origin.state, own)
        self._spent.clock.add(self._feed.head_start)
        self._folder.open()
        self._factor_control = factor_control or FixedFactor()
        self._factor_control.start(self._feed.factors, self._keeper, folder, self._ranks)

    def add_hook(self, function: Callable[[HookInfo], None], *, every: int = 1, of: Unit = "steps") -> None:
        """Call ``function`` after every so many steps, or marks, of the whole run, on every rank; see :class:`Hook`."""
        self._hooks.add(function, every=every, of=of)

    @property
    def memory(self) -> Memory:
        """The predicted memory of the input side."""
        return self._feed.memory

    @property
    def reading(self) -> Reading:
        """The work of the input side so far, in this process."""
        return self._feed.meter.read()

    def run(self) -> RunResult:
        """Train to the end. Raises :class:`Interrupted` after a signal, with a checkpoint written, and ``OSError``
        where nothing can be written."""
        display, target = self._observers.display, self._recipe.target
        self._observers.tracker.covered(self._folder.spool_position)
        display.start(metric=target.metric, target=target.value, title=str(self._recipe.budget))
        try:
            with self._feed, self._interruption:
                self._spent.clock.start()
                self._keeper.start()
                try:
                    self._loop()
                    if self._marks.has_unevaluated_steps:
                        self._at_mark(last=True)
                except Interrupted:
                    self._keeper.got()  # it was waiting, or about to
                    self._keeper.stop()
                    self._save()
                    raise
                return self._result()
        finally:
            display.stop()
            self._folder.close()

    def _loop(self) -> None:
        while not self._marks.run_has_ended:
            batch, step = self._next()
            if self._would_exceed(step):
                return
            if self._spent.counts.fresh_examples + step.num_fresh > self._marks.position:
                self._at_mark()
                if self._marks.run_has_ended:
                    return
            self._train(batch, step)
            self._call_step_hooks()

    def _next(self) -> tuple[Batch, Step]:
        """This rank's batch, and the sum of all ranks' batches. Raises :class:`Interrupted` on every rank if one was
        asked to stop."""
        self._keeper.ask()
        while not (self._interruption.signal_number or self._feed.ready(timeout=_POLL_SECONDS)):
            # A blocking read here would delay signal handling.
            if self._keeper.has_no_batch_yet and self._feed.num_to_fill:
                self._observers.display.filling(
                    num_read=self._feed.meter.read().num_reads, num_needed=self._feed.num_to_fill
                )
        if signal := self._interruption.signal_number:
            agree(self._ranks, Step(signal=signal))
            raise Interrupted(signal)
        batch = next(self._feed)
        step = agree(
            self._ranks,
            Step.of(
                batch,
                train_time=self._spent.clock.train_time,
                factor=self._feed.factors.newest,
                num_reads=self._spent.num_reads if self._ranks.num_ranks > 1 else 0,  # alone it is asked once a second
            ),
        )
        if step.signal:
            raise Interrupted(step.signal)
        self._keeper.got()
        return batch, step

    def _would_exceed(self, step: Step) -> bool:
        return self._recipe.budget.forbids(
            fresh=self._spent.counts.fresh_examples,
            num_fresh=step.num_fresh,
            steps=self._spent.counts.steps,
            seconds=step.train_time,
        )

    def _train(self, batch: Batch, step: Step) -> None:
        rate = self._recipe.settings.learning_rate * self._recipe.schedule.factor(self._spent_fraction())
        placed = self._place(batch)
        if not self._backend.keeps_host_arrays:
            batch.release()
        self._backend.train_step(placed, learning_rate=rate)
        if self._backend.keeps_host_arrays:
            batch.release()
        self._spent.counts.add(
            num_fresh=step.num_fresh,
            num_delivered=step.num_delivered,
            num_skipped=step.num_skipped,
            num_entered=step.num_entered,
            epochs_entered=step.epochs_entered,
        )
        if step.num_skipped:
            self._folder.add_skips(gather_skips(self._ranks, batch.skipped))
        self._keeper.trained(batch)
        self._factor_control.trained(step.factor)
        self._observers.display.update(self._progress())
        if self._folder.heartbeat.is_due():
            num_reads = step.num_reads if self._ranks.num_ranks > 1 else self._spent.num_reads
            self._folder.beat(**self._spent.times(), read_examples=num_reads)

    def _place(self, batch: Batch) -> Any:
        """The batch on the device; once for all its repeats, where the echo point is there."""
        planned = batch.planned
        if not self._feed.echo.stays_on_device:
            return self._backend.put(batch)
        placed = self._resident.pop(planned.batch_ordinal, None)
        if placed is None:
            placed = self._backend.put(batch)
        if planned.batch_repeat < planned.num_batch_repeats - 1:
            self._resident[planned.batch_ordinal] = placed
        return placed

    def _at_mark(self, *, last: bool = False) -> None:
        with self._standstill():
            self._marks.evaluate(last=last)
            self._observers.display.mark(self._progress())
            self._call(self._hooks.due(self._marks.num_evaluations, of="marks"))
        if not (last or self._marks.run_has_ended):
            self._feed.resume()

    def _call_step_hooks(self) -> None:
        if due := self._hooks.due(self._spent.counts.steps, of="steps"):
            with self._standstill():
                self._call(due)
            self._feed.resume()

    def _call(self, hooks: Sequence[Callable[[HookInfo], None]]) -> None:
        counts = self._spent.counts
        info = HookInfo(
            steps=counts.steps,
            fresh_examples=counts.fresh_examples,
            metrics=self._marks.metrics,
            backend=self._backend,
            folder=self._folder.path,
        )
        for hook in hooks:
            hook(info)

    @contextmanager
    def _standstill(self) -> Iterator[None]:
        """Inside, ``train_time`` and the feed stand still: a stopped clock must not give free input. The feed stays
        paused."""
        self._backend.synchronize()
        while not self._feed.pause(timeout=_POLL_SECONDS):
            if self._ranks.num_ranks == 1:
                self._interruption.check()  # a read that does not return must not delay the end
        self._keeper.stop()
        with self._spent.clock.stopped():
            yield
        self._keeper.start()

    def _take_window(self) -> dict[str, float]:
        return {
            **self._keeper.take_window(),
            "factor": self._feed.factors.newest,
            "store_bytes": self._feed.meter.read().stored_bytes,
        }

    def _save(self) -> None:
        """Write everything that a continuation needs; then the tracker may send what this covers. Collective."""
        self._spent.count_reads()
        self._factor_control.save()
        shared, own = split_by_rank(*self._backend.state())
        steps = self._spent.counts.steps
        states = gather_states(self._ranks, {"feed": self._feed.state(steps), "backend": own})
        if not self._ranks.is_first:
            return
        state = {"identity": self._identity, "ranks": states, "backend": shared}
        for part in self._parts:
            state.update(part.state_dict())
        self._folder.save(state, steps=steps, best_steps=self._marks.best["steps"])
        self._observers.tracker.covered(self._folder.spool_position)

    def _load_state(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        self._backend.load_state({**state["backend"]["arrays"], **own["backend"]}, state["backend"]["values"])
        for part in self._parts:
            part.load_state_dict(state)

    def _spent_fraction(self) -> float:
        counts, clock = self._spent.counts, self._spent.clock
        return self._recipe.budget.spent_fraction(
            fresh=counts.fresh_examples, steps=counts.steps, seconds=clock.train_time
        )

    def _progress(self) -> Progress:
        sums, metrics = self._keeper.sums, self._marks.metrics
        total = sums.input_wait_seconds + sums.step_seconds
        return Progress(
            fresh_examples=self._spent.counts.fresh_examples,
            steps=self._spent.counts.steps,
            spent_fraction=self._spent_fraction(),
            train_loss=metrics.get("train_loss", math.nan),
            metric=metrics.get(self._recipe.target.metric, math.nan),
            input_wait_fraction=sums.input_wait_seconds / total if total else 0.0,
        )

    def _result(self) -> RunResult:
        target = self._recipe.target
        return RunResult(
            metrics={
                **self._spent.metrics(),
                **self._marks.metrics,
                **self._keeper.metrics(),
                "factor": self._feed.factors.newest,
                "store_bytes": self._feed.meter.read().max_stored_bytes,
                "reached_target": float(target.reached),
                **dict.fromkeys((f"{name}_to_target" for name in COSTS), None),
                **target.costs,
            },
            reached_target=target.reached,
            diverged=self._marks.diverged,
            pruned=self._marks.pruned,
            best=self._marks.best["value"],
            is_improving=self._marks.best["steps"] == self._spent.counts.steps,
        )

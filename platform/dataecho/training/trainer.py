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
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dataecho.errors import SettingError, shown
from dataecho.pipeline.accounting.memory import Memory
from dataecho.pipeline.accounting.meter import Reading
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.stage import DEVICE
from dataecho.plan.counts import Counts
from dataecho.training.agreement import Step, agree
from dataecho.training.auto_factor import FactorControl
from dataecho.training.budget import Budget
from dataecho.training.checkpoint import CheckpointStore, gather_states
from dataecho.training.clock import Clock
from dataecho.training.contracts import Backend, Display, Progress, Pruner, Tracker
from dataecho.training.disk import outlast
from dataecho.training.divergence import Divergence
from dataecho.training.heartbeat import Heartbeat, read_heartbeat
from dataecho.training.interruption import Interrupted, Interruption
from dataecho.training.schedule import Schedule
from dataecho.training.skips import Skips, gather_skips
from dataecho.training.spool import Spool
from dataecho.training.target import COSTS, Target
from dataecho.training.timing import Sums, Timekeeper, TimeModel

_SECONDS_BETWEEN_LOOKS = 0.2
_OWN = "rank/"  # names of a backend's arrays that differ from rank to rank


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """``eval_interval`` in fresh examples; ``checkpoint_interval`` in evaluations, 0 for only at the end and on a
    signal; the last ``keep_checkpoints`` and the best stay; ``disk_timeout``: seconds that a full disk is waited for;
    ``max_loss_ratio`` as in :class:`Divergence`."""

    learning_rate: float
    eval_interval: int
    checkpoint_interval: int = 1
    keep_checkpoints: int = 2
    disk_timeout: float = 300.0
    stop_at_target: bool = True
    max_loss_ratio: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``metrics`` by their names in DESIGN section 5, over the whole run, None where a target was
    never reached; ``diverged``: the training loss was no finite number any more, or far above where it began;
    ``pruned``: it was ended as not worth going on."""

    metrics: dict[str, float | None]
    reached_target: bool
    diverged: bool
    pruned: bool


class Trainer:
    """One run in ``folder``, or one rank's part in it: rank 0 writes what is of all, the others have a ``folder`` of
    their own that nobody needs afterwards. ``new_feed(state)`` opens the feed; ``evaluate()`` gives held-out metrics;
    ``identity`` is everything that a checkpoint must agree with. ``resume_from`` is the state of a checkpoint of this
    run: raises :class:`SettingError` where it belongs to another."""

    def __init__(
        self,
        folder: Path,
        *,
        new_feed: Callable[[dict[str, Any] | None], Feed],
        evaluate: Callable[[], dict[str, float]],
        backend: Backend,
        budget: Budget,
        schedule: Schedule,
        target: Target,
        time_model: TimeModel,
        factor_control: FactorControl,
        tracker: Tracker,
        display: Display,
        pruner: Pruner,
        identity: dict[str, Any],
        settings: TrainerSettings,
        resume_from: dict[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._evaluate, self._backend, self._ranks = evaluate, backend, backend.ranks
        self._budget, self._schedule, self._target = budget, schedule, target
        self._time_model, self._tracker, self._display = time_model, tracker, display
        self._factor_control, self._pruner = factor_control, pruner
        self._identity, self._settings = identity, settings
        self._store = CheckpointStore(folder, keep=settings.keep_checkpoints)
        self._heartbeat = Heartbeat(folder)
        self._counts, self._reads_before = Counts(), 0
        self._sums, self._window_start = Sums(), Sums()
        self._mark, self._num_evaluations = 1, 0
        self._evaluated_steps = 0
        self._best: dict[str, Any] = {"steps": None, "value": None}
        self._metrics: dict[str, float] = {}
        self._divergence = Divergence(settings.max_loss_ratio)
        self._diverged = self._pruned = False
        self._resident: dict[int, Any] = {}
        self._interruption = Interruption()
        self._clock, position, skips_position, feed_state = Clock(), 0, 0, None
        if resume_from is not None:
            if self._ranks.is_first:
                position, skips_position = resume_from["spool_position"], resume_from["skips_position"]
            feed_state = self._restore(resume_from)
        self._feed = new_feed(feed_state)
        self._clock.add(self._feed.head_start)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / "run.lock", thread_local=False)
            self._lock.acquire(timeout=0)
            self._spool = Spool(folder, position=position)
            self._skips = Skips(folder, position=skips_position)
        except Timeout as error:
            raise SettingError(
                "run_dir",
                str(folder),
                allowed="a folder that no other process is training in",
                cure="Wait for that run, or choose another folder.",
            ) from error
        except OSError as error:
            raise SettingError(
                "run_dir", str(folder), allowed="a folder that can be written", cure=f"Choose another one ({error})."
            ) from error
        self._keeper = Timekeeper(self._feed.meter, self._sums)
        factor_control.start(self._feed.factors, self._keeper, folder, self._ranks)

    @property
    def memory(self) -> Memory:
        """What the input side will take."""
        return self._feed.memory

    @property
    def reading(self) -> Reading:
        """What the input side did so far, in this process."""
        return self._feed.meter.read()

    def run(self) -> Outcome:
        """Train to the end. Raises :class:`Interrupted` after a signal, with a checkpoint written, and ``OSError``
        where nothing can be written."""
        self._tracker.covered(self._spool.position)
        self._display.start(metric=self._target.metric, target=self._target.value, title=str(self._budget))
        try:
            with self._feed, self._interruption as interruption:
                self._clock.start()
                self._keeper.start()
                try:
                    self._loop(interruption)
                    if self._counts.steps > self._evaluated_steps:
                        self._at_mark(interruption, last=True)
                except Interrupted:
                    self._keeper.got()  # it was waiting, or about to
                    self._keeper.stop()
                    self._save()
                    raise
                return self._outcome()
        finally:
            self._display.stop()
            self._spool.close()
            self._skips.close()
            self._lock.release()

    def _loop(self, interruption: Interruption) -> None:
        while not self._has_arrived():
            batch, step = self._next(interruption)
            if self._would_exceed(step):
                return
            if self._counts.fresh_examples + step.num_fresh > self._mark * self._settings.eval_interval:
                self._at_mark(interruption)
                if self._has_arrived():
                    return
            self._train(batch, step)

    def _next(self, interruption: Interruption) -> tuple[Batch, Step]:
        """This rank's batch, and what all ranks' batches are together. Raises :class:`Interrupted` on every rank if one
        was asked to stop."""
        self._keeper.ask()
        while not (interruption.signal_number or self._feed.ready(timeout=_SECONDS_BETWEEN_LOOKS)):
            # A starved loop is interrupted where it waits, and says why it does not begin.
            if self._keeper.has_no_batch_yet and self._feed.num_to_fill:
                self._display.filling(num_read=self._feed.meter.read().num_reads, num_needed=self._feed.num_to_fill)
        if interruption.signal_number:
            agree(self._ranks, Step(signal=interruption.signal_number))
            raise Interrupted(interruption.signal_number)
        batch = next(self._feed)
        step = agree(
            self._ranks,
            Step.of(
                batch,
                train_time=self._clock.train_time,
                factor=self._feed.factors.newest,
                num_reads=self._num_reads() if self._ranks.num_ranks > 1 else 0,  # alone it is asked once a second
            ),
        )
        if step.signal:
            raise Interrupted(step.signal)
        self._keeper.got()
        return batch, step

    def _has_arrived(self) -> bool:
        return self._diverged or self._pruned or (self._target.reached and self._settings.stop_at_target)

    def _would_exceed(self, step: Step) -> bool:
        return self._budget.forbids(
            fresh=self._counts.fresh_examples,
            num_fresh=step.num_fresh,
            steps=self._counts.steps,
            seconds=step.train_time,
        )

    def _train(self, batch: Batch, step: Step) -> None:
        rate = self._settings.learning_rate * self._schedule.factor(self._spent_fraction())
        placed = self._place(batch)
        if not self._backend.keeps_host_arrays:
            batch.release()
        self._backend.train_step(placed, learning_rate=rate)
        if self._backend.keeps_host_arrays:
            batch.release()
        self._counts.add(
            num_fresh=step.num_fresh,
            num_delivered=step.num_delivered,
            num_skipped=step.num_skipped,
            num_entered=step.num_entered,
            epochs_entered=step.epochs_entered,
        )
        if step.num_skipped:
            skips = gather_skips(self._ranks, batch.skipped)
            self._write(lambda: self._skips.add(skips))
        self._keeper.trained(batch)
        self._factor_control.trained(step.factor)
        self._display.update(self._progress())
        if self._heartbeat.is_due():
            num_reads = step.num_reads if self._ranks.num_ranks > 1 else self._num_reads()
            self._write(partial(self._heartbeat.beat, **self._spent_time(), read_examples=num_reads))

    def _place(self, batch: Batch) -> Any:
        """The batch on the device; once for all its repeats, where the echo point is there."""
        planned = batch.planned
        if self._feed.echo_after != DEVICE:
            return self._backend.put(batch)
        placed = self._resident.pop(planned.batch_ordinal, None)
        if placed is None:
            placed = self._backend.put(batch)
        if planned.batch_repeat < planned.num_batch_repeats - 1:
            self._resident[planned.batch_ordinal] = placed
        return placed

    def _at_mark(self, interruption: Interruption, *, last: bool = False) -> None:
        """Evaluate the open mark, with clock and feed standing still; then log it, save and show it."""
        self._backend.synchronize()
        while not self._feed.pause(timeout=_SECONDS_BETWEEN_LOOKS):
            if self._ranks.num_ranks == 1:
                interruption.check()  # a read that does not return is interrupted where it is waited for
        self._keeper.stop()
        with self._clock.stopped():
            loss = self._backend.take_loss()
            self._diverged = self._divergence.found_in(loss)
            held_out = self._evaluate()
            self._metrics = {"train_loss": loss, **held_out}
            self._num_evaluations += 1
            self._evaluated_steps = self._counts.steps
            self._counts.read_examples = sum(self._reads_by_rank())
            value = held_out[self._target.metric]
            self._target.record(value, {**self._counts.as_dict(), **self._spent_time()})
            line = {
                **self._counts.as_dict(),
                **self._spent_time(),
                **self._metrics,
                **self._time_model.metrics(self._sums.minus(self._window_start)),
                **self._keeper.take_waits(),
                "factor": self._feed.factors.newest,
                "store_bytes": self._feed.meter.read().stored_bytes,
                **self._target.as_metrics(),
            }
            step, time_ms = self._mark * self._settings.eval_interval, int(time.time() * 1000)
            self._write(lambda: self._spool.append(step, line, time_ms=time_ms))
            self._pruned = not (last or self._has_arrived()) and self._should_prune(value)
            self._mark += 1
            self._window_start = Sums(**asdict(self._sums))
            interval = self._settings.checkpoint_interval
            if last or self._has_arrived() or (interval and self._num_evaluations % interval == 0):
                if self._target.is_better(value, self._best["value"]):
                    self._best = {"steps": self._counts.steps, "value": value}
                self._save()
            self._display.mark(self._progress())
        self._keeper.start()
        if not (last or self._has_arrived()):
            self._feed.resume()

    def _should_prune(self, value: float) -> bool:
        """What the first rank's pruner thinks of the open mark: those of all ranks could be told different things."""
        prune = self._ranks.is_first and self._pruner.should_prune(
            fresh_examples=self._mark * self._settings.eval_interval,
            value=value,
            higher_is_better=self._target.higher_is_better,
        )
        return bool(self._ranks.gather([float(prune)])[0, 0])

    def _save(self) -> None:
        """Everything a continuation needs; then the tracker may send what this covers."""
        num_reads = self._reads_by_rank()
        self._counts.read_examples = sum(num_reads)
        self._factor_control.save()
        arrays, values = self._backend.state()
        own = {name: array for name, array in arrays.items() if name.startswith(_OWN)}
        states = gather_states(self._ranks, {"feed": self._feed.state(self._counts.steps), "backend": own})
        if not self._ranks.is_first:
            return
        self._write(self._spool.flush)
        self._write(self._skips.flush)
        save = partial(
            self._store.save,
            {
                "identity": self._identity,
                "ranks": states,
                "backend": {
                    "arrays": {name: array for name, array in arrays.items() if name not in own},
                    "values": values,
                },
                "counts": self._counts.as_dict(),
                "num_reads": num_reads,
                "clock": self._spent_time(),
                "sums": asdict(self._sums),
                "window_start": asdict(self._window_start),
                "target": self._target.costs,
                "best": self._best,
                "metrics": self._metrics,
                "mark": self._mark,
                "num_evaluations": self._num_evaluations,
                "evaluated_steps": self._evaluated_steps,
                "diverged": self._diverged,
                "first_loss": self._divergence.first_loss,
                "spool_position": self._spool.position,
                "skips_position": self._skips.position,
            },
            steps=self._counts.steps,
            best_steps=self._best["steps"],
        )
        self._write(save)
        self._tracker.covered(self._spool.position)

    def _write(self, write: Callable[[], Any]) -> None:
        """``write`` to the run folder; a full disk is waited for, but not by a run that is to end."""
        outlast(
            write,
            folder=self._folder,
            timeout=self._settings.disk_timeout,
            gives_up=lambda: self._interruption.signal_number != 0,
        )

    def _restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """Take everything over; returns the feed's state."""
        for key in sorted(self._identity.keys() | state["identity"].keys()):
            mine, theirs = self._identity.get(key), state["identity"].get(key)
            if mine != theirs:
                raise SettingError(
                    key,
                    mine,
                    allowed=f"{shown(theirs)}, the value the checkpoint was written with",
                    cure="Resume with the settings the run was started with, or start a new run.",
                )
        num_ranks = len(state["ranks"])
        if num_ranks != self._ranks.num_ranks:
            raise SettingError(
                "num_ranks",
                self._ranks.num_ranks,
                allowed=f"{num_ranks}, the number of processes that the checkpoint was written by",
                cure="Start as many, or export the weights (mode=export) and start a new run from them (weights=...).",
            )
        own = state["ranks"][str(self._ranks.rank)]
        self._backend.load_state({**state["backend"]["arrays"], **own["backend"]}, state["backend"]["values"])
        self._counts = Counts(**state["counts"])
        self._sums, self._window_start = Sums(**state["sums"]), Sums(**state["window_start"])
        self._target.costs = dict(state["target"])
        self._best, self._metrics = state["best"], state["metrics"]
        self._mark, self._num_evaluations = state["mark"], state["num_evaluations"]
        self._evaluated_steps, self._diverged = state["evaluated_steps"], state["diverged"]
        self._divergence.first_loss = state.get("first_loss")  # of an older checkpoint: begins anew
        # Time and reads that a killed process spent after this checkpoint are spent.
        lost = read_heartbeat(self._folder)
        reads_of_all = self._counts.read_examples
        of_older = [reads_of_all] + [0] * (num_ranks - 1)  # whose checkpoints do not tell them by rank
        self._reads_before = state.get("num_reads", of_older)[self._ranks.rank]
        self._reads_before += max(0, int(lost["read_examples"]) - reads_of_all)  # of all ranks, told by the first
        self._clock = Clock(**{name: max(spent, lost[name]) for name, spent in state["clock"].items()})
        feed_state: dict[str, Any] = own["feed"]
        return feed_state

    def _reads_by_rank(self) -> list[int]:
        return [int(num_reads) for num_reads in self._ranks.gather([self._num_reads()])[:, 0]]

    def _num_reads(self) -> int:
        return self._reads_before + self._feed.meter.read().num_reads

    def _spent_time(self) -> dict[str, float]:
        return {"wall_time": self._clock.wall_time, "train_time": self._clock.train_time}

    def _spent_fraction(self) -> float:
        return self._budget.spent_fraction(
            fresh=self._counts.fresh_examples, steps=self._counts.steps, seconds=self._clock.train_time
        )

    def _progress(self) -> Progress:
        waited = self._sums.input_wait_seconds
        spent = waited + self._sums.step_seconds
        return Progress(
            fresh_examples=self._counts.fresh_examples,
            steps=self._counts.steps,
            spent_fraction=self._spent_fraction(),
            train_loss=self._metrics.get("train_loss", math.nan),
            metric=self._metrics.get(self._target.metric, math.nan),
            input_wait_fraction=waited / spent if spent else 0.0,
        )

    def _outcome(self) -> Outcome:
        return Outcome(
            metrics={
                **self._counts.as_dict(),
                **self._spent_time(),
                **self._metrics,
                **self._time_model.metrics(self._sums),
                "factor": self._feed.factors.newest,
                "store_bytes": self._feed.meter.read().max_stored_bytes,
                "reached_target": float(self._target.reached),
                **dict.fromkeys((f"{name}_to_target" for name in COSTS), None),
                **self._target.costs,
            },
            reached_target=self._target.reached,
            diverged=self._diverged,
            pruned=self._pruned,
        )

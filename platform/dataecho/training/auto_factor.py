"""``factor=auto``: measure, echo what is free, and follow slow changes.

The rule. Up to e = R the extra steps of echoing fit into the time that training waits for input (paper, section 2), so
the factor is R, from 1 to ``max_factor``. Where both sides share the cores, a step during a wait for the network is
free, and a step that takes a core from decoding is not. There the factor is also at most :func:`core_limit`: echoing
uses the idle time of the cores, and beyond that costs at most :data:`PRICE` of the time per fresh example.

The times of decisions. Decisions are made on a grid of fresh batches, since evaluations may be rare. After the start,
and after every change, the control first waits until batches that were planned before it have been trained. It then
decides after 4, 8, 16 and 32 fresh batches, each time from all measurements so far and with any size of change: a short
run must not spend its budget on measuring. From then on the last 32 fresh batches count as much as everything before,
and a decision changes the factor by at most a quarter. A factor that is right within 10 % stays.
"""

from __future__ import annotations

import abc
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from dataecho.errors import require
from dataecho.plan.factors import MAX_FACTOR, FactorHistory, write_history
from dataecho.training.ranks import Ranks
from dataecho.training.timing import Sums, Timekeeper, TimeModel

log = logging.getLogger(__name__)

DEFAULT_MAX_FACTOR = 16.0
HYSTERESIS = 0.1
LARGEST_CHANGE = 1.25
PRICE = 0.05
_IDLE_SHARE = 0.05  # cores with less idle time are full: measurements there show contention
_START = 2  # fresh batches in which threads, caches and the framework warm up
_WARM_UP = (4, 8, 16, 32)
_WINDOW = _WARM_UP[-1]


@dataclass(frozen=True, kw_only=True)
class WindowTimes:
    """``upstream_time`` in seconds per fresh batch and ``downstream_time`` in seconds per step, as in
    :mod:`dataecho.training.metrics`;
    ``core_limit``: see :func:`core_limit`."""

    upstream_time: float
    downstream_time: float
    core_limit: float

    def averaged(self, other: WindowTimes) -> WindowTimes:
        """The mean of both, field by field."""
        return WindowTimes(**{name: (value + getattr(other, name)) / 2 for name, value in asdict(self).items()})


def measure(window: Sums, model: TimeModel) -> WindowTimes:
    """The times of a window with at least one step and one fresh example."""
    metrics = model.metrics(window)
    return WindowTimes(
        upstream_time=metrics["upstream_time"],
        downstream_time=metrics["downstream_time"],
        core_limit=core_limit(window, model) if model.shares_cores else math.inf,
    )


def core_limit(window: Sums, model: TimeModel) -> float:
    """The factor up to which the shared cores can do the extra steps.

    The larger of two bounds. The first: the steps that were done, plus those that fit into the cores' idle time;
    negative where the cores were full, so that a factor that is too high goes down. The second: the factor at which a
    fresh example takes :data:`PRICE` more processor time than without echo. The processor time of a step is estimated
    by the time of loop and workers after the echo point, and at most by all processor time.
    """
    fresh_batches = window.fresh_examples / model.batch_size
    steps = window.steps / fresh_batches
    spent = window.cpu_seconds / fresh_batches
    offered = model.num_cores * (window.step_seconds + window.input_wait_seconds) / fresh_batches
    per_step = min(window.cpu_seconds, window.step_seconds + window.downstream_seconds) / window.steps
    if per_step == 0:
        return MAX_FACTOR
    idle = (1 - _IDLE_SHARE) * offered - spent
    without_echo = spent - (steps - 1) * per_step
    return max(steps + idle / per_step, 1 + PRICE * without_echo / per_step)


def advise(measured: WindowTimes, *, max_factor: float) -> float:
    """The largest factor whose extra steps are free; 1 where none are."""
    down = measured.downstream_time
    ratio = measured.upstream_time / down if down else math.inf
    return max(1.0, min(ratio, measured.core_limit, max_factor))


def next_factor(factor: float, advised: float, *, largest_change: float) -> float:
    """``factor`` if it is near enough to ``advised``; otherwise the nearest factor to ``advised`` that
    ``largest_change`` allows."""
    if abs(advised / factor - 1) <= HYSTERESIS:
        return factor
    return max(1.0, round(min(max(advised, factor / largest_change), factor * largest_change), 2))


class FactorControl(abc.ABC):
    """Decides on the factor while a run trains. The loop calls it."""

    @abc.abstractmethod
    def start(self, factors: FactorHistory, keeper: Timekeeper, folder: Path, ranks: Ranks) -> None:
        """Called once, before a new or resumed run in ``folder`` trains."""

    @abc.abstractmethod
    def trained(self, factor: float) -> None:
        """Called after every step has been counted; cheap. ``factor``: that of rank 0 before the step."""

    @abc.abstractmethod
    def save(self) -> None:
        """Write the history of the factor; collective, called before every checkpoint."""


class FixedFactor(FactorControl):
    """The factor was set before the run."""

    def start(self, factors: FactorHistory, keeper: Timekeeper, folder: Path, ranks: Ranks) -> None:
        pass

    def trained(self, factor: float) -> None:
        pass

    def save(self) -> None:
        pass


class AutoFactor(FactorControl):
    """Measures with ``time_model``, and writes decisions into the feed's history and ``factor_history.json``. Rank 0
    decides, the others follow a step later.

    ``settle_steps``: steps until batches that were planned before a change, or read again after a resume, have been
    trained. A resumed run keeps its factor and measures again from the beginning. Raises :class:`SettingError` for a
    ``max_factor`` below 1.
    """

    def __init__(
        self,
        time_model: TimeModel,
        *,
        settle_steps: int,
        echoes_batches: bool,
        max_factor: float = DEFAULT_MAX_FACTOR,
    ) -> None:
        require(
            max_factor >= 1,
            "max_factor",
            max_factor,
            allowed="any real number >= 1",
            cure=f"Leave it out for {DEFAULT_MAX_FACTOR:g}.",
        )
        self._model, self._max_factor = time_model, max_factor
        self._settle_steps, self._echoes_batches = settle_steps, echoes_batches
        self._factors: FactorHistory
        self._keeper: Timekeeper
        self._folder: Path
        self._ranks: Ranks
        self._due_steps = self._due_fresh = 0
        self._num_windows = 0
        self._begin: Sums | None = None  # None: settling
        self._collected = Sums()  # in this window, before the latest change
        self._so_far: WindowTimes | None = None

    def start(self, factors: FactorHistory, keeper: Timekeeper, folder: Path, ranks: Ranks) -> None:
        self._factors, self._keeper, self._folder, self._ranks = factors, keeper, folder, ranks
        self.save()
        resumed = keeper.sums.steps > 0
        self._settle(steps=self._settle_steps if resumed else 0, fresh_batches=_START)

    def trained(self, factor: float) -> None:
        if not self._ranks.is_first:
            if factor != self._factors.newest:
                self._factors.change(factor)
            return
        sums = self._keeper.sums
        if sums.steps < self._due_steps or sums.fresh_examples < self._due_fresh:
            return
        self._keeper.stop()  # adds the work of the workers until now
        self._keeper.start()
        now = Sums(**asdict(sums))
        if self._begin is None:
            self._measure_from(now.minus(self._collected))
        else:
            self._decide(now, now.minus(self._begin))

    def _decide(self, now: Sums, window: Sums) -> None:
        measured = measure(window, self._model)
        warming_up = self._num_windows < len(_WARM_UP)
        if not warming_up and self._so_far is not None:
            measured = self._so_far.averaged(measured)
        self._num_windows += 1
        if self._num_windows >= len(_WARM_UP):  # what was collected is used up
            self._so_far, window = measured, Sums()
        self._collected = window
        advised = advise(measured, max_factor=self._max_factor)
        old = self._factors.newest
        new = next_factor(old, advised, largest_change=math.inf if warming_up else LARGEST_CHANGE)
        if new == old:
            self._measure_from(now.minus(window))
            return
        ordinal = self._factors.change(new)
        log.info("factor %g from entry %d on: %s", new, ordinal, measured)
        if self._ranks.num_ranks == 1:  # of several ranks, the others change theirs a step later
            self.save()
        self._settle(steps=self._settle_steps, fresh_batches=0)

    def _settle(self, *, steps: int, fresh_batches: int) -> None:
        sums = self._keeper.sums
        self._begin = None
        self._due_steps = sums.steps + steps
        self._due_fresh = sums.fresh_examples + fresh_batches * self._model.batch_size

    def _measure_from(self, begin: Sums) -> None:
        """``begin``: the sums at which the window would have begun if it were without gaps."""
        self._begin = begin
        num_batches = _WARM_UP[self._num_windows] if self._num_windows < len(_WARM_UP) else _WINDOW
        self._due_fresh = begin.fresh_examples + num_batches * self._model.batch_size

    def save(self) -> None:
        changes = [json.loads(blob) for blob in self._ranks.gather_bytes(json.dumps(self._factors.changes).encode())]
        if self._ranks.is_first:
            write_history(self._folder, changes, echoes_batches=self._echoes_batches)

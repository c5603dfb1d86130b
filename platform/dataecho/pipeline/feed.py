"""The feed: plan and executor in one, for the trainer and for anybody's own loop."""

from __future__ import annotations

import time
import weakref
from collections.abc import MutableMapping, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dataecho.errors import require, require_same
from dataecho.pipeline.accounting.memory import Memory, measure_sizes, predict_memory
from dataecho.pipeline.accounting.meter import Meter
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.echo_point import NO_ECHO, EchoPoint
from dataecho.pipeline.engine.executor import Executor, reads_at_entry
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Stage
from dataecho.plan.factors import FactorHistory
from dataecho.plan.once import OncePlan
from dataecho.plan.plan import Plan

if TYPE_CHECKING:
    from dataecho.pipeline.engine.processes import WorkerPool


class Feed:
    """An endless iterator of training batches with echo at any stage; a context manager that owns its threads.

    ``echo_after``: None for no echo, a stage's name, or an alias (``before_augmentation``, ``after_augmentation``,
    ``example``, ``batch``, ``device``); ``factor``: any real number >= 1, or a :class:`FactorHistory` of this feed's
    own, which may be open to changes while the feed runs; ``shuffle_buffer`` in examples, 0 for none;
    ``batch_shuffle_buffer`` in batches, for batch echo only. ``rank`` of ``num_ranks`` feeds that train one model
    together has its own share of the items; the sizes are this feed's own. ``state`` continues a feed that ended: see
    :meth:`state`. ``pool`` lends worker processes to several feeds, one after the other.
    The same arguments give the same batches in every process, with any number of threads.

    Raises :class:`SettingError` for settings that do not fit, before anything is read; while it runs, ``ExampleError``
    for an example that a stage fails on, and :class:`DataError` for data that cannot be read.

        >>> import numpy as np
        >>> from dataecho import ArraySource, Feed, Stage, keys
        >>> def scale(example):
        ...     return {"x": np.float32(example["x"] / 100)}
        >>> def shake(example, key):  # a new key for every use after the echo point
        ...     return {"x": example["x"] + np.float32(keys.uniform(key, draw=0))}
        >>> source = ArraySource({"x": np.arange(100)})
        >>> stages = [Stage("scale", scale), Stage("shake", shake, random=True)]
        >>> with Feed(
        ...     source, stages, batch_size=10, shuffle_buffer=40, seed=0, echo_after="scale", factor=4
        ... ) as feed:
        ...     batches = [next(feed) for _ in range(40)]
        >>> batches[0]["x"].shape, batches[0]["x"].dtype
        ((10,), dtype('float32'))
        >>> 90 <= sum(batch.planned.num_fresh for batch in batches) <= 110  # 400 rows, each example about 4 times
        True
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        batch_size: int,
        shuffle_buffer: int,
        seed: int,
        echo_after: str | None = None,
        factor: float | FactorHistory = 1.0,
        batch_shuffle_buffer: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        settings: PipelineSettings | None = None,
        state: dict[str, Any] | None = None,
        pool: WorkerPool | None = None,
    ) -> None:
        self.factors = FactorHistory.of(factor)
        require(
            echo_after is not None or self.factors.identity == 1,
            "factor",
            self.factors.identity,
            allowed="1, for there is no echo",
            cure="Choose where to echo: echo_after=... (on the command line echo=before_augmentation).",
        )
        #: Which results are used several times.
        self.echo = EchoPoint.resolve(echo_after, stages)
        self._identity = {"echo_after": self.echo.stage, "source": source.digest}
        settings = settings or PipelineSettings()
        lengths: dict[int, int] = {}
        # Two cursors of one plan: the engine's runs ahead, this one follows what was trained.
        ahead, self._cursor = (
            plan_of(
                source,
                lengths,
                seed=seed,
                batch_size=batch_size,
                shuffle_buffer=shuffle_buffer,
                factor=self.factors,
                echo_batches=self.echo.echoes_batches,
                batch_shuffle_buffer=batch_shuffle_buffer,
                rank=rank,
                num_ranks=num_ranks,
            )
            for _ in range(2)
        )
        if state is not None:
            for key, cure in _CURES.items():
                require_same({key: self._identity[key]}, {key: state["identity"].get(key)}, cure=cure)
            shard = Plan.shard_of(state)
            lengths[shard] = source.num_examples(shard)  # that of the state is refused where the data have changed
            ahead.load_state_dict(state)
            self._cursor.load_state_dict(state)
        self._sizes = partial(measure_sizes, source, stages, echo=self.echo, shard=next(ahead.shards_ahead())[1])
        self._memory = partial(
            predict_memory,
            batch_size=batch_size,
            shuffle_buffer=shuffle_buffer,
            factor=_factor_of_most_memory(self.factors),
            echo=self.echo,
            batch_shuffle_buffer=batch_shuffle_buffer,
            reads_at_entry=reads_at_entry(source),
            look_ahead=settings.look_ahead,
        )
        #: About how many examples fill the shuffle buffer before there is a first batch; 0 where the buffer holds what
        #: has not been read, or what was there before a resume.
        self.num_to_fill = 0
        if reads_at_entry(source) and not self._cursor.num_batches:
            factor_first = self.factors.changes[0][1]
            if self.echo.echoes_items:
                self.num_to_fill = round((shuffle_buffer + batch_size) / factor_first)
            else:
                self.num_to_fill = round(shuffle_buffer + batch_size * (1 + batch_shuffle_buffer / factor_first))
        self._fetches = source.num_fetches > 0
        #: Seconds in which a shard was fetched for :attr:`memory`: the first batch need not wait for it any more.
        self.head_start = 0.0
        self._num_delivered = self._cursor.num_batches
        self._executor = Executor(
            source,
            stages,
            ahead,
            echo=self.echo,
            seed=seed,
            lengths=lengths,
            visits=ahead.shards_ahead(),
            settings=settings,
            pool=pool,
        )

    @property
    def meter(self) -> Meter:
        """The work of the workers so far."""
        return self._executor.meter

    @cached_property
    def memory(self) -> Memory:
        """The memory of the input side, predicted from a few examples that are read for it. Ask before training."""
        started = time.perf_counter()
        memory = self._memory(self._sizes())
        self.head_start = time.perf_counter() - started if self._fetches else 0.0
        return memory

    @property
    def identity(self) -> dict[str, Any]:
        """The values that a state must agree with."""
        return {**self._cursor.identity, **self._identity}

    def state(self, num_batches: int) -> dict[str, Any]:
        """The state after the first ``num_batches`` batches (counted over all runs) were trained, whatever was
        fetched since. Integers and int64 arrays; no data. Raises ``ValueError`` for a number below that of an earlier
        call, or above what was delivered."""
        if not self._cursor.num_batches <= num_batches <= self._num_delivered:
            raise ValueError(
                f"num_batches={num_batches}: a state can be had from {self._cursor.num_batches} (the last asked for) "
                f"to {self._num_delivered} (delivered)"
            )
        self._cursor.advance(num_batches - self._cursor.num_batches)
        return {**self._cursor.state_dict(), "identity": self.identity}

    def ready(self, *, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the next batch; see :meth:`Executor.ready`."""
        return self._executor.ready(timeout=timeout)

    def pause(self, *, timeout: float | None = None) -> bool:
        """Stand still; see :meth:`Executor.pause`."""
        return self._executor.pause(timeout=timeout)

    def resume(self) -> None:
        """Go on."""
        self._executor.resume()

    def close(self) -> None:
        """Stop every thread."""
        self._executor.close()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        batch = next(self._executor)
        self._num_delivered += 1
        return batch

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_CURES = {
    "echo_after": "Resume with the same settings, or start a new run.",
    "source": "These are digests of the training data, which are others now: a file was added, removed, renamed or "
    "changed, or read in another way by another version. Restore the data, or start a new run.",
}


def plan_of(
    source: Source,
    lengths: MutableMapping[int, int],
    *,
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
    **settings: Any,
) -> Plan:
    """The plan of a feed that has ``source``; it looks shards up in ``lengths``, and the others are :class:`Plan`'s
    own. Raises :class:`SettingError` for what cannot be planned."""
    if source.num_shards == 1 and source.num_fetches == 0:
        lengths[0] = source.num_examples(0)
        length = lengths[0] // num_ranks
        require(
            batch_size <= length,
            "batch_size",
            batch_size,
            allowed=f"at most the {length} examples of the source" + (" for a rank" if num_ranks > 1 else ""),
            cure="Use a smaller batch_size or more data.",
        )
    return Plan(
        lengths,
        num_shards=source.num_shards,
        batch_size=batch_size,
        shuffle_items=source.random_access,
        # What is fetched shard by shard is dealt by the shard, or every rank would fetch everything.
        deal_shards=reads_at_entry(source),
        rank=rank,
        num_ranks=num_ranks,
        **settings,
    )


def _factor_of_most_memory(factors: FactorHistory) -> float:
    """Kept results are most at a factor of 2 (:mod:`dataecho.plan.memory`); of a factor that may change nothing better
    is known."""
    return 2.0 if factors.is_open or len(factors.changes) > 1 else factors.newest


def once_through(
    source: Source,
    stages: Sequence[Stage],
    *,
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
    settings: PipelineSettings | None = None,
    pool: WorkerPool | None = None,
) -> Executor:
    """Every example of ``source`` exactly once, in order, never echoed: evaluation. The last batch is padded with rows
    of weight 0. ``stages`` must not be random.

    Of several ranks each gets every ``num_ranks``-th batch, and all get the same number of batches: where there is none
    left for a rank in the last round, it gets that of rank 0, whose ``planned.batch_ordinal`` tells so.

    Worker processes stay for the next pass over ``source`` as long as that object lives, or in ``pool``. Raises
    :class:`SettingError` for random stages.

        >>> import numpy as np
        >>> from dataecho import ArraySource, once_through
        >>> with once_through(ArraySource({"x": np.arange(5)}), [], batch_size=3) as batches:
        ...     for batch in batches:
        ...         print(batch["x"][batch.weights > 0])
        [0 1 2]
        [3 4]
    """
    random = [stage.name for stage in stages if stage.random]
    require(
        not random,
        "eval_stages",
        ", ".join(random),
        allowed="stages without randomness",
        cure="Evaluate unaugmented data.",
    )
    settings = settings or PipelineSettings()
    lengths: dict[int, int] = {}
    return Executor(
        source,
        stages,
        OncePlan(lengths, num_shards=source.num_shards, batch_size=batch_size, rank=rank, num_ranks=num_ranks),
        echo=NO_ECHO,
        seed=0,
        lengths=lengths,
        visits=((0, shard, 0) for shard in range(source.num_shards)),
        settings=settings,
        pool=_pool_of(source) if pool is None and settings.num_processes else pool,
    )


#: Idle worker processes of passes over a source, which are made again and again.
_pools: weakref.WeakKeyDictionary[Source, WorkerPool] = weakref.WeakKeyDictionary()


def _pool_of(source: Source) -> WorkerPool:
    from dataecho.pipeline.engine.processes import WorkerPool  # imported only where there are processes

    if source not in _pools:
        _pools[source] = WorkerPool()
    return _pools[source]

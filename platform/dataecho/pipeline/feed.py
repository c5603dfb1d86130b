"""The feed: plan and executor in one, for the trainer and for anybody's own loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from dataecho.errors import SettingError, require
from dataecho.pipeline.batch import Batch
from dataecho.pipeline.executor import Executor, ExecutorSettings
from dataecho.pipeline.meter import Meter
from dataecho.pipeline.source import Source, shard_lengths
from dataecho.pipeline.stage import BATCH, DEVICE, Stage, echo_point
from dataecho.plan.plan import Plan, PlannedBatch


class Feed:
    """An endless iterator of training batches with echo at any stage; a context manager that owns its threads.

    ``echo_after``: None for no echo, a stage's name, or an alias (``before_augmentation``, ``after_augmentation``,
    ``example``, ``batch``, ``device``); ``factor``: any real number >= 1; ``shuffle_buffer`` in examples, 0 for none;
    ``batch_shuffle_buffer`` in batches, for batch echo only. ``state`` continues a feed that ended: see :meth:`state`.
    The same arguments give the same batches in every process, with any number of threads.
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
        factor: float = 1.0,
        batch_shuffle_buffer: int = 0,
        settings: ExecutorSettings | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        require(
            echo_after is not None or factor == 1,
            "factor",
            factor,
            allowed="1, for there is no echo",
            cure="Choose where to echo: echo_after=... (on the command line echo=before_augmentation).",
        )
        after = echo_point(echo_after, stages) if echo_after is not None else BATCH
        if source.num_shards == 1:
            length = source.num_examples(0)
            require(
                batch_size <= length,
                "batch_size",
                batch_size,
                allowed=f"at most the {length} examples of the source",
                cure="Use a smaller batch_size or more data.",
            )
        self._identity = {"echo_after": after, "source": source.digest}
        # Two cursors of one plan: the executor's runs ahead, this one follows what was trained.
        ahead, self._cursor = (
            Plan(
                source.num_examples,
                num_shards=source.num_shards,
                seed=seed,
                batch_size=batch_size,
                shuffle_buffer=shuffle_buffer,
                factor=factor,
                echo_batches=echo_after is not None and after in (BATCH, DEVICE),
                batch_shuffle_buffer=batch_shuffle_buffer,
                shuffle_items=source.random_access,
            )
            for _ in range(2)
        )
        if state is not None:
            self._check(state)
            ahead.load_state(state)
            self._cursor.load_state(state)
        self.echo_after = after
        self._num_delivered = self._cursor.num_batches
        self._executor = Executor(
            source,
            stages,
            ahead.batches(),
            echo_after=after,
            seed=seed,
            settings=settings or ExecutorSettings(),
        )

    @property
    def meter(self) -> Meter:
        """What the workers did so far."""
        return self._executor.meter

    @property
    def identity(self) -> dict[str, Any]:
        """What a state must agree with."""
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
        return {**self._cursor.state(), "identity": self.identity}

    def ready(self, *, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the next batch; see :meth:`Executor.ready`."""
        return self._executor.ready(timeout=timeout)

    def pause(self) -> None:
        """Stand still; see :meth:`Executor.pause`."""
        self._executor.pause()

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

    def _check(self, state: dict[str, Any]) -> None:
        for key, mine in self._identity.items():
            theirs = state["identity"].get(key)
            if theirs != mine:
                raise SettingError(
                    key,
                    mine,
                    allowed=f"{theirs}, the value the checkpoint was written with",
                    cure="Resume with the same data and settings, or start a new run.",
                )


def once_through(
    source: Source, stages: Sequence[Stage], *, batch_size: int, settings: ExecutorSettings | None = None
) -> Executor:
    """Every example of ``source`` exactly once, in order, never echoed: evaluation. The last batch is padded with rows
    of weight 0. ``stages`` must not be random."""
    random = [stage.name for stage in stages if stage.random]
    require(
        not random,
        "eval_stages",
        ", ".join(random),
        allowed="stages without randomness",
        cure="Evaluate unaugmented data.",
    )
    lengths = shard_lengths(source)
    require(sum(lengths) > 0, "source", "no example", allowed="at least one", cure="Name held-out data that exists.")
    return Executor(
        source,
        stages,
        _in_order(lengths, batch_size),
        echo_after=BATCH,
        seed=0,
        settings=settings or ExecutorSettings(),
    )


def _in_order(lengths: Sequence[int], batch_size: int) -> Iterator[PlannedBatch]:
    shards = np.repeat(np.arange(len(lengths)), lengths)
    ks = np.concatenate([np.arange(length) for length in lengths])
    zeros, ones = np.zeros(batch_size, dtype=np.int64), np.ones(batch_size, dtype=np.int64)
    for number, start in enumerate(range(0, len(ks), batch_size)):
        num_valid = min(batch_size, len(ks) - start)
        ordinal = np.minimum(np.arange(start, start + batch_size), len(ks) - 1)
        shard, k = shards[ordinal], ks[ordinal]
        yield PlannedBatch(
            ordinal=ordinal,
            epoch=zeros,
            shard=shard,
            k=k,
            repeat=zeros,
            num_repeats=ones,
            batch_ordinal=number,
            batch_repeat=0,
            num_batch_repeats=1,
            num_valid=num_valid,
            entered=np.stack([ordinal, zeros, shard, k], axis=1)[:num_valid],
            num_entered=start + num_valid,
            epochs_entered=1,
            num_fresh=num_valid,
            num_duplicates=0,
            lag=zeros,
            total_lag=0.0,
        )

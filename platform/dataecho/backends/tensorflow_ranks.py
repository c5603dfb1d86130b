"""The processes that ``TF_CONFIG`` names, as :class:`Ranks`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.backends.tensorflow_start import tf
from dataecho.errors import require
from dataecho.training.ranks import OneRank, RankLost, Ranks

# TensorFlow raises these when a peer has gone or does not answer, and never for a computation.
_OTHERS_FAILED = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


def launched_ranks() -> int:
    """The number of workers in ``TF_CONFIG``; 1 without it."""
    jobs = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    require(
        set(jobs) <= {"worker"},
        "TF_CONFIG",
        ", ".join(jobs),
        allowed="a cluster of workers",
        cure='{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, each its index.',
    )
    return max(1, len(jobs.get("worker", [])))


@cache
def strategy_of_workers(timeout: float) -> tf.distribute.Strategy:
    """Connect to the other workers, once in a process and before TensorFlow has started. Later they must answer within
    ``timeout`` seconds."""
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def ranks_of(strategy: tf.distribute.Strategy) -> Ranks:
    """The workers of ``strategy``; one rank without workers."""
    if launched_ranks() == 1:
        return OneRank()
    return TensorflowRanks(strategy)


class TensorflowRanks(Ranks):
    """Communicates with the same collective operations as the gradients."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._rank, self._num_ranks = strategy.cluster_resolver.task_id, launched_ranks()
        self._sum = tf.function(partial(self._sum_everywhere), autograph=False)

    @property
    def rank(self) -> int:
        return int(self._rank)

    @property
    def num_ranks(self) -> int:
        return self._num_ranks

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        # Pad to a power of two: every new size is a new graph.
        padded = np.zeros(max(16, 1 << (values.size - 1).bit_length()), dtype=values.dtype)
        padded[: values.size] = values.ravel()
        num_devices = len(self._strategy.extended.worker_devices)

        def part(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            sends = context.replica_id_in_sync_group % num_devices == 0  # one device of this rank
            return tf.constant(padded if sends else np.zeros_like(padded))

        with lost_ranks_detected(self):
            summed = self._sum(self._strategy.experimental_distribute_values_from_function(part)).numpy()
        array: NDArray[Any] = summed[: values.size].reshape(values.shape)
        return array

    def _sum_everywhere(self, values: Any) -> tf.Tensor:
        def total(value: tf.Tensor) -> tf.Tensor:
            here = tf.identity(value)  # places the argument on a device
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

        return self._strategy.experimental_local_results(self._strategy.run(total, args=(values,)))[0]


@contextmanager
def lost_ranks_detected(ranks: Ranks) -> Iterator[None]:
    """Inside, an error because of a lost rank becomes :class:`RankLost`."""
    try:
        yield
    except _OTHERS_FAILED as error:
        if ranks.num_ranks > 1:
            raise RankLost(ranks, error) from error
        raise

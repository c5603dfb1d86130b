"""Held-out examples with the predictions of a backend's model."""

from __future__ import annotations

import numpy as np

from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import ArraySource, Source, shard_lengths
from dataecho.pipeline.stage import Broken, as_examples, as_stacked, run_stage
from dataecho.plan.keys import KeyStream
from dataecho.plan.order import Permutation
from dataecho.training.contracts import Arrays, Backend, Task
from dataecho.training.shown import Shown


def show_held_out(task: Task, source: Source, backend: Backend, *, num_examples: int, devices: int) -> list[Shown]:
    """At most ``num_examples`` of ``source`` with predictions, always the same examples. Collective, with the result on
    every rank; batches have a multiple of ``devices`` rows. Raises an error of reading, on every rank."""
    examples, error = None, None
    try:
        examples = _examples(task, source, num_examples)
    except Exception as failed:
        error = failed
    # Predictions are collective: a rank that failed must stop the others.
    num_failed = int(backend.ranks.gather([float(examples is None)]).sum())
    if examples is None or num_failed:
        raise error or RuntimeError(f"{num_failed} other processes could not read held-out examples")

    def predict(rows: Arrays) -> Arrays:
        num_rows = len(next(iter(rows.values())))
        padded = np.arange(-(-num_rows // devices) * devices) % num_rows
        given = ArraySource({name: values[padded] for name, values in rows.items()})
        with once_through(given, (), batch_size=len(padded)) as batches:
            batch = next(batches)
            outputs = backend.eval_step(backend.put(batch))
        return {name: values[:num_rows] for name, values in outputs.items()}

    return task.show_predictions(examples, predict)


def _examples(task: Task, source: Source, num_examples: int) -> Arrays:
    """Some examples after the stages for evaluation, without broken ones."""
    chunk = source.read(*_positions(source, num_examples))
    for stage in task.eval_stages():
        chunk = run_stage(stage, chunk, None)
    return as_stacked([example for example in as_examples(chunk) if not isinstance(example, Broken)])


def _positions(source: Source, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Shards and positions of the examples: random where that is cheap, since neighbours are often of one class; else
    the first ones of the first shard."""
    if not source.random_access or source.num_fetches > 0:
        ks = np.arange(min(num_examples, source.num_examples(0)))
        return np.zeros_like(ks), ks
    starts = np.cumsum([0, *shard_lengths(source)])
    total = int(starts[-1])
    chosen = Permutation.of(total, KeyStream(0, "pictures"), 0)(np.arange(min(num_examples, total)))
    shards = np.searchsorted(starts, chosen, side="right") - 1
    return shards, chosen - starts[shards]

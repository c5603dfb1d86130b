"""Held-out metrics: every example once, without augmentation or echo. A warning names broken examples, which are left
out."""

from __future__ import annotations

import logging

from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from dataecho.pipeline.batch import Skipped
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.training.contracts import Backend, Evaluator, Task

_LOG = logging.getLogger(__name__)


def evaluate(task: Task, source: Source, backend: Backend, settings: PipelineSettings) -> dict[str, float]:
    """The task's metrics over ``source``; collective: the ranks share the batches, and all return the same result."""
    rank, num_ranks = backend.ranks.rank, backend.ranks.num_ranks
    evaluator = task.evaluator()
    skipped: list[Skipped] = []
    with once_through(
        source,
        task.eval_stages(),
        batch_size=task.eval_batch_size,
        rank=rank,
        num_ranks=num_ranks,
        settings=settings,
    ) as batches:
        for batch in batches:
            outputs = backend.eval_step(backend.put(batch))
            if batch.planned.batch_ordinal % num_ranks == rank:
                evaluator.update(outputs, batch)
                skipped += batch.skipped
            batch.release()
    if skipped:
        _LOG.warning(
            "%d broken held-out examples were left out of the evaluation: %s",
            len(skipped),
            "; ".join(f"{example.name}: {example.stage}: {example.reason}" for example in skipped),
        )
    return (evaluator if num_ranks == 1 else _merged(task, evaluator, backend)).compute()


def _merged(task: Task, mine: Evaluator, backend: Backend) -> Evaluator:
    """An evaluator of all ranks' batches, combined in rank order: bit-identical on every rank."""
    merged = task.evaluator()
    for blob in backend.ranks.gather_bytes(dump_arrays(mine.seen())):
        merged.add(load_arrays(blob))
    return merged

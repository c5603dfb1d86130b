"""Held-out metrics: every example once, unaugmented, never an echo. What is broken is left out and named."""

from __future__ import annotations

import logging

from dataecho.pipeline.batch import Skipped
from dataecho.pipeline.executor import ExecutorSettings
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import Source
from dataecho.training.contracts import Backend, Task

_LOG = logging.getLogger(__name__)


def evaluate(task: Task, source: Source, backend: Backend, settings: ExecutorSettings) -> dict[str, float]:
    """The task's metrics over ``source``."""
    evaluator = task.evaluator()
    skipped: list[Skipped] = []
    with once_through(source, task.eval_stages(), batch_size=task.eval_batch_size, settings=settings) as batches:
        for batch in batches:
            evaluator.update(backend.eval_step(backend.put(batch)), batch)
            skipped += batch.skipped
            batch.release()
    if skipped:
        _LOG.warning(
            "%d broken held-out examples were left out of the evaluation: %s",
            len(skipped),
            "; ".join(f"{example.name}: {example.stage}: {example.reason}" for example in skipped),
        )
    return evaluator.compute()

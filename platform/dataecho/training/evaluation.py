"""Held-out metrics: every example once, unaugmented, never an echo."""

from __future__ import annotations

from dataecho.pipeline.executor import ExecutorSettings
from dataecho.pipeline.feed import once_through
from dataecho.pipeline.source import Source
from dataecho.training.contracts import Backend, Task


def evaluate(task: Task, source: Source, backend: Backend, settings: ExecutorSettings) -> dict[str, float]:
    """The task's metrics over ``source``."""
    evaluator = task.evaluator()
    with once_through(source, task.eval_stages(), batch_size=task.eval_batch_size, settings=settings) as batches:
        for batch in batches:
            evaluator.update(backend.eval_step(backend.put(batch)), batch)
            batch.release()
    return evaluator.compute()

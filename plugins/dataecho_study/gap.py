"""The metric on training data at the end of a run, for the gap between training and held-out values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Chunk
from dataecho.training.contracts import Hook, HookInfo, Task
from dataecho.training.evaluation import evaluate

FILE_NAME = "training_value.json"


@final
class TrainingValue(Hook):
    """Evaluates the first ``num_examples`` of the training data, without augmentation, at the last marks of a run: from
    one ``task.eval_interval`` before the ``budget`` in fresh examples on. Writes :data:`FILE_NAME`."""

    def __init__(self, *, task: Task, num_examples: int, budget: int) -> None:
        self._task, self._budget = task, budget
        self._source = FirstExamples(task.train_source(), num_examples)

    def __call__(self, info: HookInfo) -> None:
        if info.fresh_examples + self._task.eval_interval < self._budget:
            return
        metrics = evaluate(self._task, self._source, info.backend, PipelineSettings())
        if info.is_first:
            (info.folder / FILE_NAME).write_text(json.dumps(metrics) + "\n")


def read_training_value(folder: Path, metric: str) -> float | None:
    """The value of ``metric`` that a run has left, None without one."""
    path = folder / FILE_NAME
    return float(json.loads(path.read_text())[metric]) if path.exists() else None


@final
class FirstExamples(Source):
    """The first ``num_examples`` of ``source``, over its shards in order."""

    def __init__(self, source: Source, num_examples: int) -> None:
        self._source, self._lengths = source, list[int]()
        for shard in range(source.num_shards):
            if num_examples <= 0:
                break
            self._lengths.append(min(num_examples, source.num_examples(shard)))
            num_examples -= self._lengths[-1]

    @property
    def num_shards(self) -> int:
        return len(self._lengths)

    def num_examples(self, shard: int) -> int:
        return self._lengths[shard]

    @property
    def random_access(self) -> bool:
        return self._source.random_access

    @property
    def digest(self) -> str:
        return f"{self._source.digest}-{sum(self._lengths)}"

    def name(self, shard: int, k: int) -> str:
        return self._source.name(shard, k)

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return self._source.read(shards, ks)

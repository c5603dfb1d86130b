"""A throttle relative to the step: the step is measured before the clock runs, and the limit then stays the same."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from dataecho.pipeline.feed import Feed
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import Source
from dataecho.pipeline.throttle import Throttle
from dataecho.training.contracts import Backend, Task

FILE_NAME = "throttle.json"
_KEY = "step_time"
_NUM_WARM_UP, _NUM_LEAST, _SECONDS = 3, 5, 1.0


def fixed_throttle(
    throttle: Throttle,
    task: Task,
    source: Source,
    backend: Backend,
    pipeline: PipelineSettings,
    *,
    folder: Path | None,
) -> Throttle:
    """``throttle`` with a limit of examples per second in place of its ratio; itself where it has no ratio. The time of
    a step is the one that ``folder`` records, else it is measured on rank 0; the backend is left as it was."""
    if throttle.ratio is None:
        return throttle
    batch_size = task.batch_size // backend.ranks.num_ranks
    seconds = _recorded(folder)
    if seconds is None:
        seconds = _step_time(task, source, backend, batch_size, pipeline)
        slow = _fixed(throttle, seconds, batch_size)  # threads that wake up for slow reads cost the step time, too
        seconds = _step_time(task, slow.slow_down(source), backend, batch_size, pipeline)
    return _fixed(throttle, float(backend.ranks.from_first(str(seconds))), batch_size)


def _fixed(throttle: Throttle, step_seconds: float, batch_size: int) -> Throttle:
    assert throttle.ratio is not None
    return replace(throttle, examples_per_second=batch_size / (throttle.ratio * step_seconds))


def record_throttle(throttle: Throttle, folder: Path, *, batch_size: int) -> None:
    """Write the time of a step that a fixed throttle is relative to into the run's ``folder``."""
    if throttle.ratio is not None and throttle.examples_per_second is not None:
        seconds = batch_size / (throttle.ratio * throttle.examples_per_second)
        (folder / FILE_NAME).write_text(json.dumps({_KEY: seconds}) + "\n")


def _recorded(folder: Path | None) -> float | None:
    path = None if folder is None else folder / FILE_NAME
    if path is None or not path.exists():
        return None
    return float(json.loads(path.read_text())[_KEY])


def _step_time(task: Task, source: Source, backend: Backend, batch_size: int, pipeline: PipelineSettings) -> float:
    """Mean seconds of a step with its copy to the device, while the workers prepare the next batches: as in a run."""
    arrays, values = backend.state()
    seconds, number = 0.0, -_NUM_WARM_UP
    begun = time.perf_counter()
    with Feed(source, task.stages(), batch_size=batch_size, shuffle_buffer=0, seed=0, settings=pipeline) as feed:
        while number < _NUM_LEAST or time.perf_counter() - begun < _SECONDS:
            batch = next(feed)
            started = time.perf_counter()
            backend.train_step(backend.put(batch), learning_rate=0.0)
            backend.synchronize()
            batch.release()
            number += 1
            if number > 0:
                seconds += time.perf_counter() - started
    backend.load_state(arrays, values)
    return seconds / number

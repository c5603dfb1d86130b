"""Workers leave the cores to the training loop."""

import os
import sys

import numpy as np
import pytest

from dataecho.pipeline.executor import ExecutorSettings
from dataecho.pipeline.feed import Feed
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage


def niceness(example):
    return {"niceness": np.int64(os.getpriority(os.PRIO_PROCESS, 0))}  # 0: the calling thread


@pytest.mark.parametrize("num_processes", [0, 1])
def test_workers_are_five_steps_nicer_than_the_loop_which_stays_as_it_was(num_processes):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    source = ArraySource({"x": np.arange(16)})
    settings = ExecutorSettings(num_threads=2, num_processes=num_processes, chunk_size=2)
    with Feed(source, [Stage("ask", niceness)], batch_size=8, shuffle_buffer=8, seed=0, settings=settings) as batches:
        expected = min(19, before + 5) if sys.platform == "linux" else before
        assert next(batches)["niceness"].tolist() == [expected] * 8
    assert os.getpriority(os.PRIO_PROCESS, 0) == before

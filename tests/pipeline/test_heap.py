"""Freed memory is used again, not taken from the system page by page."""

import platform
import resource
import subprocess
import sys

import numpy as np

from dataecho.pipeline.feed import once_through
from dataecho.pipeline.settings import PipelineSettings
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage

# Thirty-two images, made one after the other and freed together, as in a piece of work; in a process of its own, for
# this one has freed who knows what.
FAULTS = """
import resource, sys
import numpy as np
from dataecho.pipeline.engine.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        images = [np.ones(200_000, np.uint8) for _ in range(32)]
        del images
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
keep_freed_memory()
faults()
print(without, faults())
"""


def test_images_made_after_others_cost_no_page_faults():
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    without, with_it = map(int, out.split())
    if platform.libc_ver()[0] == "glibc":
        assert without > 20 * 32 * 10, "nothing to cure here"
    assert with_it < 100


def test_every_executor_does_it_when_it_starts(monkeypatch):
    asked = []
    monkeypatch.setattr("dataecho.pipeline.engine.engine.keep_freed_memory", lambda: asked.append(True))
    with once_through(ArraySource({"x": np.arange(4)}), (), batch_size=2) as batches:
        assert not asked
        assert [batch["x"].tolist() for batch in batches] == [[0, 1], [2, 3]]
    assert asked == [True]


def page_faults(example):
    """Of thirty-two images that are freed together, when others were before."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        images = [np.ones(200_000, np.uint8) for _ in range(32)]
        del images
    return {"faults": np.int64(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)}


def test_worker_processes_do_it():
    settings = PipelineSettings(num_processes=1, chunk_size=1)
    source, stages = ArraySource({"x": np.arange(4)}), (Stage("faults", page_faults),)
    with once_through(source, stages, batch_size=4, settings=settings) as batches:
        assert next(batches)["faults"].max() < 100

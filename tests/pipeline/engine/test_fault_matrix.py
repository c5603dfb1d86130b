"""A random sample of the fault matrix, with its seed; the whole is ``python -m tests.pipeline.engine.fault_matrix``."""

import os
import random

import pytest

from tests.pipeline.engine.fault_matrix import CELLS, FAULTS, STEPS, Cell, run_many

NUM_CELLS = 40


def test_a_sample_of_the_matrix():
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}")
    cells = [cell for cell in CELLS if not cell.excluded()]
    # Cells that hang take seconds each: a few of them.
    slow = [cell for cell in cells if cell.fault == "hang"]
    quick = [cell for cell in cells if cell.fault != "hang"]
    draw = random.Random(seed)
    run_many([*draw.sample(quick, NUM_CELLS), *draw.sample(slow, 3)])


def test_the_log_of_a_failed_drop_does_not_keep_the_source():
    """Handlers keep records (pytest's does); an error among their arguments would keep all that it passed through."""
    cells = [Cell("drop", "exception", executor, "shards over HTTP", "none") for executor in ("threads", "processes")]
    run_many(cells * 3)


@pytest.mark.parametrize("name", [*STEPS, *FAULTS])
def test_every_step_and_every_fault_has_cells(name):
    assert any(name in (cell.step, cell.fault) for cell in CELLS if not cell.excluded())

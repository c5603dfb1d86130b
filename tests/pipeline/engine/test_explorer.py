"""A sample of schedules in every test run; the whole is ``python -m tests.pipeline.engine.explorer``."""

import os

import pytest

from tests.pipeline.engine.explorer import FAULTS, explore_many, schedules_to_find

NUM_SCHEDULES = 1500


def test_no_schedule_of_a_sample_loses_doubles_or_stalls_anything():
    seed = int.from_bytes(os.urandom(3), "big")
    print(f"seed {seed}")
    assert explore_many(NUM_SCHEDULES, seed) > NUM_SCHEDULES


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_back_is_found(fault):
    assert schedules_to_find(fault, most=2000) is not None

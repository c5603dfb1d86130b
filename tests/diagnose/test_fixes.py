"""What is told to try before echoing."""

import re
from dataclasses import replace

import pytest

from dataecho.diagnose.advice import bottleneck
from dataecho.diagnose.fixes import cheap_fixes
from dataecho.diagnose.measurements import Scaling
from tests.diagnose.test_advice import FETCHED, SLOW_CROP, SLOW_READ, measured, side

NO_SCALING = Scaling(num_workers=2, speed_up=1.0)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (FETCHED, ["local disk, or give the source a cache_dir"]),
        (SLOW_READ, ["50% of the cores are idle: try pipeline.num_threads=4", "a faster disk"]),
        (replace(SLOW_READ, busy_share=0.9), ["a faster disk"]),
        (replace(SLOW_READ, uses_processes=True), ["try pipeline.num_processes=4", "a faster disk"]),
        (replace(SLOW_CROP, scaling=NO_SCALING), ["2 threads are only 1.0 times as fast as one: 'crop'.*processes"]),
        # Two processes on one core cannot be faster than one: that says nothing.
        (replace(SLOW_CROP, scaling=NO_SCALING, num_cores=1, busy_share=0.9), ["The 1 cores are busy"]),
        (replace(SLOW_CROP, scaling=NO_SCALING, uses_processes=True, busy_share=0.9), ["only less work in 'crop'"]),
        (replace(SLOW_CROP, num_cores=8, busy_share=0.3), ["70% of the cores are idle: try pipeline.num_threads=8"]),
        (replace(SLOW_CROP, busy_share=0.5), []),
        (measured(alone=side(crop=1, step=1), input_wait_fraction=0.3), ["30% .*in bursts. Raise pipeline.look_ahead"]),
        (measured(alone=side(transfer=0.9, step=1), input_wait_fraction=0.3), ["look_ahead and pipeline.read_ahead"]),
        (measured(alone=side(crop=1, step=1), input_wait_fraction=0.05), []),
    ],
)
def test_cheap_fixes(what, told):
    fixes = cheap_fixes(what, bottleneck(what))
    assert len(fixes) == len(told)
    for fix, pattern in zip(fixes, told, strict=True):
        assert re.search(pattern, fix), fix

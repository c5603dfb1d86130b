"""What is said of rows that do not fit each other."""

import re

import numpy as np
import pytest

from dataecho.pipeline.accounting.meter import Times
from dataecho.pipeline.batch import new_arrays
from dataecho.pipeline.echo_point import NO_ECHO
from dataecho.pipeline.engine.fill import put
from dataecho.pipeline.engine.rows import Rows
from dataecho.pipeline.engine.work import Made, Work
from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import ExampleError


def test_a_broken_row_is_not_named_as_one_that_may_not_fit():
    work = Work(ArraySource({"x": np.arange(4)}), [], echo=NO_ECHO, seed=0)
    zeros = np.zeros(3, np.int64)
    rows = Rows(np.arange(3), zeros, zeros, zeros, np.array([3, 1, 2]), zeros, zeros + 1)
    made = Made(np.array([1, 2]), [{"x": np.zeros(2)}, {"x": np.zeros(5)}], {0: "broken"})
    named = re.escape(work.where(rows.epoch[1], rows.shard[1], rows.k[1])) + " or the 1 after it"
    with pytest.raises(ExampleError, match=named):
        put(made, rows, work, lambda layout: new_arrays(layout, 3), Times())

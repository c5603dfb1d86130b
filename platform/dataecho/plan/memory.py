"""How many results and records a plan keeps alive, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable


def expected_live_results(buffer_length: int, factor: float) -> float:
    """Mean number of items that have been used, and will be again: results of the stage before the echo point.

    B * E[H_n - 1/n] / e, with n the item's number of uses, H_n the harmonic number. A buffer of B uses holds B / n
    entries of n uses each in the mean; while k of an entry's uses are still in the buffer, the next leaves after B / k
    steps. 0 at e = 1, and 0.50, 0.46, 0.32 of B at e = 2, 4, 8.
    """
    return buffer_length * _mean(factor, lambda n: _harmonic(n) - 1 / n) / factor


def expected_waiting_records(buffer_length: int, factor: float) -> float:
    """Mean number of items that have entered and not been used: encoded records, where reading is done at entry.

    B * E[1/n] / e.
    """
    return buffer_length * _mean(factor, lambda n: 1 / n) / factor


def _mean(factor: float, value: Callable[[int], float]) -> float:
    floor = math.floor(factor)
    fraction = factor - floor
    return (1 - fraction) * value(floor) + fraction * value(floor + 1)


def _harmonic(n: int) -> float:
    return sum(1 / k for k in range(1, n + 1))

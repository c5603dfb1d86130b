"""Randomness as a pure function of (run seed, purpose, coordinates): nothing to save, nothing to lock.

A ``SeedSequence`` is spent once per (seed, purpose); every draw after that is a counter-based hash (the finaliser of
SplitMix64; Steele, Lea and Flood, OOPSLA 2014), vectorised over numpy arrays.

A random stage gets one 64-bit key per example, a scalar or an array [n], and draws from it; nothing here raises.

    >>> import numpy as np
    >>> from dataecho import keys
    >>> key = np.uint64(2024)  # of one use of one example: what a random stage is given
    >>> int(keys.integers(key, draw=0, high=10)) == int(keys.integers(key, draw=0, high=10))  # no hidden state
    True
    >>> keys.uniform(np.array([1, 2, 3], np.uint64), draw=1).shape
    (3,)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1
_GAMMA_ONE, _MIX_1_ONE, _MIX_2_ONE = (int(number) for number in (_GAMMA, _MIX_1, _MIX_2))
_S27, _S30, _S31, _S32, _S11 = (np.uint64(shift) for shift in (27, 30, 31, 32, 11))

Keys = NDArray[np.uint64]


class KeyStream:
    """All random draws of one purpose (``"buffer"``, ``"augment.shift"``) of one run.

    ``seed`` is any non-negative integer, 0 included. Different purposes, seeds and coordinates are independent; in
    particular (seed 42, epoch 1) has nothing in common with (seed 43, epoch 0).
    """

    def __init__(self, seed: int, purpose: str) -> None:
        words = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode())).generate_state(1, np.uint64)
        self._salt: Keys = words[:1].astype(np.uint64)

    def keys(self, *coordinates: ArrayLike) -> Keys:
        """64 random bits for each position of the broadcast ``coordinates`` (whole numbers); uint64, at least 1-D."""
        state = self._salt
        for coordinate in coordinates:
            state = _mix(state + np.asarray(coordinate, dtype=np.int64).astype(np.uint64) * _GAMMA)
        return state

    def key(self, *coordinates: int) -> int:
        """The same for one position, in a tenth of the time."""
        state = int(self._salt[0])
        for coordinate in coordinates:
            state = _mix_one(state + coordinate * _GAMMA_ONE)
        return state

    def integers(self, high: int, *coordinates: ArrayLike) -> NDArray[np.int64]:
        """Whole numbers in [0, high), ``high`` at most 2**31 (bias below ``high`` / 2**32)."""
        return _scaled(self.keys(*coordinates), high)

    def uniform(self, *coordinates: ArrayLike) -> NDArray[np.float64]:
        """Real numbers in [0, 1) with 53 random bits."""
        return _unit(self.keys(*coordinates))


def integers(keys: ArrayLike, *, draw: int, high: int) -> Any:
    """The ``draw``-th whole number in [0, high) that each key of an augmentation stage stands for: one for one key, an
    array for an array. Two draws of one stage need two numbers: the same number is the same draw. ``high`` is at most
    2**31."""
    if isinstance(keys, np.generic) or np.ndim(keys) == 0:
        return np.int64(((_draw_one(int(keys), draw) >> 32) * high) >> 32)  # type: ignore[arg-type]
    return _scaled(_draw(keys, draw), high)


def uniform(keys: ArrayLike, *, draw: int) -> Any:
    """The ``draw``-th real number in [0, 1), otherwise as :func:`integers`."""
    if isinstance(keys, np.generic) or np.ndim(keys) == 0:
        return np.float64((_draw_one(int(keys), draw) >> 11) * 2.0**-53)  # type: ignore[arg-type]
    return _unit(_draw(keys, draw))


def uniforms(key: np.uint64, count: int) -> list[float]:
    """``uniform(key + np.arange(count, dtype=np.uint64), draw=0)`` for one key: several real numbers in [0, 1) at once,
    in a third of the time."""
    first = int(key)
    return [(_draw_one(first + number, 0) >> 11) * 2.0**-53 for number in range(count)]


def _draw(keys: ArrayLike, draw: int) -> Keys:
    return _mix(np.asarray(keys, dtype=np.uint64) + np.array([draw + 1], dtype=np.uint64) * _GAMMA)


def _draw_one(key: int, draw: int) -> int:
    """The same for one key. Python's own numbers are ten times faster here than arrays of one, and threads that augment
    example by example wait for each other meanwhile."""
    return _mix_one(key + (draw + 1) * _GAMMA_ONE)


def _mix_one(state: int) -> int:
    state &= _MASK
    state = ((state ^ (state >> 30)) * _MIX_1_ONE) & _MASK
    state = ((state ^ (state >> 27)) * _MIX_2_ONE) & _MASK
    return state ^ (state >> 31)


def _mix(state: Keys) -> Keys:
    # Always 1-D arrays: uint64 arrays wrap around in silence, numpy scalars warn.
    state = (state ^ (state >> _S30)) * _MIX_1
    state = (state ^ (state >> _S27)) * _MIX_2
    return state ^ (state >> _S31)


def _scaled(bits: Keys, high: int) -> NDArray[np.int64]:
    return (((bits >> _S32) * np.uint64(high)) >> _S32).astype(np.int64)


def _unit(bits: Keys) -> NDArray[np.float64]:
    return (bits >> _S11).astype(np.float64) * 2.0**-53

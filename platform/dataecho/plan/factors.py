"""The factor as a function of the entry ordinal: one number, a recorded history, or one that is still being decided."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import SettingError, require, shown
from dataecho.plan.order import Ids

#: No entry is used more often: a block of the plan has at most so many uses.
MAX_FACTOR = 1 << 16
FILE_NAME = "factor_history.json"
FORMAT = 1

_ALLOWED = f"any real number >= 1 (and at most {MAX_FACTOR})"
_ALLOWED_FILE = f"auto, or the {FILE_NAME} of a run with factor=auto"

#: (entry ordinal, factor): the factor of the entries from this one on, up to the next change.
Change = tuple[int, float]


class FactorHistory:
    """Changes in the order of their ordinals, the first at 0. One object serves all cursors of one plan.

    What an entry gets is settled when the first cursor lets it enter (:meth:`settle`); a change (:meth:`change`)
    applies to what comes after that. So cursors that follow agree with the one ahead, and neither waits for the other.
    Thread-safe.
    """

    def __init__(self, changes: Sequence[Change], *, identity: float | str, is_open: bool) -> None:
        for _, factor in changes:
            _check(factor)
        self._identity, self._is_open = identity, is_open
        self._lock = threading.Lock()
        self._num_settled = 0
        self._columns = _columns(changes)  # replaced as a whole: who reads without the lock sees one or the other

    @classmethod
    def of(cls, factor: float | FactorHistory) -> FactorHistory:
        """A history as it is, a number as a history without a change."""
        return factor if isinstance(factor, FactorHistory) else cls.constant(factor)

    @classmethod
    def constant(cls, factor: float) -> FactorHistory:
        """One factor, any real number >= 1, for all entries."""
        return cls([(0, float(factor))], identity=float(factor), is_open=False)

    @classmethod
    def recorded(cls, changes: Sequence[Change]) -> FactorHistory:
        """The factors of another run, to be replayed. ``changes`` begin with ordinal 0 and increase strictly."""
        digest = hashlib.sha256(json.dumps([list(change) for change in changes]).encode()).hexdigest()
        return cls(changes, identity=f"history {digest[:12]}", is_open=False)

    @classmethod
    def to_be_decided(cls) -> FactorHistory:
        """1 until :meth:`change` says otherwise: ``factor=auto``."""
        return cls([(0, 1.0)], identity="auto", is_open=True)

    @property
    def identity(self) -> float | str:
        """The factor as a plan's state names it: the number, ``auto``, or the name of a recorded history."""
        return self._identity

    @property
    def is_open(self) -> bool:
        """Whether the factor may still change: a plan must then not be far ahead of training."""
        return self._is_open

    @property
    def newest(self) -> float:
        """The factor of the last change, which entries to come will have if nothing changes."""
        return float(self._columns[1][-1])

    @property
    def changes(self) -> list[Change]:
        """All changes, the first at ordinal 0."""
        ordinals, factors = self._columns
        return list(zip(ordinals.tolist(), factors.tolist(), strict=True))

    def at(self, ordinals: Ids) -> NDArray[np.float64]:
        """The factor of the entries with these ordinals."""
        since, factors = self._columns
        if len(factors) == 1:
            return np.full(len(ordinals), factors[0])
        return factors[np.searchsorted(since, ordinals, side="right") - 1]

    def between(self, first: int, end: int) -> tuple[float, float]:
        """The smallest and the largest factor of the entries from ``first`` to before ``end``, at least one entry."""
        since, factors = self._columns
        begin, stop = np.searchsorted(since, (first, end - 1), side="right")
        some = factors[begin - 1 : stop]
        return float(some.min()), float(some.max())

    def settle(self, first: int, num_uses: Callable[[], Ids]) -> Ids:
        """Call ``num_uses`` for the uses of entries from ordinal ``first`` on, as many as enter now. No change comes in
        between, and none will concern them."""
        with self._lock:
            uses = num_uses()
            self._num_settled = max(self._num_settled, first + len(uses))
            return uses

    def change(self, factor: float) -> int:
        """Use entries ``factor`` times from the first one on that no cursor has reached; returns its ordinal. What had
        been decided for later is forgotten. Returns at once, even while a cursor waits for its source. Raises
        :class:`SettingError` for a factor that was fixed before the run."""
        require(
            self._is_open,
            "factor",
            factor,
            allowed=f"{shown(self._identity)}, which was fixed before the run",
            cure="Start with FactorHistory.to_be_decided(), or factor=auto on the command line.",
        )
        _check(factor)
        with self._lock:
            since, factors = self._columns
            kept = since < self._num_settled
            self._columns = np.append(since[kept], self._num_settled), np.append(factors[kept], factor)
            return self._num_settled

    def state_dict(self) -> list[list[float]]:
        """The changes, for JSON. A plan's identity has the rest."""
        return [list(change) for change in self.changes]

    def load_state_dict(self, changes: Sequence[Sequence[float]], *, num_settled: int) -> None:
        """Continue with these changes where ``num_settled`` entries have entered. What is fixed is fixed."""
        with self._lock:
            self._num_settled = num_settled
            if self._is_open:
                self._columns = _columns([(int(ordinal), factor) for ordinal, factor in changes])


def write_history(folder: Path, changes: Sequence[Sequence[Change]], *, echoes_batches: bool) -> Path:
    """``factor_history.json`` in ``folder``, whole or not at all: every change of every rank, whose own are
    ``changes[rank]``, as (rank, entry ordinal, factor)."""
    path = folder / FILE_NAME
    draft = path.with_suffix(f".{os.getpid()}")
    content = {
        "format": FORMAT,
        "entries": _entries(echoes_batches),
        "changes": [[rank, ordinal, factor] for rank, own in enumerate(changes) for ordinal, factor in own],
    }
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)
    return path


def read_history(path: Path, *, echoes_batches: bool, rank: int = 0) -> FactorHistory:
    """The history of ``rank`` in a file of :func:`write_history`. Raises :class:`SettingError` where there is none, it
    is damaged, or it counts batches and the plan examples, or the other way round."""
    try:
        content = json.loads(path.read_bytes())
        number, entries, rows = content["format"], content["entries"], [_row(row) for row in content["changes"]]
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(path, "it is damaged, or something else") from error
    if number != FORMAT:
        raise _unusable(path, f"it has format {number}, this version reads format {FORMAT}")
    mine = _entries(echoes_batches)
    if entries != mine:
        raise _unusable(path, f"it counts {entries}, and this echo repeats {mine}")
    changes = [(ordinal, factor) for of_rank, ordinal, factor in rows if of_rank == rank]
    if not changes:
        raise _unusable(path, f"it has no change of rank {rank}")
    if changes[0][0] != 0:
        raise _unusable(path, f"it begins with entry {changes[0][0]}, not 0")
    for (earlier, _), (later, _) in pairwise(changes):
        if later <= earlier:
            raise _unusable(path, f"its entry ordinals must increase, and {later} comes after {earlier}")
    outside = [factor for _, factor in changes if not 1 <= factor <= MAX_FACTOR]
    if outside:
        raise _unusable(path, f"it has the factor {outside[0]:g}, and allowed is {_ALLOWED}")
    return FactorHistory.recorded(changes)


def _check(factor: float) -> None:
    require(1 <= factor <= MAX_FACTOR, "factor", factor, allowed=_ALLOWED, cure="factor=1 is training without echo.")


def _columns(changes: Sequence[Change]) -> tuple[Ids, NDArray[np.float64]]:
    return np.array([ordinal for ordinal, _ in changes], np.int64), np.array([factor for _, factor in changes], float)


def _entries(echoes_batches: bool) -> str:
    return "batches" if echoes_batches else "examples"


def _row(row: Any) -> tuple[int, int, float]:
    rank, ordinal, factor = row
    if type(rank) is not int or type(ordinal) is not int or type(factor) not in (int, float):
        raise TypeError(row)
    return rank, ordinal, float(factor)


def _unusable(path: Path, why: str) -> SettingError:
    return SettingError("factor", str(path), allowed=_ALLOWED_FILE, cure=f"This one cannot be replayed: {why}.")

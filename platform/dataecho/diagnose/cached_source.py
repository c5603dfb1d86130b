"""Records in memory: a pipeline whose reads take no time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import DataError
from dataecho.pipeline.source import Source
from dataecho.pipeline.stage import Broken, Chunk, as_examples, own

_LENGTH = 1 << 20  # more examples than a diagnosis uses


class CachedSource(Source):
    """Cycles through the records of ``chunks`` (results of :meth:`Source.read`) for 2**20 examples. Leaves out broken
    records; raises :class:`DataError` if all are broken."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        dictionaries = [chunk for chunk in chunks if isinstance(chunk, dict)]
        # Keep arrays whole: examples of their own would cost more than the source itself.
        self._arrays = (
            {name: np.concatenate([chunk[name] for chunk in dictionaries]) for name in dictionaries[0]}
            if dictionaries and len(dictionaries) == len(chunks)
            else {}
        )
        self._records = [
            record
            for chunk in (chunks if not self._arrays else ())
            for record in as_examples(chunk)
            if not isinstance(record, Broken)
        ]
        self._num_records = len(next(iter(self._arrays.values()))) if self._arrays else len(self._records)
        if not self._num_records:
            raise DataError("Every record that was to be kept in memory is broken: there is nothing to measure with.")

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return _LENGTH

    @property
    def random_access(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return "cached"

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        which = ks % self._num_records
        if self._arrays:
            return {name: array[which] for name, array in self._arrays.items()}
        return [own(self._records[number]) for number in which.tolist()]

"""Where examples come from: a list of shards, read by (shard, position)."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataecho.errors import require
from dataecho.pipeline.stage import Chunk


class Source(abc.ABC):
    """A list of shards. One (shard, k) is one example, the same one whenever it is read."""

    @property
    @abc.abstractmethod
    def num_shards(self) -> int:
        """Number of shards, known at once."""

    @abc.abstractmethod
    def num_examples(self, shard: int) -> int:
        """Length of a shard; asked when the plan first reaches it."""

    @property
    @abc.abstractmethod
    def random_access(self) -> bool:
        """Whether any example can be read at the same price. If not, shards are read from front to back."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Short hexadecimal name of the data: a checkpoint is refused where it differs."""

    @abc.abstractmethod
    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        """The records at these positions, in this order; called from several threads at once."""


class ArraySource(Source):
    """Arrays in memory, one shard; ``fields`` maps a name to an array whose first axis is the example.

    Records are dictionaries with a row of every field, copies that may be written to. Raises :class:`SettingError` for
    fields of different lengths, and for arrays of Python objects.
    """

    def __init__(self, fields: Mapping[str, NDArray[Any]]) -> None:
        lengths = {name: len(array) for name, array in fields.items()}
        require(
            len(set(lengths.values())) == 1,
            "fields",
            lengths,
            allowed="one or more arrays of the same length",
            cure="Give every field one row per example.",
        )
        objects = [name for name, array in fields.items() if array.dtype == object]
        require(not objects, "fields", objects, allowed="arrays of numbers or fixed text", cure="Convert them first.")
        self._fields = dict(fields)
        self._length = next(iter(lengths.values()))
        digest = hashlib.sha256()
        for name, array in sorted(self._fields.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        self._digest = digest.hexdigest()[:32]

    @property
    def num_shards(self) -> int:
        return 1

    def num_examples(self, shard: int) -> int:
        return self._length

    @property
    def random_access(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return self._digest

    def read(self, shards: NDArray[np.int64], ks: NDArray[np.int64]) -> Chunk:
        return {name: array[ks] for name, array in self._fields.items()}


def shard_lengths(source: Source) -> Sequence[int]:
    """Length of every shard, opening each."""
    return [source.num_examples(shard) for shard in range(source.num_shards)]

"""The processes that train one model together, each with its own share of the items."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RankLost(RuntimeError):
    """Another rank no longer answers: this one cannot go on."""

    def __init__(self, ranks: Ranks, error: BaseException) -> None:
        first_line = next(iter(str(error).splitlines()), "")
        super().__init__(
            f"rank {ranks.rank} of {ranks.num_ranks} waited for the others in vain: one of them has ended, or hangs "
            f"({type(error).__name__}: {first_line}). Its own output says why. Start all ranks again with resume=auto "
            "and the same run_dir to continue from the last checkpoint."
        )


class Ranks(abc.ABC):
    """This process among the others. All methods are collective: every rank calls them, in the same order. They raise
    :class:`RankLost` within a bounded time if a rank does not."""

    @property
    @abc.abstractmethod
    def rank(self) -> int:
        """The number of this process. Rank 0 writes and prints for all."""

    @property
    @abc.abstractmethod
    def num_ranks(self) -> int:
        """The number of ranks."""

    @abc.abstractmethod
    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """The elementwise sum over all ranks of float64 or int64 ``values`` of one shape, on every rank."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> NDArray[np.float64]:
        """The ``values`` of all ranks, in rank order: [num_ranks, n], on every rank."""
        rows = np.zeros((self.num_ranks, len(values)))
        rows[self.rank] = values
        return self.sum(rows)

    def gather_bytes(self, blob: bytes) -> list[bytes]:
        """The ``blob`` of all ranks, in rank order, on every rank."""
        sizes = self.gather([len(blob)])[:, 0].astype(int).tolist()
        rows = np.zeros((self.num_ranks, -(-max(sizes) // 8)), dtype=np.int64)
        rows[self.rank].view(np.uint8)[: len(blob)] = np.frombuffer(blob, dtype=np.uint8)
        summed = self.sum(rows)
        return [row.view(np.uint8)[:size].tobytes() for row, size in zip(summed, sizes, strict=True)]

    def from_first(self, text: str) -> str:
        """The ``text`` of rank 0, on every rank."""
        return self.gather_bytes(text.encode() if self.is_first else b"")[0].decode()


class OneRank(Ranks):
    """A process that trains alone."""

    rank = 0
    num_ranks = 1

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def gather_bytes(self, blob: bytes) -> list[bytes]:
        return [blob]

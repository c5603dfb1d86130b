"""The base of all pieces of work."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataecho.pipeline.engine.board import Board


class Piece(abc.ABC):
    """One piece of work. ``num_waits``: other pieces that must end before this one can start; ``followers``: pieces
    that wait for this one. The board calls :meth:`done` or :meth:`failed` exactly once, and neither may block; or
    :meth:`dismissed`, where everything was closed before it ended.
    """

    #: Whether it can be run once more after it was broken off in the middle.
    may_run_again = True

    def __init__(self) -> None:
        self.num_waits = 0
        self.followers: list[Piece] = []
        self.has_ended = False

    def reads_nothing(self) -> bool:
        """Whether it is done without a read that might keep whoever does it waiting."""
        return True

    def wait_for(self, other: Piece) -> None:
        """Start after ``other`` has ended, whether it fails or not."""
        if not other.has_ended:
            other.followers.append(self)
            self.num_waits += 1

    @abc.abstractmethod
    def run(self, worker: int) -> None:
        """Do the work in the thread of this ``worker``. Nothing here waits for another piece."""

    @abc.abstractmethod
    def done(self, board: Board) -> None:
        """The work has been done: enter its result on the board."""

    @abc.abstractmethod
    def failed(self, board: Board, error: BaseException) -> None:
        """The work has failed: say to whom ``error`` is told."""

    def dismissed(self, board: Board, error: BaseException | None) -> None:  # noqa: B027 - most have brought nothing
        """The work has ended after everything was closed: give back what it has brought."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """The work as a person finds it: shard, examples."""

"""The contract of a display: it shows the progress of a run to a person."""

from __future__ import annotations

import abc
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Counts so far, the metrics of the newest mark, and the share of time spent in waiting since the start."""

    fresh_examples: int
    steps: int
    spent_fraction: float
    train_loss: float
    metric: float
    input_wait_fraction: float


class Display(abc.ABC):
    """Shows a run to a person."""

    @abc.abstractmethod
    def start(self, *, metric: str, target: float, title: str) -> None:
        """Training begins."""

    @abc.abstractmethod
    def filling(self, *, num_read: int, num_needed: int) -> None:
        """Called a few times a second before the first batch, while the shuffle buffer is filled: of about
        ``num_needed`` examples ``num_read`` have been read."""

    @abc.abstractmethod
    def update(self, progress: Progress) -> None:
        """Called after every step; cheap."""

    @abc.abstractmethod
    def mark(self, progress: Progress) -> None:
        """Called after every evaluation."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Training has ended, with or without an error."""


class NoDisplay(Display):
    """Shows nothing."""

    def start(self, *, metric: str, target: float, title: str) -> None:
        pass

    def filling(self, *, num_read: int, num_needed: int) -> None:
        pass

    def update(self, progress: Progress) -> None:
        pass

    def mark(self, progress: Progress) -> None:
        pass

    def stop(self) -> None:
        pass

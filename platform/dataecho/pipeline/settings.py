"""The settings of the input pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataecho.declare import SettingGroup, setting
from dataecho.pipeline.throttle import Throttle

ChunkSize = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class PipelineSettings(SettingGroup, key="pipeline"):
    """How batches are prepared; none of these settings changes what a batch holds.

    Raises :class:`SettingError` for a value out of bounds.

        >>> from dataecho import PipelineSettings
        >>> settings = PipelineSettings(num_threads=4, max_waiting=2048)  # MiB: docs/reference/settings.md has units
        >>> settings.look_ahead  # batches
        4

    ``hands_on`` is no setting of a user: small batches may be the arrays that the last stage returned, possibly views,
    instead of rows of the pool, whose alignment suits frameworks.
    """

    num_threads: int = setting(
        2,
        at_least=0,
        help="Threads that decode and augment. With the training step on the CPU: cores - 1.",
    )
    num_processes: int = setting(0, at_least=0, help="Worker processes instead of threads; 0 uses threads.")
    look_ahead: int = setting(4, at_least=1, help="Batches in work or waiting, at most.")
    chunk_size: ChunkSize = setting(
        "auto", at_least=1, help="Uses that a worker runs at a time. auto: eight milliseconds of work, at least 16."
    )
    loop_helps: bool = setting(
        True, help="The training loop runs short pieces of work while it waits, but reads from memory only."
    )
    stall_timeout: float = setting(
        300.0,
        above=0,
        unit="seconds",
        help="A run without any progress for so long ends with an error that names what hangs.",
        cure="300 is the default; any progress restarts it.",
    )
    read_ahead: int = setting(4, at_least=1, help="Shards to fetch ahead of the plan.")
    max_waiting: int = setting(
        1024, at_least=0, unit="MiB", help="Memory for records that were read and wait for their first use."
    )
    max_spill: int = setting(
        16384, at_least=0, unit="MiB", help="Temporary file for more of these records than max_waiting allows."
    )
    max_memory: int | None = setting(
        None, unit="MiB", help="A run that would need more memory is refused before it starts; null: no limit."
    )
    max_skipped_share: float = setting(
        0.0,
        at_least=0,
        below=1,
        help="Share of the examples that may be broken. A run names and skips them.",
        cure="0 allows no broken example, 0.01 one in a hundred.",
    )
    throttle: Throttle = Throttle()
    hands_on: bool = True

    @property
    def num_workers(self) -> int:
        """Threads or processes; 1 where the caller works."""
        return self.num_processes or max(1, self.num_threads)

"""The settings of the input pipeline, ``pipeline.*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataecho.errors import require

ChunkSize = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """``num_threads`` workers, or ``num_processes`` instead where that is not 0; with neither the caller makes its
    batches itself. ``look_ahead`` batches at most are in work or waiting; ``chunk_size`` uses are worked on at a time,
    ``auto`` or a number; ``loop_helps``: a caller that waits does short pieces of what the worker threads have to do,
    if they read nothing; ``read_ahead`` shards are fetched ahead of the plan. ``max_waiting`` MiB of records that were
    read before their first use stay in memory, ``max_spill`` MiB more in a temporary file. ``max_skipped_share`` of the
    examples may be broken. ``stall_timeout``: seconds without any progress after which a wait ends with an error.
    ``hands_on``: small batches may be arrays as the last stage made them, views perhaps, and not rows of the pool,
    which begin where frameworks like it. None of them changes what a batch is made of.
    """

    num_threads: int = 2
    num_processes: int = 0
    look_ahead: int = 4
    chunk_size: ChunkSize = "auto"
    loop_helps: bool = True
    read_ahead: int = 4
    max_waiting: int = 1024
    max_spill: int = 16384
    max_skipped_share: float = 0.0
    stall_timeout: float = 300.0
    hands_on: bool = True

    def __post_init__(self) -> None:
        for name, least in (
            ("num_threads", 0),
            ("num_processes", 0),
            ("look_ahead", 1),
            ("read_ahead", 1),
            ("max_waiting", 0),
            ("max_spill", 0),
        ):
            value = getattr(self, name)
            require(
                value >= least,
                f"pipeline.{name}",
                value,
                allowed=f"whole numbers >= {least}",
                cure=f"Set pipeline.{name}.",
            )
        require(
            self.chunk_size == "auto" or (isinstance(self.chunk_size, int) and self.chunk_size >= 1),
            "pipeline.chunk_size",
            self.chunk_size,
            allowed="auto, or whole numbers >= 1",
            cure="auto goes by what an example costs.",
        )
        require(
            self.stall_timeout > 0,
            "pipeline.stall_timeout",
            self.stall_timeout,
            allowed="seconds > 0",
            cure="300 is the default; whatever makes progress begins it anew.",
        )

    @property
    def num_workers(self) -> int:
        """Threads or processes; 1 where the caller works."""
        return self.num_processes or max(1, self.num_threads)

"""The processes that ``torchrun`` started, as :class:`Ranks`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.rendezvous import rendezvous

from dataecho.errors import SettingError
from dataecho.training.ranks import OneRank, RankLost, Ranks


def launched_ranks() -> int:
    """The number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process on its machine, and of its device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join_ranks(device: torch.device, *, timeout: float) -> Ranks:
    """Connect to the other processes, which must come, and later answer, within ``timeout`` seconds."""
    if launched_ranks() == 1:
        return OneRank()
    if not dist.is_initialized():
        _meet("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout))
    return TorchRanks(timeout=timeout)


def _meet(engine: str, timeout: timedelta) -> None:
    # After a restart torchrun reuses the store, in which a rank could find the address of a dead process: every attempt
    # has separate keys.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, rank, num_ranks = next(rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(f"dataecho/{attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(engine, store=store, rank=rank, world_size=num_ranks, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise SettingError(
            "WORLD_SIZE",
            launched_ranks(),
            allowed=f"as many processes as are started and find each other within {timeout.total_seconds():g} s "
            "(backend.timeout)",
            cure=f"Start them by torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each ({error}).",
        ) from error


class TorchRanks(Ranks):
    """Communicates over gloo, from host memory, separately from the gradients."""

    def __init__(self, *, timeout: float) -> None:
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def num_ranks(self) -> int:
        return self._num_ranks

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        summed = torch.from_numpy(values.copy())
        try:
            dist.all_reduce(summed, group=self._group)
        except RuntimeError as error:
            raise RankLost(self, error) from error
        array: NDArray[Any] = summed.numpy()
        return array

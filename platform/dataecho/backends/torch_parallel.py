"""One model on many processes, by PyTorch's own engines: DistributedDataParallel and fully sharded data parallel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dataecho.backends.torch_model import TorchModel
from dataecho.training.ranks import RankLost, Ranks

PARALLEL = ("ddp", "fsdp")
_SAYS_SO = ("gloo", "nccl", "peer", "timed out", "timeout", "store")


class Entry(nn.Module):
    """The one way into a model, for the engines hook into ``forward``."""

    def __init__(self, model: TorchModel, *, compile: bool) -> None:
        super().__init__()
        self.model = model
        self._losses = torch.compile(model.losses) if compile else model.losses

    def forward(self, fields: dict[str, Tensor], *, evaluates: bool) -> Tensor | dict[str, Tensor]:
        """The losses of a step, or the outputs of an evaluation."""
        return self.model.outputs(fields) if evaluates else self._losses(fields)


def in_parallel(entry: Entry, ranks: Ranks, engine: str) -> nn.Module:
    """What to train instead of ``entry``: its gradients are means over all ranks. Running statistics stay each rank's
    own."""
    if ranks.num_ranks == 1:
        return entry
    if engine == "ddp":
        return DistributedDataParallel(entry, broadcast_buffers=False)
    for unit in entry.model.units():
        fully_shard(unit)
    fully_shard(entry)
    return entry


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each rank may have a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def from_whole(tensor: Tensor, *, like: Tensor) -> Tensor:
    """This rank's part of ``tensor``, divided as ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@contextmanager
def talking(ranks: Ranks) -> Iterator[None]:
    """Whatever goes wrong inside because another rank has gone raises :class:`RankLost`."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).lower()
        if ranks.num_ranks > 1 and (isinstance(error, dist.DistError) or any(word in told for word in _SAYS_SO)):
            raise RankLost(ranks, error) from error
        raise

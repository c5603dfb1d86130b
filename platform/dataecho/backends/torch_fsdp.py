"""Fully sharded data parallel: every rank keeps a part of each weight and of its momentum."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dataecho.backends.torch_forward import ForwardModule
from dataecho.backends.torch_sharding import Sharding


def shard(forward: ForwardModule) -> Sharding:
    """Divide the weights of ``forward`` over the ranks, in place."""
    for unit in forward.model.units():
        fully_shard(unit)
    fully_shard(forward)
    return _Sharded()


@final
class _Sharded(Sharding):
    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return tensor
        return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)

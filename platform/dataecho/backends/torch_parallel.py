"""One model on many processes, by PyTorch's own engines: DistributedDataParallel and fully sharded data parallel."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dataecho.backends.torch_forward import ForwardModule
from dataecho.backends.torch_sharding import Sharding, Unsharded
from dataecho.training.ranks import Ranks

ENGINES = ("ddp", "fsdp")


def parallelize(forward: ForwardModule, ranks: Ranks, engine: str) -> tuple[nn.Module, Sharding]:
    """The module to train instead of ``forward``: its gradients are means over all ranks. Each rank keeps running
    statistics of its own."""
    if ranks.num_ranks == 1:
        return forward, Unsharded()
    if engine == "ddp":
        return DistributedDataParallel(forward, forward_sync_buffers=False), Unsharded()
    from dataecho.backends.torch_fsdp import shard  # its import takes half a second

    return forward, shard(forward)

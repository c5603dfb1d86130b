"""One model on many processes, by PyTorch's own engines: DistributedDataParallel and fully sharded data parallel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dataecho.backends.torch_model import TorchModel
from dataecho.training.ranks import RankLost, Ranks

PARALLEL = ("ddp", "fsdp")
# Where PyTorch talks: its own code that was innermost when an error was raised. `backward` is told by autograd.
_TALKS = ("torch.distributed", "torch.nn.parallel", "torch.autograd")
# Of C++, which raises plain RuntimeErrors: gloo's name their file, but for the one of a peer that was slow before.
_SAYS_SO = ("/gloo/", "Application timeout caused pair closure", "Operation timed out")


class Entry(nn.Module):
    """The one way into a model, for the engines hook into ``forward``."""

    def __init__(self, model: TorchModel, *, compile: bool) -> None:
        super().__init__()
        self.model = model
        self._losses = torch.compile(model.losses) if compile else model.losses

    def forward(self, fields: dict[str, Tensor], *, evaluates: bool) -> Tensor | dict[str, Tensor]:
        """The losses of a step, or the outputs of an evaluation."""
        return self.model.outputs(fields) if evaluates else self._losses(fields)


class Parts:
    """How tensors are divided over the ranks: not at all."""

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of which each rank may have a part; collective."""
        return tensor

    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        """This rank's part of ``tensor``, divided as ``like`` is."""
        return tensor


def in_parallel(entry: Entry, ranks: Ranks, engine: str) -> tuple[nn.Module, Parts]:
    """What to train instead of ``entry``: its gradients are means over all ranks. Running statistics stay each rank's
    own."""
    if ranks.num_ranks == 1:
        return entry, Parts()
    if engine == "ddp":
        return DistributedDataParallel(entry, forward_sync_buffers=False), Parts()
    from dataecho.backends.torch_fsdp import shard  # half a second that only those pay who use it

    return entry, shard(entry)


@contextmanager
def talking(ranks: Ranks) -> Iterator[None]:
    """What goes wrong inside because another rank has gone raises :class:`RankLost`; a fault of the model, whatever it
    says, stays what it is."""
    try:
        yield
    except RuntimeError as error:
        if ranks.num_ranks > 1 and (isinstance(error, dist.DistError) or _is_of_talk(error)):
            raise RankLost(ranks, error) from error
        raise


def _is_of_talk(error: RuntimeError) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    return raised_in.startswith(_TALKS) and any(words in str(error) for words in _SAYS_SO)

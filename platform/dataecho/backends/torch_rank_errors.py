"""Tells a lost rank from a fault of the model: PyTorch raises a RuntimeError for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from dataecho.training.ranks import RankLost, Ranks

# PyTorch's modules that communicate. An error in `backward` is raised in autograd.
_MODULES = ("torch.distributed", "torch.nn.parallel", "torch.autograd")
# Phrases of errors of communication in C++: most of gloo's name their file, these others do not.
_PHRASES = ("/gloo/", "Application timeout caused pair closure", "Operation timed out")


@contextmanager
def lost_ranks_detected(ranks: Ranks) -> Iterator[None]:
    """Inside, an error of communication becomes :class:`RankLost`; an error of the model stays what it is, even if it
    uses the same phrases."""
    try:
        yield
    except RuntimeError as error:
        if ranks.num_ranks > 1 and (isinstance(error, dist.DistError) or _is_of_communication(error)):
            raise RankLost(ranks, error) from error
        raise


def _is_of_communication(error: RuntimeError) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    return raised_in.startswith(_MODULES) and any(phrase in str(error) for phrase in _PHRASES)

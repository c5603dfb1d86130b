"""A lost rank is told from a fault of the model, even if both use the same phrases."""

import pytest
import torch
import torch.distributed as dist

from dataecho.backends.torch_rank_errors import lost_ranks_detected
from dataecho.training.ranks import OneRank, RankLost
from tests.training.conftest import ThreadRanks

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"
WORDS = ["timeout of the key store: no peer", "gloo", "nccl timed out", GLOO]


def raised_in(module):
    """A function of that module that raises a RuntimeError."""
    names = {"__name__": module}
    exec("def fail(text):\n    raise RuntimeError(text)", names)
    return names["fail"]


@pytest.mark.parametrize("text", WORDS)
def test_a_fault_of_the_model_stays_what_it_is(text):
    def fail():
        raise RuntimeError(text)

    with pytest.raises(RuntimeError) as caught, lost_ranks_detected(ThreadRanks.several(2)[0]):
        fail()
    assert caught.type is RuntimeError and str(caught.value) == text


def test_a_fault_in_a_models_backward_stays_what_it_is():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 2

        @staticmethod
        def backward(context, gradient):
            raise RuntimeError(GLOO)

    with pytest.raises(RuntimeError) as caught, lost_ranks_detected(ThreadRanks.several(2)[0]):
        Fails.apply(torch.ones(3, requires_grad=True)).sum().backward()
    assert caught.type is RuntimeError


@pytest.mark.parametrize("module", ["torch.nn.parallel.distributed", "torch.distributed.fsdp", "torch.autograd.graph"])
@pytest.mark.parametrize("text", [GLOO, "Application timeout caused pair closure"])
def test_an_error_of_pytorchs_communication_is_a_lost_rank(module, text):
    with pytest.raises(RankLost, match="waited for the others in vain"), lost_ranks_detected(ThreadRanks.several(2)[0]):
        raised_in(module)(text)
    with pytest.raises(RuntimeError) as caught, lost_ranks_detected(ThreadRanks.several(2)[0]):
        raised_in(module)("Expected to have finished reduction; a parameter of the key store had no gradient")
    assert caught.type is RuntimeError  # of the model, told by PyTorch


def test_errors_of_distributed_pytorch_are_lost_ranks_where_there_are_others():
    with pytest.raises(RankLost), lost_ranks_detected(ThreadRanks.several(2)[0]):
        raise dist.DistNetworkError("gone")
    with pytest.raises(dist.DistNetworkError), lost_ranks_detected(OneRank()):
        raise dist.DistNetworkError("gone")

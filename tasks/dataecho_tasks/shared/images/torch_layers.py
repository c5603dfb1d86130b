"""The base of image classifiers in PyTorch, and layers of residual networks."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_layers import stride_before_narrow_convolutions
from dataecho.backends.torch_model import TorchModel


class TorchClassifier(TorchModel):
    """A model of ``image`` uint8 [b, height, width, c] and ``label`` int64 [b], trained by cross entropy."""

    @abc.abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """The scores of all classes, [b, num_classes]."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self.logits(batch["image"]), batch["label"], reduction="none")

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.logits(batch["image"])
        predicted = logits.argmax(dim=1)
        return {
            "loss": functional.cross_entropy(logits, batch["label"], reduction="none"),
            "correct": (predicted == batch["label"]).float(),
            "predicted": predicted,
        }


def convolution(inner: int, outer: int, *, size: int, stride: int = 1) -> nn.Conv2d:
    """``size`` x ``size`` without bias, with ``size // 2`` zeros on every side; weights as in He et al., ICCV 2015."""
    made = nn.Conv2d(inner, outer, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    stride_before_narrow_convolutions(made)
    return made


def classifier(inner: int, num_classes: int) -> nn.Linear:
    """A linear layer of zeros: the first steps are those of a classifier that knows nothing, whatever the rate."""
    made = nn.Linear(inner, num_classes)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


class Standardised(nn.Module):
    """Pixels uint8 [b, height, width, c] to [b, c, height, width], less ``mean``, by ``deviation`` of every channel."""

    def __init__(self, *, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self._mean: Tensor
        self._deviation: Tensor
        # Facts of the data, no weights: they are in no checkpoint.
        self.register_buffer("_mean", torch.tensor(mean), persistent=False)
        self.register_buffer("_deviation", torch.tensor(deviation), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.to(self._mean.dtype) - self._mean) / self._deviation).permute(0, 3, 1, 2)

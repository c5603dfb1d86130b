"""A light network for small images in PyTorch, so that reading them is what takes time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_layers import BatchNorm
from dataecho.errors import require
from dataecho_tasks.shared.images.torch_layers import TorchClassifier

_VARIANCE_OF_NOISE = 256.0  # of pixels from 0 to 255


class ImagesNet(TorchClassifier):
    """``image`` uint8 [b, image_size, image_size, 3] to ``num_classes`` logits.

    Every image is brought to mean 0 and variance 1. Patches of 4 x 4 pixels become ``widths[0]`` channels; every
    further width is a 3 x 3 convolution with stride 2, each with batch normalisation, by groups of
    ``virtual_batch_size`` rows if so wished; one linear layer. 34,282 parameters at the default. ``image_size`` is a
    multiple of 4 * 2 ** (number of widths - 1).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int,
        widths: Sequence[int] = (16, 32, 64),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            len(widths) >= 1 and min(widths) >= 1,
            "task.models.torch.widths",
            list(widths),
            allowed="one or more whole numbers >= 1",
            cure="[16, 32, 64] is the default.",
        )
        reduction = 4 * 2 ** (len(widths) - 1)
        require(
            image_size % reduction == 0,
            "task.image_size",
            image_size,
            allowed=f"multiples of {reduction}, for task.models.torch.widths={list(widths)}",
            cure="Choose another size, or fewer widths.",
        )
        super().__init__()
        patches = nn.Conv2d(3, widths[0], 4, stride=4, bias=False)
        others = [nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False) for inner, outer in pairwise(widths)]
        self.convolutions = nn.ModuleList([patches, *others])
        self.normalisations = nn.ModuleList(BatchNorm(width, virtual_batch_size=virtual_batch_size) for width in widths)
        self.linear = nn.Linear(widths[-1] * (image_size // reduction) ** 2, num_classes)
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        # The first steps are then those of a classifier that knows nothing, whatever the rate.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        # The images come with their channels last; a CPU computes faster that way, too.
        self.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        # Every image by its own light. The variance of a flat one is that of noise: it is not blown up.
        pixels = images.to(self.linear.weight.dtype)
        even = functional.layer_norm(pixels, images.shape[1:], eps=_VARIANCE_OF_NOISE)
        hidden = even.permute(0, 3, 1, 2)
        for convolution, normalisation in zip(self.convolutions, self.normalisations, strict=True):
            hidden = functional.relu(normalisation(convolution(hidden)))
        return self.linear(torch.flatten(hidden, 1))

"""The residual networks of He et al., CVPR 2016, section 4.2, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_layers import BatchNorm
from dataecho.errors import require
from dataecho_tasks.shared.images.torch_layers import Standardised, TorchClassifier, classifier, convolution


class CifarResnet(TorchClassifier):
    """``image`` uint8 [b, height, width, 3] to ``num_classes`` logits.

    A 3 x 3 convolution, then ``num_blocks`` blocks of two for each of ``widths``, the first with stride 2 where the
    width changes; the mean over all places; one linear layer. 5 blocks and widths 16, 32, 64 are ResNet-32: 464,154
    parameters with 10 classes. Shortcuts are option A: without weights, every second pixel, zeros for new channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: int = 5,
        widths: Sequence[int] = (16, 32, 64),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            num_blocks >= 1,
            "task.models.torch.num_blocks",
            num_blocks,
            allowed="whole numbers >= 1",
            cure="5 is ResNet-32.",
        )
        require(
            len(widths) >= 1 and min(widths) >= 1 and list(widths) == sorted(widths),
            "task.models.torch.widths",
            list(widths),
            allowed="one or more whole numbers >= 1, none smaller than the one before",
            cure="[16, 32, 64] is ResNet-32.",
        )
        super().__init__()
        self.standardised = Standardised(mean=mean, deviation=deviation)
        self.convolution = convolution(3, widths[0], size=3)
        self.normalisation = BatchNorm(widths[0], virtual_batch_size=virtual_batch_size)
        outers = [width for width in widths for _ in range(num_blocks)]
        inners = [widths[0], *outers[:-1]]
        self.blocks = nn.ModuleList(
            Block(inner, outer, virtual_batch_size) for inner, outer in zip(inners, outers, strict=True)
        )
        self.linear = classifier(widths[-1], num_classes)
        self.to(memory_format=torch.channels_last)  # as the images come; a CPU computes faster that way, too

    def logits(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation(self.convolution(self.standardised(images))))
        for block in self.blocks:
            hidden = block(hidden)
        return self.linear(hidden.mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al., figure 2 left)."""

    def __init__(self, inner: int, outer: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        self._stride, self._num_new = 1 if inner == outer else 2, outer - inner
        self.convolution_1 = convolution(inner, outer, size=3, stride=self._stride)
        self.normalisation_1 = BatchNorm(outer, virtual_batch_size=virtual_batch_size)
        self.convolution_2 = convolution(outer, outer, size=3)
        self.normalisation_2 = BatchNorm(outer, virtual_batch_size=virtual_batch_size)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation_1(self.convolution_1(inputs)))
        hidden = self.normalisation_2(self.convolution_2(hidden))
        if self._num_new:
            inputs = functional.pad(inputs[:, :, :: self._stride, :: self._stride], (0, 0, 0, 0, 0, self._num_new))
        return functional.relu(hidden + inputs)

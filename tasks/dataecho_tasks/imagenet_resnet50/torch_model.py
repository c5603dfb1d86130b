"""The residual networks with bottlenecks of He et al., CVPR 2016, section 4.1, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_layers import BatchNorm
from dataecho.errors import require
from dataecho_tasks.shared.images.torch_layers import Standardised, TorchClassifier, classifier, convolution

_EXPANSION = 4


class ImagenetResnet(TorchClassifier):
    """``image`` uint8 [b, height, width, 3] to ``num_classes`` logits.

    A 7 x 7 convolution and a maximum over 3 x 3, both with stride 2; for each of ``widths`` as many blocks as
    ``num_blocks`` says; the mean over all places; one linear layer. Blocks 3, 4, 6, 3 of widths 64, 128, 256, 512 are
    ResNet-50: 25,557,032 parameters with 1,000 classes. Version 1: the stride is that of a block's first convolution;
    shortcuts are option B, convolutions where the shape changes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        virtual_batch_size: int | None = None,
    ) -> None:
        require(
            len(widths) >= 1 and min(widths) >= 1,
            "task.models.torch.widths",
            list(widths),
            allowed="one or more whole numbers >= 1",
            cure="[64, 128, 256, 512] is ResNet-50.",
        )
        require(
            len(num_blocks) == len(widths) and min(num_blocks) >= 1,
            "task.models.torch.num_blocks",
            list(num_blocks),
            allowed=f"{len(widths)} whole numbers >= 1, one for each of task.models.torch.widths",
            cure="[3, 4, 6, 3] is ResNet-50.",
        )
        super().__init__()
        self.standardised = Standardised(mean=mean, deviation=deviation)
        self.convolution = convolution(3, widths[0], size=7, stride=2)
        self.normalisation = BatchNorm(widths[0], virtual_batch_size=virtual_batch_size)
        self.blocks = nn.ModuleList()
        inner = widths[0]
        for group, (width, number) in enumerate(zip(widths, num_blocks, strict=True)):
            for block in range(number):
                stride = 2 if group and not block else 1
                self.blocks.append(Bottleneck(inner, width, stride=stride, virtual_batch_size=virtual_batch_size))
                inner = _EXPANSION * width
        self.linear = classifier(inner, num_classes)
        self.to(memory_format=torch.channels_last)  # as the images come; a CPU computes faster that way, too

    def units(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def logits(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation(self.convolution(self.standardised(images))))
        hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.linear(hidden.mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 beside a shortcut (He et al., figure 5 right)."""

    def __init__(self, inner: int, width: int, *, stride: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        outer = _EXPANSION * width
        self.convolution_1 = convolution(inner, width, size=1, stride=stride)
        self.normalisation_1 = BatchNorm(width, virtual_batch_size=virtual_batch_size)
        self.convolution_2 = convolution(width, width, size=3)
        self.normalisation_2 = BatchNorm(width, virtual_batch_size=virtual_batch_size)
        self.convolution_3 = convolution(width, outer, size=1)
        self.normalisation_3 = BatchNorm(outer, virtual_batch_size=virtual_batch_size)
        self._projects = inner != outer or stride != 1
        if self._projects:
            self.shortcut_convolution = convolution(inner, outer, size=1, stride=stride)
            self.shortcut_normalisation = BatchNorm(outer, virtual_batch_size=virtual_batch_size)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation_1(self.convolution_1(inputs)))
        hidden = functional.relu(self.normalisation_2(self.convolution_2(hidden)))
        hidden = self.normalisation_3(self.convolution_3(hidden))
        if self._projects:
            inputs = self.shortcut_normalisation(self.shortcut_convolution(inputs))
        return functional.relu(hidden + inputs)

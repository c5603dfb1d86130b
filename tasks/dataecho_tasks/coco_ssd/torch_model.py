"""SSD (Liu et al., ECCV 2016) on the first groups of a residual network, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_layers import BatchNorm
from dataecho.backends.torch_model import TorchModel
from dataecho_tasks.coco_ssd.boxes import DefaultBoxes
from dataecho_tasks.coco_ssd.shape import NEGATIVES, extra_strides
from dataecho_tasks.shared.images.torch_layers import Standardised, convolution


class SsdResnet(TorchModel):
    """``image`` uint8 [b, size, size, 3] to four offsets and ``num_classes`` + 1 logits for every default box.

    A 7 x 7 convolution and a maximum over 3 x 3, both with stride 2; for each of ``widths`` as many blocks as
    ``num_blocks`` says, the first with the stride that ``strides`` says; for each of ``extras`` a 1 x 1 and a 3 x 3
    convolution, to the next smaller map; a 3 x 3 convolution on every map for the offsets, one for the logits. Blocks
    3, 4, 6 of widths 64, 128, 256 with strides 1, 2, 1 are ResNet-34 without its last group, and without the stride of
    the one before, as in MLPerf's SSD. 19,975,222 parameters with 80 classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        default_boxes: DefaultBoxes,
        mean: Sequence[float],
        deviation: Sequence[float],
        num_blocks: Sequence[int] = (3, 4, 6),
        widths: Sequence[int] = (64, 128, 256),
        strides: Sequence[int] = (1, 2, 1),
        extras: Sequence[Sequence[int]] = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256)),
        virtual_batch_size: int | None = None,
        num_candidates: int = 1000,
    ) -> None:
        layers = extra_strides(
            "torch",
            default_boxes=default_boxes,
            num_blocks=num_blocks,
            widths=widths,
            strides=strides,
            extras=extras,
        )
        super().__init__()
        self._num_classes = num_classes
        self._num_candidates = num_candidates
        self.standardised = Standardised(mean=mean, deviation=deviation)
        self.convolution = convolution(3, widths[0], size=7, stride=2)
        self.normalisation = BatchNorm(widths[0], virtual_batch_size=virtual_batch_size)
        self.blocks = nn.ModuleList()
        inner = widths[0]
        for width, number, stride in zip(widths, num_blocks, strides, strict=True):
            for block in range(number):
                self.blocks.append(
                    Block(inner, width, stride=1 if block else stride, virtual_batch_size=virtual_batch_size)
                )
                inner = width
        self.extras = nn.ModuleList()
        outers = [inner]
        for (narrow, wide), (stride, margin) in zip(extras, layers, strict=True):
            self.extras.append(Extra(outers[-1], narrow, wide, stride, margin, virtual_batch_size))
            outers.append(wide)
        per_place = default_boxes.per_place
        self.offset_heads = nn.ModuleList(
            head(outer, 4 * number) for outer, number in zip(outers, per_place, strict=True)
        )
        self.class_heads = nn.ModuleList(
            head(outer, (num_classes + 1) * number) for outer, number in zip(outers, per_place, strict=True)
        )
        self.to(memory_format=torch.channels_last)  # as the images come; a CPU computes faster that way, too

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return detection_losses(*self._predictions(batch["image"]), batch["offsets"], batch["classes"])

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        offsets, logits = self._predictions(batch["image"])
        scores = logits.softmax(dim=2)[:, :, 1:].flatten(1)
        scores, pairs = scores.topk(min(self._num_candidates, scores.shape[1]), dim=1)
        numbers = (pairs // self._num_classes)[:, :, None].expand(-1, -1, 4)
        return {
            "loss": detection_losses(offsets, logits, batch["offsets"], batch["classes"]),
            "scores": scores,
            "pairs": pairs,
            "offsets": offsets.gather(1, numbers),
            **{name: batch[name] for name in ("boxes", "labels", "crowd")},
        }

    def units(self) -> Sequence[nn.Module]:
        return [*self.blocks, *self.extras]

    def _predictions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [b, n, 4] and logits [b, n, num_classes + 1], in the order of the default boxes."""
        hidden = functional.relu(self.normalisation(self.convolution(self.standardised(images))))
        hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
        for block in self.blocks:
            hidden = block(hidden)
        maps = [hidden]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return (
            _of_all_places(self.offset_heads, maps, 4),
            _of_all_places(self.class_heads, maps, self._num_classes + 1),
        )


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, a 1 x 1 convolution where the shape changes (He et al., CVPR 2016,
    figure 5 left, option B)."""

    def __init__(self, inner: int, outer: int, *, stride: int, virtual_batch_size: int | None) -> None:
        super().__init__()
        self.convolution_1 = convolution(inner, outer, size=3, stride=stride)
        self.normalisation_1 = BatchNorm(outer, virtual_batch_size=virtual_batch_size)
        self.convolution_2 = convolution(outer, outer, size=3)
        self.normalisation_2 = BatchNorm(outer, virtual_batch_size=virtual_batch_size)
        self._projects = inner != outer or stride != 1
        if self._projects:
            self.shortcut_convolution = convolution(inner, outer, size=1, stride=stride)
            self.shortcut_normalisation = BatchNorm(outer, virtual_batch_size=virtual_batch_size)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation_1(self.convolution_1(inputs)))
        hidden = self.normalisation_2(self.convolution_2(hidden))
        if self._projects:
            inputs = self.shortcut_normalisation(self.shortcut_convolution(inputs))
        return functional.relu(hidden + inputs)


class Extra(nn.Module):
    """From one map to the next: a 1 x 1 and a 3 x 3 convolution."""

    def __init__(
        self, inner: int, narrow: int, wide: int, stride: int, margin: int, virtual_batch_size: int | None
    ) -> None:
        super().__init__()
        self.convolution_1 = convolution(inner, narrow, size=1)
        self.normalisation_1 = BatchNorm(narrow, virtual_batch_size=virtual_batch_size)
        self.convolution_2 = nn.Conv2d(narrow, wide, 3, stride=stride, padding=margin, bias=False)
        nn.init.kaiming_normal_(self.convolution_2.weight, nonlinearity="relu")
        self.normalisation_2 = BatchNorm(wide, virtual_batch_size=virtual_batch_size)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.normalisation_1(self.convolution_1(inputs)))
        return functional.relu(self.normalisation_2(self.convolution_2(hidden)))


def head(inner: int, outer: int) -> nn.Conv2d:
    """A 3 x 3 convolution with bias; weights as in the authors' code."""
    made = nn.Conv2d(inner, outer, 3, padding=1)
    nn.init.xavier_uniform_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def detection_losses(offsets: Tensor, logits: Tensor, true_offsets: Tensor, classes: Tensor) -> Tensor:
    """The loss of every row, [b] (Liu et al., section 2.2): smooth L1 of the offsets [b, n, 4] of default boxes with an
    object, cross entropy of the logits [b, n, classes] of these and of the three times as many others that are worst,
    all by the number of the former; 0 in a row without any."""
    positive = classes > 0
    count = positive.sum(dim=1)
    distance = functional.smooth_l1_loss(offsets, true_offsets, reduction="none").sum(dim=2)
    entropy = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    worst = entropy.masked_fill(positive, 0).sort(dim=1, descending=True).values
    mined = torch.arange(worst.shape[1], device=worst.device) < NEGATIVES * count[:, None]
    total = ((distance + entropy) * positive).sum(dim=1) + (worst * mined).sum(dim=1)
    return total / count.clamp(min=1)


def _of_all_places(heads: nn.ModuleList, maps: Sequence[Tensor], size: int) -> Tensor:
    found = [head(one).permute(0, 2, 3, 1).flatten(1) for head, one in zip(heads, maps, strict=True)]
    return torch.cat(found, dim=1).unflatten(1, (-1, size))

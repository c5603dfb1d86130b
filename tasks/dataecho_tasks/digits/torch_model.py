"""The digits network in PyTorch: two 3 x 3 convolutions, one pooling, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_model import TorchModel
from dataecho.errors import require


class DigitsNet(TorchModel):
    """``image`` [b, 1, 8, 8] to ten logits; 9,930 parameters at the default ``channels`` (16, 32)."""

    def __init__(self, *, channels: Sequence[int] = (16, 32)) -> None:
        require(
            len(channels) == 2 and min(channels) >= 1,
            "task.models.torch.channels",
            list(channels),
            allowed="two whole numbers >= 1",
            cure="[16, 32] is the default.",
        )
        super().__init__()
        self.convolution_1 = nn.Conv2d(1, channels[0], 3, padding=1)
        self.convolution_2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.linear = nn.Linear(channels[1] * 16, 10)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self._logits(batch["image"]), batch["label"], reduction="none")

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self._logits(batch["image"])
        predicted = logits.argmax(dim=1)
        return {
            "loss": functional.cross_entropy(logits, batch["label"], reduction="none"),
            "correct": (predicted == batch["label"]).float(),
            "predicted": predicted,
        }

    def _logits(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.convolution_1(images))
        hidden = functional.max_pool2d(functional.relu(self.convolution_2(hidden)), 2)
        return self.linear(torch.flatten(hidden, 1))

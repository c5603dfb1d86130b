"""The network in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.backends.torch_model import TorchModel


class BarsNet(TorchModel):
    """``image`` [b, 1, 16, 16] to four logits: two 3 x 3 convolutions, each with pooling, and one linear layer."""

    def __init__(self, *, channels: int = 16) -> None:
        super().__init__()
        self.convolution_1 = nn.Conv2d(1, channels, 3, padding=1)
        self.convolution_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.linear = nn.Linear(16 * channels, 4)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self._logits(batch["image"]), batch["label"], reduction="none")

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self._logits(batch["image"])
        return {
            "loss": functional.cross_entropy(logits, batch["label"], reduction="none"),
            "correct": (logits.argmax(dim=1) == batch["label"]).float(),
        }

    def _logits(self, images: Tensor) -> Tensor:
        hidden = functional.max_pool2d(functional.relu(self.convolution_1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.convolution_2(hidden)), 2)
        return self.linear(torch.flatten(hidden, 1))

"""The module that PyTorch's parallel engines wrap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataecho.backends.torch_model import TorchModel


class ForwardModule(nn.Module):
    """All calls of a model go through ``forward``, where the engines hook in."""

    def __init__(self, model: TorchModel, *, compile: bool) -> None:
        super().__init__()
        self.model = model
        self._losses = torch.compile(model.losses) if compile else model.losses

    def forward(self, fields: dict[str, Tensor], *, evaluates: bool) -> Tensor | dict[str, Tensor]:
        """The losses of a training step, one per row, or the outputs of an evaluation."""
        return self.model.outputs(fields) if evaluates else self._losses(fields)

"""The interface of a task's PyTorch model."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from torch import Tensor, nn


class TorchModel(nn.Module, abc.ABC):
    """A module with a loss per row. ``batch`` maps field names to tensors [b, ...] on the model's device."""

    @abc.abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """The training loss of every row, [b]; the backend takes the weighted mean."""

    @abc.abstractmethod
    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the task's evaluator needs; their first axis is the row."""

    def units(self) -> Sequence[nn.Module]:
        """With ``backend.parallel=fsdp``: modules whose weights are gathered separately, when the module is called. By
        default all weights are gathered at once."""
        return ()

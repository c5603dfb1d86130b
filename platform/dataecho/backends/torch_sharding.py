"""How tensors are divided over the ranks."""

from __future__ import annotations

import abc
from typing import final

from torch import Tensor


class Sharding(abc.ABC):
    """Between whole tensors and the parts of them that a rank keeps."""

    @abc.abstractmethod
    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor of which each rank may keep a part; collective."""

    @abc.abstractmethod
    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        """This rank's part of ``tensor``, divided as ``like`` is."""


@final
class Unsharded(Sharding):
    """Every rank keeps every tensor."""

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        return tensor

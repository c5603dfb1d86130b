"""Layers that the frameworks define differently, in a form that all backends share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataecho.errors import require


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the second ([b, c, ...]), optionally in ghost batches.

    In training, each group of ``virtual_batch_size`` consecutive rows is normalised by its own mean and biased
    variance (Hoffer et al. 2017, section 4; the paper's ResNet-50 has 32, its SSD 128); None: the whole batch of this
    device. The running statistics move by ``momentum`` towards the averages of the groups' means and unbiased
    variances. Raises :class:`SettingError` for a batch that the groups do not divide.
    """

    def __init__(
        self,
        num_features: int,
        *,
        virtual_batch_size: int | None = None,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self._virtual_batch_size, self._momentum, self._epsilon = virtual_batch_size, momentum, epsilon
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised inputs, of the same shape and type."""
        num_rows = len(inputs)
        size = self._virtual_batch_size or num_rows
        if not self.training or size == num_rows:
            return functional.batch_norm(
                inputs,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=self.training,
                momentum=self._momentum,
                eps=self._epsilon,
            )
        require(
            num_rows % size == 0,
            "virtual_batch_size",
            size,
            allowed=f"divisors of {num_rows}, the rows of a batch on one device",
            cure="Choose one of them, or another task.batch_size.",
        )
        return self._by_groups(inputs, num_rows // size, size)

    def _by_groups(self, inputs: Tensor, num_groups: int, size: int) -> Tensor:
        """Make channels of the groups, so that one call of the framework normalises all of them."""
        num_features = inputs.shape[1]
        grouped = inputs.reshape(num_groups, size, *inputs.shape[1:]).transpose(0, 1)
        grouped = grouped.reshape(size, num_groups * num_features, *inputs.shape[2:])
        means, variances = inputs.new_zeros(2, num_groups * num_features, dtype=self.running_mean.dtype)
        normalised = functional.batch_norm(
            grouped,
            means,
            variances,
            self.weight.repeat(num_groups),
            self.bias.repeat(num_groups),
            training=True,
            momentum=1.0,  # the statistics of these rows alone
            eps=self._epsilon,
        )
        with torch.no_grad():
            self.running_mean.lerp_(means.view(num_groups, num_features).mean(0), self._momentum)
            self.running_var.lerp_(variances.view(num_groups, num_features).mean(0), self._momentum)
        return normalised.reshape(size, num_groups, *inputs.shape[1:]).transpose(0, 1).reshape(inputs.shape)


#: oneDNN's strided 1 x 1 convolution is correct from this number of input channels on.
NARROW = 8


def stride_before_narrow_convolutions(model: nn.Module) -> None:
    """Replace the stride of every 1 x 1 convolution with fewer than :data:`NARROW` input channels by a hook that takes
    every n-th pixel of its input: the same function of the same weights.

    On processors without AVX-512, oneDNN (as in PyTorch 2.13) writes outside of its memory in the backward pass of such
    a convolution with channels last, which ``torch.compile`` chooses by itself. Only modules are changed, not calls of
    ``torch.nn.functional.conv2d``.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.in_channels < NARROW
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.padding in ("valid", (0, 0))  # padding takes another path, which is correct
        ):
            module.register_forward_pre_hook(_EveryNth(*module.stride), with_kwargs=True)
            module.stride = (1, 1)


class _EveryNth:
    """A hook that keeps every ``down``-th row and every ``right``-th column of a convolution's input."""

    def __init__(self, down: int, right: int) -> None:
        self._down, self._right = down, right

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        (images,) = (*args, *kwargs.values())
        return (images[..., :: self._down, :: self._right],), {}

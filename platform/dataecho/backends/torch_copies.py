"""Copies to a CUDA device in parallel with the computation, one step ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from numpy.typing import NDArray
from torch import Tensor

_NUM_SLOTS = 2  # one is filled while the other is copied


class SideStreamCopies:
    """Copies through page-locked memory on a separate stream: the next batch is copied while the device computes a
    step. At most two copies are in progress: the third waits for the first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._slots = [_Slot() for _ in range(_NUM_SLOTS)]
        self._turn = 0

    def start(self, arrays: Mapping[str, NDArray]) -> tuple[dict[str, Tensor], torch.cuda.Event]:
        """Tensors on the device, to be used after the event (see :func:`use_on_current_stream`). The arrays may be
        reused at once: they have been copied into page-locked memory."""
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % _NUM_SLOTS
        slot.copied.synchronize()
        pinned = slot.fill(arrays)
        with torch.cuda.stream(self._stream):
            placed = {name: tensor.to(self._device, non_blocking=True) for name, tensor in pinned.items()}
        slot.copied.record(self._stream)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(self._stream)
        return placed, arrived


def use_on_current_stream(placed: Iterable[Tensor], arrived: torch.cuda.Event) -> None:
    """Let later work on the current stream use ``placed``: the device waits for the copy, the program does not. The
    memory is not reused before that work is done."""
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in placed:
        tensor.record_stream(current)


class _Slot:
    """Page-locked memory for one batch."""

    def __init__(self) -> None:
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._buffers: dict[str, Tensor] = {}

    def fill(self, arrays: Mapping[str, NDArray]) -> dict[str, Tensor]:
        for name, values in arrays.items():
            source = torch.from_numpy(values)
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
                buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
                self._buffers[name] = buffer
            buffer.copy_(source)
        return {name: self._buffers[name] for name in arrays}

"""Image classification: any source of images and labels, one network, one metric."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho_tasks.shared.images.resized_crops import ResizedCrops


@dataclass(frozen=True, kw_only=True)
class Images(ResizedCrops):
    """Images and classes of any source, by default scenes that are made on the spot."""

    name = "images"

"""ImageNet: photographs of any size in 1,000 classes, cropped and resized, mirrored, in other colours."""

from __future__ import annotations

from dataclasses import dataclass

from dataecho_tasks.shared.images.resized_crops import ResizedCrops


@dataclass(frozen=True, kw_only=True)
class ImagenetResnet50(ResizedCrops):
    """Images and classes of ILSVRC2012 from class folders, class archives or shards, or of any other source."""

    name = "imagenet_resnet50"

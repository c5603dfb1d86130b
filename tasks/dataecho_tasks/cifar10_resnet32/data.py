"""CIFAR-10 as in He et al., CVPR 2016, section 4.2: images of 32 x 32, moved by up to 4 pixels, mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dataecho.errors import require
from dataecho.pipeline.stage import Stage
from dataecho.plan.keys import Keys
from dataecho.training.contracts import Arrays
from dataecho_tasks.shared.images.classification import ImageClassification
from dataecho_tasks.shared.images.pixels import padded_crop
from dataecho_tasks.shared.images.resized_crops import flipped


@dataclass(frozen=True, kw_only=True)
class Cifar10Resnet32(ImageClassification):
    """Batches of ``image`` uint8 [b, 32, 32, 3], RGB, and ``label`` int64; the model scales the pixels.

    Augmentation: a random crop from the image with ``padding`` black pixels on every side, and a mirror image
    (``flip``), each a stage. Evaluation: the image as it is. ``num_classes`` is 10.
    """

    padding: int = 4
    flip: bool = True

    name = "cifar10_resnet32"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.padding <= 16, "task.padding", self.padding, allowed="0 to 16", cure="4 is the default.")

    def stages(self) -> Sequence[Stage]:
        crop = Stage("crop", partial(_crop, padding=self.padding), random=True, batched=True, mutates_input=False)
        flip = [Stage("flip", flipped, random=True, batched=True, mutates_input=False)] if self.flip else []
        return (self.decode(), *([crop] if self.padding else []), *flip)

    def eval_stages(self) -> Sequence[Stage]:
        return (self.decode(),)


def _crop(chunk: Arrays, keys: Keys, *, padding: int) -> Arrays:
    return {**chunk, "image": padded_crop(chunk["image"], keys, padding=padding)}

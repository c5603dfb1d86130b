"""1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships; 500 are held out, always the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataecho.errors import require
from dataecho.pipeline.source import ArraySource, Source
from dataecho.pipeline.stage import Stage, as_examples
from dataecho.plan import keys as draws
from dataecho.plan.keys import Keys, KeyStream
from dataecho.plan.order import Permutation
from dataecho.training.contracts import Arrays, Evaluator, Predict, Task, WeightedMeans
from dataecho.training.shown import Shown, classified

_MAX_VALUE = 16.0


@dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """Pixels 0..16 as ``image`` float32 [1, 8, 8] in [0, 1], ``label`` int64.

    Augmentation: a shift by up to ``max_shift`` pixels in both directions, filled with background.
    """

    max_shift: int = 1
    num_held_out: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.max_shift <= 3, "task.max_shift", self.max_shift, allowed="0 to 3", cure="1 is the default.")
        require(
            1 <= self.num_held_out <= 1796,
            "task.num_held_out",
            self.num_held_out,
            allowed="1 to 1796",
            cure="500 is the default; results with another split cannot be compared.",
        )

    name = "digits"
    metric = "accuracy"
    higher_is_better = True

    def train_source(self) -> Source:
        return ArraySource({name: values[self.num_held_out :] for name, values in self._data.items()})

    def eval_source(self) -> Source:
        return ArraySource({name: values[: self.num_held_out] for name, values in self._data.items()})

    def stages(self) -> Sequence[Stage]:
        return (*self.eval_stages(), Stage("shift", self._shift, random=True, batched=True, mutates_input=False))

    def eval_stages(self) -> Sequence[Stage]:
        return (Stage("decode", _decode, batched=True, mutates_input=False),)

    def evaluator(self) -> Evaluator:
        return WeightedMeans({"eval_loss": "loss", "accuracy": "correct"})

    def show(self, example: Arrays) -> Shown:
        image = example["image"]
        pixels = image * (255 / _MAX_VALUE if image.dtype == np.uint8 else 255)
        return Shown(image=pixels.round().astype(np.uint8)[0], caption=str(example["label"]))

    def show_predictions(self, examples: Arrays, predict: Predict) -> list[Shown]:
        shown = [self.show(example) for example in as_examples(examples)]
        return classified(shown, examples["label"], predict(examples))

    @cached_property
    def _data(self) -> Arrays:
        from sklearn.datasets import load_digits  # a second of import that only a run pays

        images, labels = load_digits(return_X_y=True)
        # Neighbours in the file were written by the same person: the split is a fixed permutation, whatever the seed.
        order = Permutation.of(len(labels), KeyStream(0, "digits.split"), 0)(np.arange(len(labels)))
        return {
            "image": images.reshape(-1, 1, 8, 8).astype(np.uint8)[order],
            "label": labels.astype(np.int64)[order],
        }

    def _shift(self, chunk: Arrays, keys: Keys) -> Arrays:
        images, most = chunk["image"], self.max_shift
        count, channels, height, width = images.shape
        padded = np.zeros((count, channels, height + 2 * most, width + 2 * most), dtype=images.dtype)
        padded[:, :, most : most + height, most : most + width] = images
        down, right = (draws.integers(keys, draw=draw, high=2 * most + 1) for draw in range(2))
        rows = down[:, None, None] + np.arange(height)[None, :, None]
        columns = right[:, None, None] + np.arange(width)[None, None, :]
        shifted = padded[np.arange(count)[:, None, None], :, rows, columns]  # [n, height, width, channels]
        return {**chunk, "image": np.ascontiguousarray(shifted.transpose(0, 3, 1, 2))}


def _decode(chunk: Arrays) -> Arrays:
    return {**chunk, "image": chunk["image"].astype(np.float32) / np.float32(_MAX_VALUE)}

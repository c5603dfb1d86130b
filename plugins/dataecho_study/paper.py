"""The values of Choi et al., 2019 (arXiv 1907.05550): figures of version 2, read off to about three digits. Figure 4 as
version 1 has it is recomputed from version 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: By figure, workload, and the label of a series: x -> ratio to no echo. In figure 8 the values themselves.
Series = Mapping[str, Mapping[Any, float]]

LM1B, CRAWL, CIFAR, IMAGENET, COCO = (
    "lm1b_transformer",
    "commoncrawl_transformer",
    "cifar10_resnet32",
    "imagenet_resnet50",
    "coco_ssd",
)
NAMES = {LM1B: "LM1B", CRAWL: "Common Crawl", CIFAR: "CIFAR-10", IMAGENET: "ImageNet", COCO: "COCO"}

_BEFORE, _AFTER = "before_augmentation", "after_augmentation"

FIGURES: Mapping[str, Mapping[str, Series]] = {
    "figure_3": {
        LM1B: {"": {"batch": 0.684, "example": 0.516}},
        CRAWL: {"": {"batch": 0.584, "example": 0.581}},
        CIFAR: {"": {"batch": 0.848, _AFTER: 0.657, _BEFORE: 0.576}},
        IMAGENET: {"": {"batch": 1.050, _AFTER: 0.824, _BEFORE: 0.515}},
        COCO: {"": {"batch": 0.873, _AFTER: 0.664, _BEFORE: 0.537}},
    },
    "figure_4": {
        LM1B: {
            "factor=2": {1: 1.03, 2: 0.52, 4: 0.52, 8: 0.52},
            "factor=4": {1: 1.25, 2: 0.63, 4: 0.31, 8: 0.31},
            "factor=8": {1: 2.78, 2: 1.39, 4: 0.69, 8: 0.35},
            "factor=16": {1: 6.27, 2: 3.14, 4: 1.57, 8: 0.78},
        },
        IMAGENET: {
            "factor=2": {1: 1.05, 2: 0.53, 4: 0.53, 8: 0.53},
            "factor=3": {1: 1.10, 2: 0.55, 4: 0.37, 8: 0.37},
            "factor=4": {1: 1.08, 2: 0.54, 4: 0.27, 8: 0.27},
            "factor=5": {1: 1.22, 2: 0.61, 4: 0.30, 8: 0.24},
        },
    },
    "figure_5": {
        LM1B: {
            "batch_size=1024": {1: 1.0, 2: 0.516, 4: 0.313, 8: 0.347, 16: 0.392},
            "batch_size=4096": {1: 1.0, 2: 0.565, 4: 0.290, 8: 0.191, 16: 0.175},
        },
    },
    "figure_6": {
        LM1B: {
            "echo=batch": {64: 0.983, 256: 0.863, 1024: 0.684, 4096: 0.608},
            "echo=example": {64: 0.565, 256: 0.544, 1024: 0.516, 4096: 0.565},
        },
        IMAGENET: {
            "echo=batch": {256: 1.053, 1024: 1.050, 4096: 0.965, 16384: 0.849},
            f"echo={_AFTER}": {256: 0.855, 1024: 0.824, 4096: 0.834, 16384: 0.774},
            f"echo={_BEFORE}": {256: 0.546, 1024: 0.515, 4096: 0.533, 16384: 0.630},
        },
    },
    "figure_7": {
        LM1B: {
            "echo=batch": {1024: 0.684, 10240: 0.655, 102400: 0.576},
            "echo=example": {1e5: 0.602, 1e6: 0.516, 1e7: 0.510},
        },
    },
    "figure_8": {
        LM1B: {"": {"none": 3.800, "batch": 3.708, "example": 3.638}},
        IMAGENET: {"": {"none": 0.767, "batch": 0.766, _AFTER: 0.769, _BEFORE: 0.774}},
    },
}

#: Where the paper has no values of a task: the workload that stands beside it, the first that the figure has.
_STAND_INS = (CIFAR, IMAGENET, LM1B)


def values(figure: str, task: str) -> tuple[str, Series] | None:
    """The name of the workload and its series; those of another workload where the paper has none of the task's, None
    for a figure that it does not have."""
    found = FIGURES.get(figure)
    if found is None:
        return None
    stand_ins = (LM1B, IMAGENET) if task in (LM1B, CRAWL) else _STAND_INS
    workload = next(name for name in (task, *stand_ins) if name in found)
    return NAMES[workload], found[workload]

"""The trunk of the detector from a residual network that was trained to classify, under torchvision's names."""

from __future__ import annotations

import logging
import re

from dataecho.training.contracts import Arrays

_LOG = logging.getLogger(__name__)

_OWN = ("convolution.", "normalisation.", "blocks.")
_IN_A_BLOCK = re.compile(r"layer(?P<group>\d+)\.(?P<block>\d+)\.(?P<layer>.+)\.\w+")
_STEM = {"conv1": "convolution", "bn1": "normalisation"}
_BLOCK = {
    "conv1": "convolution_1",
    "bn1": "normalisation_1",
    "conv2": "convolution_2",
    "bn2": "normalisation_2",
    "downsample.0": "shortcut_convolution",
    "downsample.1": "shortcut_normalisation",
}


def with_backbone(given: Arrays, own: Arrays) -> Arrays:
    """All weights of a detector: those of ``given`` where that is a residual network as torchvision names it, or the
    trunk of a detector, and ``own`` behind it. Anything else stays as it is given.

    The classifier, and groups of blocks that the detector does not have, are left out.
    """
    if "conv1.weight" in given:
        given = _renamed(given, num_blocks=len({name.split(".")[1] for name in own if name.startswith("blocks.")}))
    if not given or not all(name.startswith(_OWN) for name in given):
        return given
    rest = {name: values for name, values in own.items() if not name.startswith(_OWN)}
    _LOG.info("weights: %d arrays of the backbone are given, the other %d are drawn at random", len(given), len(rest))
    return {**rest, **given}


def _renamed(given: Arrays, *, num_blocks: int) -> Arrays:
    """Blocks are numbered through all groups."""
    inside = {name: match for name in given if (match := _IN_A_BLOCK.fullmatch(name))}
    blocks = sorted({(int(match["group"]), int(match["block"])) for match in inside.values()})
    numbers = {block: number for number, block in enumerate(blocks[:num_blocks])}
    renamed = {}
    for name, values in given.items():
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        if layer in _STEM:
            renamed[f"{_STEM[layer]}.{kind}"] = values
        elif name in inside:
            match = inside[name]
            number = numbers.get((int(match["group"]), int(match["block"])))
            if number is not None:
                renamed[f"blocks.{number}.{_BLOCK.get(match['layer'], match['layer'])}.{kind}"] = values
    return renamed

"""The common ground of all arms of ``headline/run.py``: the data, the settings, what a run is and what it gives.

The settings are those of ``train.py``, as one would type them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import OmegaConf

PROJECT = Path(__file__).resolve().parents[2]

NUM_TRAIN, NUM_HELD_OUT, SHARD_SIZE = 16_384, 1024, 256
PIXELS, QUALITY = 96, 90
SHUFFLE_BUFFER, LOOK_AHEAD = 8192, 4096  # examples
IMAGE_SIZE, WIDTHS = 48, (24, 48, 96)
MIN_AREA, COLOUR = 0.5, 0.6
METRIC, TARGET = "accuracy", 0.75
BUDGET = 120_000


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One run. ``urls`` of the shards, read by ``num_connections``; ``held_out``: the file that
    :func:`dataset.write` made; ``factor``: None for no echo, ``auto``, or a number; ``budget`` in fresh examples;
    ``prefetch_factor``: the peer's."""

    seed: int
    batch_size: int
    learning_rate: float
    urls: str
    held_out: Path
    factor: float | str | None
    caches: bool
    num_connections: int
    prefetch_factor: int
    budget: int

    @property
    def eval_interval(self) -> int:
        """In fresh examples: a batch, but not too small, for evaluations take time, too."""
        return max(self.batch_size, 512)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The seconds spent when the held-out ``accuracy`` was found."""

    fresh: int
    wall_time: float
    train_time: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run. Costs are None where the target was not reached, the rest where the arm cannot tell.

    ``ratio`` is R over the whole run, ``steady_ratio`` R in its second half, long after the start;
    ``step_time`` in milliseconds per step, ``predicted`` and ``measured`` per fresh example.
    """

    fresh: int | None
    wall_time: float | None
    train_time: float | None
    input_wait: float
    marks: list[Mark]
    step_time: float | None = None
    ratio: float | None = None
    steady_ratio: float | None = None
    predicted: float | None = None
    measured: float | None = None
    factor: float | None = None


class HeldOut:
    """Held-out images in memory, decoded and scaled: evaluation is to cost little, and no reading."""

    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.images: NDArray[np.uint8] = arrays["images"]
            self.labels: NDArray[np.int64] = arrays["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"image": self.images[k], "label": self.labels[k]}


def settings(arm_run: ArmRun, folder: Path) -> dict[str, Any]:
    """The whole configuration of a run of ours that writes into ``folder`` only."""
    overrides = [
        "task=images",
        "task/images_data=tar",
        f"task.train.urls='{arm_run.urls}'",  # quoted: braces mean something to Hydra
        f"+task.train.index_dir={folder}/index",  # every run makes its own
        f"+task.train.num_fetches={arm_run.num_connections}",
        "~task.eval",
        f"+task.eval={{_target_: benchmarks.headline.setup.HeldOut, path: '{arm_run.held_out}'}}",
        f"task.eval_batch_size={NUM_HELD_OUT}",
        f"task.batch_size={arm_run.batch_size}",
        f"task.shuffle_buffer={SHUFFLE_BUFFER}",
        f"task.eval_interval={arm_run.eval_interval}",
        f"task.image_size={IMAGE_SIZE}",
        f"task.min_area={MIN_AREA}",
        f"task.colour={COLOUR}",
        f"task.models.torch.widths={list(WIDTHS)}",
        f"task.target={TARGET}",
        f"task.budget={arm_run.budget}",
        f"optimizer.learning_rate={arm_run.learning_rate}",
        f"seed={arm_run.seed}",
        f"run_dir={folder}/run",
        "accelerator=cpu",
        "backend.compute_threads=1",  # one core for the step, one for the worker
        "pipeline.num_threads=1",
        "pipeline.chunk_size=64",
        f"pipeline.look_ahead={LOOK_AHEAD // arm_run.batch_size}",
        "checkpoints.interval=0",
        "tracking=none",
        "display=none",
    ]
    if arm_run.factor is not None:
        overrides += ["echo=before_augmentation", f"factor={arm_run.factor}"]
    if arm_run.caches:
        overrides.append(f"task.train.cache_dir={folder}/cache")
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    assert isinstance(config, dict)
    return {str(name): value for name, value in config.items()}

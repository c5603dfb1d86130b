"""What tests of several folders share."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

#: Time, and what depends on when: no two runs agree on them.
TIMES = frozenset(
    {
        "wall_time",
        "train_time",
        "wall_time_to_target",
        "train_time_to_target",
        "read_examples",
        "store_bytes",
        "memory",
        "fetched_bytes",
        "worker_restarts",
        "upstream_time",
        "downstream_time",
        "upstream_downstream_ratio",
        "input_wait_fraction",
        "input_wait_mean",
        "input_wait_p95",
        "predicted_time_per_fresh_example",
        "measured_time_per_fresh_example",
    }
)

PROJECT = Path(__file__).resolve().parent.parent

OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def config(*overrides: str) -> dict[str, Any]:
    """The configuration that ``train.py`` gets for these overrides."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(node, dict)
    return node

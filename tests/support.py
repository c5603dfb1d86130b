"""What tests of several folders share."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dataecho.training.metrics import METRICS, SUMMARY

#: Names of ``summary.json`` and ``metrics.jsonl`` in which no two runs agree: time, and what depends on it.
TIMES = frozenset(metric.name for metric in (*METRICS.values(), *SUMMARY) if metric.varies)

PROJECT = Path(__file__).resolve().parent.parent

OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def config(*overrides: str) -> dict[str, Any]:
    """The configuration that ``train.py`` gets for these overrides."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(node, dict)
    return node

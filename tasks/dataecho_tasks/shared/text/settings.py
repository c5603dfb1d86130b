"""The configuration of a task, for commands beside ``dataecho``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dataecho.places import configuration


def task_node(overrides: Sequence[str]) -> dict[str, Any]:
    """The node ``task`` that ``dataecho`` would get; what is not given yet stays ``???``."""
    with initialize_config_dir(str(configuration()), version_base="1.3"):
        node = compose("config", [*overrides, "++task.tokenizer={_target_: none}", "tracking=none"])
        content = OmegaConf.to_container(node["task"], resolve=True)
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}

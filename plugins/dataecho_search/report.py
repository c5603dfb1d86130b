"""What a sweep leaves for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataecho_search.results import StudyResult


def write_report(results: Sequence[StudyResult], folder: Path, tracking: Mapping[str, Any]) -> None:
    """Called after every finished study with those finished so far, and at the end of a sweep with all. ``folder`` is
    the sweep's; ``tracking`` the configuration's node of that name."""

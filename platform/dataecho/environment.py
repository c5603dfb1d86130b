"""Environment variables that must be set before the first import of a heavy library, and where this code comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Compute threads that spin while they wait take the cores from the ones that decode.
    "OMP_WAIT_POLICY": "passive",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def prepare() -> None:
    """Quiet libraries and polite threads, where the user has not said otherwise."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def git_revision(folder: Path) -> str:
    """The commit of the checkout that ``folder`` is in, with ``-dirty`` where files were changed; ``unknown`` outside
    of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()

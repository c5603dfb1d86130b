"""The process's environment: variables of heavy libraries, output streams that never raise, and the git revision."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Compute threads that spin while they wait take cores from the threads that decode.
    "OMP_WAIT_POLICY": "passive",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def prepare() -> None:
    """Set variables that the user has not set, so that libraries print less and idle threads sleep; protect the output
    streams, see :func:`keep_output_going`."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    keep_output_going()


class _Unbreakable(io.FileIO):
    """Discards data that cannot be written: to a closed pipe, a closed terminal or a full disk."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def keep_output_going() -> None:
    """Replace standard output and error by streams that never raise: a run continues after ``| head -1``, with a closed
    standard output or terminal, and with a log on a full disk.

    Closed descriptors 0, 1 and 2 are opened on the null device: otherwise the next file to be opened would get their
    number, and a library's output would be written into it."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        os.set_inheritable(descriptor, True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Unbreakable(descriptor, "w", closefd=False)),
                encoding=getattr(stream, "encoding", None) or "utf-8",
                errors="backslashreplace",  # a character that the encoding lacks must not raise either
                line_buffering=name == "stderr" or os.isatty(descriptor),
                write_through=getattr(stream, "write_through", False),
            ),
        )


def git_revision(folder: Path) -> str:
    """The commit of the checkout around ``folder``, with ``-dirty`` where files were changed; ``unknown`` outside of a
    checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()

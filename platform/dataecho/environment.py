"""The environment of heavy libraries, set before their first import; output that never ends a run; where code is."""

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
    # Compute threads that spin while they wait take the cores from the ones that decode.
    "OMP_WAIT_POLICY": "passive",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def prepare() -> None:
    """Quiet libraries and polite threads, where the user has not said otherwise; output that never ends a run."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    keep_output_going()


class _Unbreakable(io.FileIO):
    """Writes what can be written: a pipe that nobody reads, a terminal that is gone and a full disk take nothing."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def keep_output_going() -> None:
    """From here on nothing that is printed can raise: a run goes on after ``| head -1``, a closed standard output, a
    terminal that was closed, and a log on a disk that is full.

    Descriptors 0, 1 and 2 that were closed lead nowhere: the next file that is opened would get their number, and what
    a library prints would be written into it."""
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
                errors="backslashreplace",  # an encoding that lacks a character is no reason either
                line_buffering=name == "stderr" or os.isatty(descriptor),
                write_through=getattr(stream, "write_through", False),
            ),
        )


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

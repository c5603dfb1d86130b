"""The machine that a figure depends on, what it must have, and what others take of it. Linux only."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PACKAGES = {"numpy": "numpy", "cv2": "opencv-python-headless", "torch": "torch", "webdataset": "webdataset"}


class OtherPrograms:
    """Their share of the machine's processor time since this was made; 1 is all of it. What this process, the children
    that have ended and ``process`` took is not theirs."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._started, self._busy, self._own = time.perf_counter(), _busy_seconds(), self._own_seconds()

    def share(self) -> float:
        """Until now."""
        busy, own = _busy_seconds() - self._busy, self._own_seconds() - self._own
        return max(0.0, (busy - own) / (time.perf_counter() - self._started) / (os.cpu_count() or 1))

    def _own_seconds(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        fields = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
        return sum(one.ru_utime + one.ru_stime for one in used) + (int(fields[11]) + int(fields[12])) / _ticks()


def program(name: str, *, package: str) -> str:
    """The path of a program, also of one that only the administrator's search path has."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit(f"{name} is missing: apt-get install -y {package}")
    return found


def machine() -> dict[str, Any]:
    """The facts that are printed beside figures."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {package: version(package) for name, package in _PACKAGES.items() if find_spec(name) is not None},
    }


def _busy_seconds() -> float:
    """Of all cores together since the machine started: all columns but those of idleness and of waiting for disks."""
    columns = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(columns) - columns[3] - columns[4]) / _ticks()


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")

"""Waiting for space on a full disk."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The exit code of a run that a full disk ended: it can be resumed when there is space.
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h
_LONGEST_PAUSE = 10.0
_SECONDS_BETWEEN_LOOKS = 0.2


class DiskFull(RuntimeError):
    """The disk of a run stayed full. Names the folder, the last checkpoint, and how to resume."""


def is_full(error: BaseException | None) -> bool:
    """Whether ``error`` says that a disk, or a user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def retry_while_full(
    write: Callable[[], T],
    *,
    folder: Path,
    timeout: float,
    gives_up: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``write``, again while the disk of ``folder`` is full, and return its result. After ``timeout`` seconds, or
    when ``gives_up()``, raises the ``OSError`` of ``write``, which must leave nothing half written."""
    begun, pause = now(), 0.5
    while True:
        try:
            written = write()
        except OSError as error:
            if not is_full(error):
                raise
            spent = now() - begun
            if spent >= timeout or gives_up():
                raise
            if pause == 0.5:
                log.warning(
                    "The disk of %s is full (%s). It waits for room, for at most %g s; nothing is lost.",
                    folder,
                    error.strerror,
                    timeout,
                )
            _sleep(min(pause, timeout - spent), gives_up=gives_up, now=now, sleep=sleep)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if pause > 0.5:
                log.warning("There is room again on the disk of %s; it goes on.", folder)
            return written


def _sleep(
    seconds: float, *, gives_up: Callable[[], bool], now: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    end = now() + seconds
    while (left := end - now()) > 0 and not gives_up():
        sleep(min(left, _SECONDS_BETWEEN_LOOKS))

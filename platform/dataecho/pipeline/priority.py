"""Who goes first where the training step and the workers want the same core."""

from __future__ import annotations

import os
import sys
import threading

_NICER = 5  # one that is not gets three times as much of a core


def go_last(*, after: int) -> None:
    """From here on the calling thread leaves the cores to the main thread of process ``after`` and to others like it: a
    step that waits for a core is late, a batch that is prepared ahead of it is not. Linux only: elsewhere a thread has
    no priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        wanted = min(19, os.getpriority(os.PRIO_PROCESS, after) + _NICER)
        os.setpriority(os.PRIO_PROCESS, thread, max(now, wanted))  # back is not allowed to everybody

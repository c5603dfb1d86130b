"""Writes reports in a thread, so that no worker waits for a figure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ReportThread:
    """Runs one call at a time in a thread, and of the calls that arrive meanwhile only the last. Logs failures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], object]) -> None:
        """Start ``work``, or queue it in place of the call that waits; return at once."""
        with self._lock:
            self._next = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="report", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait for the last call."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None:
                    self._thread = None
                    return
            try:
                work()
            except OSError as error:
                log.warning(
                    "The report of the sweep could not be written: %s. The same command writes it again.", error
                )
            except Exception:
                log.exception("The report of the sweep could not be written.")

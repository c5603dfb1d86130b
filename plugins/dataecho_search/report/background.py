"""Work beside the loop, so that no worker waits for a picture."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """Runs one thing at a time in a thread; of those that come meanwhile, the last. What fails is logged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Return at once."""
        with self._lock:
            self._next = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="report", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait for what was asked for last."""
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

"""SIGTERM and SIGINT: stop after the current step with a checkpoint; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(Exception):
    """The run was asked to stop. ``signal_number``: by what."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Interruption:
    """Notes the signal; the loop looks at it before every step and while it waits for one. Nothing is raised from the
    handler: it could come between a lock and its release. A context manager; outside the main thread, where
    Python gets no signals, it never sees any."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def signal_number(self) -> int:
        """The signal that came, 0 for none."""
        return self._signal or 0

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal came."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number

"""SIGTERM, SIGINT and SIGHUP: stop after the current step with a checkpoint; another one later stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

#: Supervisors and terminals may send a request twice: a signal this soon after the first is the same request.
SECONDS_OF_A_REQUEST = 1.0
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP

# Stay ignored where they are: the user asked for it. A shell ignores SIGINT for its background jobs without being
# asked.
_LET_BE = SIGNALS[2:]


class Interrupted(Exception):
    """A signal asked the run to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Interruption:
    """Notes a signal; the loop checks it before every step and while it waits for a batch. For the first request the
    handler raises nothing: an exception could come between a lock and its release. A second request, later than
    :data:`SECONDS_OF_A_REQUEST`, raises ``KeyboardInterrupt`` wherever the program is.

    SIGHUP stays ignored where it is ignored (under ``nohup``). A context manager; outside the main thread, where Python
    delivers no signals, it sees none. After it, repetitions of the same request do nothing, and a later request has
    its earlier effect."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}
        self._now, self._since = now, 0.0

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number not in _LET_BE or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signal is not None and self._is_same_request():
            for number in self._previous:
                signal.signal(number, self._note_late)
        else:
            self._restore()

    @property
    def signal_number(self) -> int:
        """The signal that came, 0 for none."""
        return self._signal or 0

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal came."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal, self._since = number, self._now()
        elif not self._is_same_request():
            raise KeyboardInterrupt

    def _note_late(self, number: int, frame: FrameType | None) -> None:
        if not self._is_same_request():
            self._restore()
            signal.raise_signal(number)

    def _is_same_request(self) -> bool:
        return self._now() - self._since < SECONDS_OF_A_REQUEST

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

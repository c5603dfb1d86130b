"""The background thread that sends a run to MLflow, with retries. Training never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import final

from dataecho.errors import setting
from dataecho.invocation import command
from dataecho.tracking.connection import cure as cure_of
from dataecho.tracking.delivery import Delivery, Stopped
from dataecho.tracking.record import RecordFile
from dataecho.tracking.redact import masked_error, without_credentials

logger = logging.getLogger("dataecho.tracking")

_LONGEST_RETRY_INTERVAL = 30.0
_SECONDS_BETWEEN_MESSAGES = 5.0  # at the end of a run
_SECONDS_TO_LEAVE = 0.5  # for a thread that has nothing left to do


@final
class Outage:
    """Logs the begin and the end of an outage once each, not every attempt. Used by two threads. ``cure``: the cure
    where waiting does not help; empty where the outage may be transient."""

    def __init__(self, folder: Path, *, tracking_uri: str) -> None:
        self._folder = folder
        self._uri = tracking_uri
        self._lock = threading.Lock()
        self._is_on = False
        self.reason, self.cure = "it has not answered yet", ""

    def begin(self, reason: str, *, cure: str = "") -> None:
        """A call failed, or takes too long."""
        with self._lock:
            is_news = not self._is_on or cure != self.cure
            self.reason, self.cure = reason, cure
            if is_news:
                logger.warning(
                    "MLflow at %s: %s. Training goes on; what is not sent stays in %s%s",
                    without_credentials(self._uri),
                    reason,
                    self._folder,
                    f". Waiting does not help. {cure}" if cure else " until MLflow answers.",
                )
            self._is_on = True

    def fail(self, error: BaseException) -> None:
        """A call raised ``error``."""
        self.begin(masked_error(error, uri=self._uri), cure=cure_of(error, uri=self._uri))

    def end(self) -> None:
        """Everything so far has been sent."""
        with self._lock:
            if self._is_on:
                logger.info("MLflow at %s answers; everything has been sent.", without_credentials(self._uri))
            self._is_on, self.cure = False, ""


@final
class Sender:
    """Sends one run in a daemon thread. After a failure it retries, at intervals that double from ``retry_interval`` to
    30 seconds while nothing arrives. Where waiting does not help, it retries every 30 seconds, and once at the end.

    During training it pauses after every success for ``send_interval`` seconds, or longer, so that it takes at most
    ``max_share`` of one processor: the interpreter runs one thread at a time, and training loses as much.
    :meth:`finish` sends the rest without pauses."""

    def __init__(
        self,
        folder: Path,
        file: RecordFile,
        *,
        tracking_uri: str,
        retry_interval: float,
        send_interval: float = 0.0,
        max_share: float = 1.0,
    ) -> None:
        self._folder = folder
        self._file = file
        self._uri = tracking_uri
        self._retry_interval = retry_interval
        self._send_interval = send_interval
        self._max_share = max_share
        self._outage = Outage(folder, tracking_uri=tracking_uri)
        self._delivery = Delivery(folder, file, tracking_uri=tracking_uri, check=self._check)
        self._thread = threading.Thread(target=self._run, name="dataecho-mlflow", daemon=True)
        self._wake = threading.Condition()
        self._attempted = threading.Event()
        self._ended = threading.Event()
        # Guarded by _wake:
        self._position = 0
        self._has_work = True  # the run has to be opened
        self._finishing = False
        self._stopped = False
        self._next_attempt = 0.0
        self._num_failures = 0
        # The thread's own:
        self._taken = 0.0  # processor seconds of the last sending

    @property
    def position(self) -> int:
        """The last argument of :meth:`covered`; 0 before the first call."""
        return self._position

    @property
    def cure(self) -> str:
        """The cure for a failure that waiting does not help; empty if there is none."""
        return self._outage.cure

    def start(self, *, timeout: float) -> None:
        """Start the thread; return when the run is open on the server, cannot be opened now, or after ``timeout``
        seconds."""
        self._thread.start()
        if not self._attempted.wait(timeout):
            self._outage.begin(f"no answer within {timeout:g} seconds")

    def covered(self, position: int) -> None:
        """Allow the thread to send up to ``position``."""
        with self._wake:
            self._position = max(self._position, position)
            self._has_work = True
            self._wake.notify()

    def finish(self, *, timeout: float) -> bool:
        """Send the rest, then :meth:`stop`; return whether everything was sent. Gives up after ``timeout`` seconds
        without an arrival."""
        with self._wake:
            self._finishing = self._has_work = True
            self._next_attempt = 0.0
            self._num_failures = 0
            self._wake.notify()
        self._wait_for_the_end(timeout)
        self.stop()
        if not self._file.now.complete:
            self._warn_incomplete()
        return self._file.now.complete

    def _wait_for_the_end(self, timeout: float) -> None:
        seen, since = self._file.now, time.monotonic()
        while not self._ended.wait(min(timeout, _SECONDS_BETWEEN_MESSAGES)):
            now = self._file.now
            if now != seen:
                seen, since = now, time.monotonic()
                logger.info("Sending the rest to MLflow: %.0f %%.", 100 * now.sent / max(1, now.covered))
            elif time.monotonic() - since >= timeout:
                return

    def stop(self) -> None:
        """Send nothing more, and write the record no more. A hanging call keeps its thread until it returns."""
        self._file.release()
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(_SECONDS_TO_LEAVE)

    def _warn_incomplete(self) -> None:
        logger.warning(
            "MLflow did not get everything (%s). Nothing is lost: it is in %s. %sSend it later with: %s%s",
            self._outage.reason,
            self._folder,
            f"{self._outage.cure} " if self._outage.cure else "",
            command("mode=sync", setting("resume", self._folder)),
            "" if without_credentials(self._uri) == self._uri else " tracking.tracking_uri=... (with your credentials)",
        )

    # ---- in the thread

    def _run(self) -> None:
        try:
            while not self._file.now.complete:
                self._wait_for_work()
                self._attempt()
        except Stopped:
            pass
        finally:
            self._attempted.set()
            self._ended.set()

    def _wait_for_work(self) -> None:
        with self._wake:
            while not self._stopped:
                delay = self._next_attempt - time.monotonic()
                if self._has_work and delay <= 0:
                    return
                self._wake.wait(delay if self._has_work else None)
        raise Stopped

    def _attempt(self) -> None:
        with self._wake:
            position, finishing = self._position, self._finishing
            self._has_work = False
        before = self._file.now
        try:
            has_more = self._send(position, finishing=finishing)
        except Stopped:
            raise
        except Exception as error:
            self._delivery.forget_server()
            self._outage.fail(error)
            if self._outage.cure and finishing:
                raise Stopped from error
            with self._wake:
                self._has_work = True
                self._num_failures = 1 if self._file.now != before else self._num_failures + 1
                interval = min(self._retry_interval * 2 ** (self._num_failures - 1), _LONGEST_RETRY_INTERVAL)
                if self._outage.cure:
                    interval = _LONGEST_RETRY_INTERVAL
                # A failed attempt from before finish() must not delay finish().
                self._next_attempt = time.monotonic() + interval if finishing == self._finishing else 0.0
        else:
            if not has_more:
                self._outage.end()
            with self._wake:
                self._num_failures = 0
                self._has_work |= has_more
                rest = max(self._send_interval, self._taken * (1 / self._max_share - 1))
                self._next_attempt = 0.0 if self._finishing else time.monotonic() + rest
        self._attempted.set()

    def _send(self, position: int, *, finishing: bool) -> bool:
        """Send everything if ``finishing``, else some; return whether more is left up to ``position``."""
        # The rest of an earlier process is sent only when this one knows what its checkpoint covers: it may be less.
        if position not in (0, self._file.now.covered):
            self._file.update(covered=position)
        self._delivery.open()
        if not finishing:
            begin = time.thread_time()  # without the opening, which happens once, usually before training
            has_more = self._delivery.send_some(position)
            self._taken = time.thread_time() - begin
            return has_more
        while self._delivery.send_some(self._file.now.covered):
            pass
        self._delivery.close()
        return False

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

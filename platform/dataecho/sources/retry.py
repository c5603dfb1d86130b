"""Retries of transient failures with growing delays, in the thread that needs the answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dataecho.errors import DataError
from dataecho.sources.urls import shown_url

T = TypeVar("T")

#: A check between steps of work: returns to continue, raises to cancel.
Proceed = Callable[[], None]

_LONGEST_DELAY = 60.0
_LONGEST_RETRY_AFTER = 600.0
_POLL_SECONDS = 0.2


def go_on() -> None:
    """A :data:`Proceed` that never raises."""


class TransientError(Exception):
    """A failure that another attempt may not meet: ``reason``, without secrets. The server asks for a delay of
    ``retry_after`` seconds."""

    def __init__(self, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Up to ``num_retries`` more attempts after failures in a row: the first after ``first_delay`` seconds, each next
    after twice the delay, up to a minute. Each delay is shortened at random by up to half, so that many clients do not
    return at once. A delay that the server asks for is kept, up to ten minutes."""

    num_retries: int
    first_delay: float

    def run(self, url: str, action: Callable[[], T], *, proceed: Proceed = go_on) -> T:
        """``action()``, again after each :class:`TransientError`. Raises :class:`DataError` after the last attempt."""
        attempt = 0
        while True:
            proceed()
            try:
                return action()
            except TransientError as failure:
                self.wait(url, attempt, failure, proceed=proceed)
                attempt += 1

    def wait(self, url: str, attempt: int, failure: TransientError, *, proceed: Proceed) -> None:
        """Wait after failure number ``attempt`` in a row, counted from 0. Raises :class:`DataError` if it
        was the last attempt."""
        if attempt >= self.num_retries:
            raise DataError(
                f"{shown_url(url)}: {failure.reason}, {attempt + 1} times in a row. Look at the server and the "
                f"network; num_retries={self.num_retries} and first_delay={self.first_delay:g} say how long to wait."
            ) from None
        delay = min(self.first_delay * 2**attempt, _LONGEST_DELAY) * random.SystemRandom().uniform(0.5, 1.0)
        sleep(max(delay, min(failure.retry_after, _LONGEST_RETRY_AFTER)), proceed=proceed)


def sleep(seconds: float, *, proceed: Proceed) -> None:
    """Sleep, asking ``proceed`` five times a second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        proceed()
        time.sleep(min(left, _POLL_SECONDS))

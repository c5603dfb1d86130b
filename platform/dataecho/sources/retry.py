"""Patience with what passes: waiting longer and longer, in the thread that needs the answer and in no other."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dataecho.errors import DataError, require
from dataecho.sources.urls import shown_url

T = TypeVar("T")

#: Says whether the work may go on: returns when it may, raises when it is to be given up.
Proceed = Callable[[], None]

_LONGEST_DELAY = 60.0
_LONGEST_ASKED_FOR = 600.0
_SLICE = 0.2


def go_on() -> None:
    """The :data:`Proceed` that never stops."""


class Passing(Exception):
    """A failure that may pass; ``met`` says what was met, without secrets; ``retry_after`` seconds were asked for."""

    def __init__(self, met: str, *, retry_after: float = 0.0) -> None:
        super().__init__(met)
        self.met = met
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Patience:
    """``num_retries`` times in a row a failure is followed by another attempt, after ``first_delay`` seconds, then
    twice as many, and so on up to a minute, each shortened at random by up to half, so that many clients do not come
    back at once. A server that names a time is given it, up to ten minutes."""

    num_retries: int = 5
    first_delay: float = 0.5

    def __post_init__(self) -> None:
        require(
            self.num_retries >= 0,
            "num_retries",
            self.num_retries,
            allowed="whole numbers >= 0",
            cure="Use 0 to fail at the first fault.",
        )
        require(
            self.first_delay >= 0, "first_delay", self.first_delay, allowed="seconds >= 0", cure="The default is 0.5."
        )

    def run(self, url: str, action: Callable[[], T], *, proceed: Proceed = go_on) -> T:
        """``action()``, again after each :class:`Passing`. Raises :class:`DataError` when patience ends."""
        attempt = 0
        while True:
            proceed()
            try:
                return action()
            except Passing as passing:
                self.wait(url, attempt, passing, proceed=proceed)
                attempt += 1

    def wait(self, url: str, attempt: int, passing: Passing, *, proceed: Proceed) -> None:
        """Wait after failure number ``attempt`` in a row, counted from 0. Raises :class:`DataError` when patience
        ends."""
        if attempt >= self.num_retries:
            raise DataError(
                f"{shown_url(url)}: {passing.met}, {attempt + 1} times in a row. Look at the server and the network; "
                f"num_retries={self.num_retries} and first_delay={self.first_delay:g} say how long to wait."
            ) from None
        delay = min(self.first_delay * 2**attempt, _LONGEST_DELAY) * random.SystemRandom().uniform(0.5, 1.0)
        sleep(max(delay, min(passing.retry_after, _LONGEST_ASKED_FOR)), proceed=proceed)


def sleep(seconds: float, *, proceed: Proceed) -> None:
    """Sleep, asking ``proceed`` five times a second."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        proceed()
        time.sleep(min(left, _SLICE))

"""Signals are noted, and raised where the loop looks for them; a second request stops at once."""

import signal
import threading

import pytest

from dataecho.training.interruption import Interrupted, Interruption
from tests.training.conftest import Now

BOTH = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_raised_when_looked_for_and_not_before(number):
    with Interruption() as interruption:
        interruption.check()
        signal.raise_signal(number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            interruption.check()
    assert caught.value.signal_number == number


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_a_second_signal_within_a_second_is_the_same_request_and_a_later_one_stops_at_once(first, second):
    now = Now()
    with Interruption(now=now) as interruption:
        signal.raise_signal(first)
        for seconds in (0.0, 0.02, 0.97):
            now.advance(seconds)
            signal.raise_signal(second)
        assert interruption.signal_number == first
        now.advance(0.02)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_what_is_left_of_a_request_when_the_loop_has_ended_does_nothing_and_a_later_one_what_it_did():
    now, seen = Now(), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with Interruption(now=now):
            signal.raise_signal(signal.SIGTERM)
        now.advance(0.5)
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
        now.advance(0.6)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_hangup_that_is_ignored_stays_ignored_as_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            interruption.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_are_restored_however_it_ends():
    before = [signal.getsignal(number) for number in BOTH]
    with Interruption():
        assert all(signal.getsignal(number) not in before for number in BOTH)
    assert [signal.getsignal(number) for number in BOTH] == before
    with pytest.raises(OSError), Interruption():
        raise OSError
    assert [signal.getsignal(number) for number in BOTH] == before


def test_outside_the_main_thread_handlers_are_left_alone():
    before = [signal.getsignal(number) for number in BOTH]
    seen = []

    def work():
        with Interruption():
            seen.extend(signal.getsignal(number) for number in BOTH)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before

"""Signals are noted, and raised where the loop looks for them; the second one stops at once."""

import signal
import threading

import pytest

from dataecho.training.interruption import Interrupted, Interruption

BOTH = [signal.SIGTERM, signal.SIGINT]


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
def test_the_second_signal_stops_at_once(first, second):
    with Interruption():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


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

"""Signals: noted while working, raised at once while waiting; the second one stops at once."""

import signal
import threading

import pytest

from dataecho.training.interruption import Interrupted, Interruption

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_while_working_is_raised_when_looked_for(number):
    with Interruption() as interruption:
        interruption.waiting(True)
        interruption.waiting(False)
        signal.raise_signal(number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            interruption.check()
    assert caught.value.signal_number == number


def test_a_signal_while_working_is_raised_before_the_next_wait():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        interruption.waiting(False)
        with pytest.raises(Interrupted):
            interruption.waiting(True)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_while_waiting_is_raised_at_once(number):
    with Interruption() as interruption:
        interruption.waiting(True)
        with pytest.raises(Interrupted, match=number.name):
            signal.raise_signal(number)


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
@pytest.mark.parametrize("waits", [False, True])
def test_the_second_signal_stops_at_once(first, second, waits):
    with Interruption() as interruption:
        signal.raise_signal(first)
        interruption._waiting = waits
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_nothing_is_raised_without_a_signal():
    with Interruption() as interruption:
        interruption.waiting(True)
        interruption.waiting(False)
        interruption.check()


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
        with Interruption() as interruption:
            interruption.waiting(True)
            seen.extend(signal.getsignal(number) for number in BOTH)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before

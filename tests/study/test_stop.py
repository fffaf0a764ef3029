"""Ctrl-C and SIGTERM end a study, even if Python loses the KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hf_stability.study.stop import signals_noted, signals_wait, stop_if_asked


class LosesIt:
    """Python ignores what is raised in a finaliser."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        sum(range(10))  # the handler runs at one of the next lines


@pytest.fixture
def default_signals():
    """As in a terminal, whatever the tests' own process ignores."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lost_interrupt_comes_again_once(default_signals, number):
    def lose(number):
        LosesIt(number)

    with signals_noted(signal.SIGTERM):
        with signals_noted():  # as `run_study` within the command
            stop_if_asked()
            lose(number)
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()
        stop_if_asked()
        lose(number)
    stop_if_asked()  # the block is over


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once(default_signals, number):
    with pytest.raises(KeyboardInterrupt), signals_noted(signal.SIGTERM):
        os.kill(os.getpid(), number)
        pytest.fail("went on")
    stop_if_asked()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_runs_are_executed_the_first_signal_waits_and_the_second_does_not(default_signals, number):
    with pytest.raises(KeyboardInterrupt), signals_noted(signal.SIGTERM), signals_wait():
        LosesIt(number)
        os.kill(os.getpid(), signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM)  # as a launcher does
        went_on = True
        stop_if_asked()
        pytest.fail("went on")
    assert went_on
    with pytest.raises(KeyboardInterrupt), signals_noted(signal.SIGTERM), signals_wait():
        os.kill(os.getpid(), number)
        went_on = False
        os.kill(os.getpid(), number)
        went_on = True
    assert not went_on
    stop_if_asked()


def test_while_the_study_ends_a_second_signal_interrupts_at_once(default_signals):
    with pytest.raises(KeyboardInterrupt), signals_wait():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            stop_if_asked()
        finally:
            stop_if_asked()  # told once
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                pytest.fail("went on")
    stop_if_asked()


def test_an_error_after_a_signal_is_its_consequence(default_signals):
    with pytest.raises(KeyboardInterrupt), signals_wait():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("connection closed by peer")
    with pytest.raises(RuntimeError), signals_wait():
        raise RuntimeError("its own error")


def test_a_signal_that_waits_interrupts_at_the_blocks_end(default_signals):
    ended = False
    with pytest.raises(KeyboardInterrupt):
        with signals_wait():
            with signals_wait():
                os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        ended = True
    assert not ended
    with pytest.raises(KeyboardInterrupt), signals_noted():  # the default again
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *what: None])
def test_a_signal_that_is_ignored_or_the_users_stays_so(default_signals, handler):
    signal.signal(signal.SIGINT, handler)
    with signals_noted():
        assert signal.getsignal(signal.SIGINT) is handler
        os.kill(os.getpid(), signal.SIGINT)
        stop_if_asked()


def test_another_thread_changes_no_handler_and_is_not_interrupted(default_signals):
    found = []

    def work():
        with signals_noted():
            found.append(signal.getsignal(signal.SIGINT))
            stop_if_asked()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]

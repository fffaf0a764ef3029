"""Where a study ends early: on Ctrl-C and SIGTERM, or because it lost its folder.

A signal raises KeyboardInterrupt at any line of Python. There it can get lost: Python ignores what is raised in a finaliser or in
the callback of a weak reference, and PyTorch has many of those. So the signal is noted too, and the study ends at its next event.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from .owner import stop_if_lost


_signalled = False  # a signal came, and `stop_if_asked` has not raised for it


def stop_if_asked() -> None:
    """End the study here if a signal has come, or if this thread lost its folder.

    An executor calls it with every event, and once a second while it waits.

    Raises:
        KeyboardInterrupt: for a signal, in the main thread.
        BaseException: the folder is lost; `hold_folder` catches it.
    """
    global _signalled
    stop_if_lost()
    if _signalled and threading.current_thread() is threading.main_thread():
        _signalled = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals_noted(*more: signal.Signals) -> Iterator[None]:
    """In this block Ctrl-C, where it raises KeyboardInterrupt at all, is noted for `stop_if_asked`.

    Python handles signals in the main thread alone. In another one nothing is changed.

    Args:
        more: signals that are to raise KeyboardInterrupt too.
    """
    global _signalled
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in more}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, and not the user's own
        before[signal.SIGINT] = signal.default_int_handler
    for number in before:
        signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:  # else an outer block still needs it
            _signalled = False


def _note(signum: int, frame: Any) -> NoReturn:
    global _signalled
    _signalled = True
    raise KeyboardInterrupt

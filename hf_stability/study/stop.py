"""Where a study ends early: on Ctrl-C and SIGTERM, or because it lost its folder.

A signal raises KeyboardInterrupt at any line of Python. Python ignores what is raised in a finaliser or in the callback of a weak
reference, and PyTorch has many of those. In the middle of another library's code it can break that: TensorBoard's writer then
waits for ever. So while runs are executed the signal is only noted, and the study ends at its next event.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from .owner import stop_if_lost


_came: set[int] = set()  # signals so far
_raised: set[int] = set()  # those for which `stop_if_asked` has raised
_waits = 0  # blocks of `signals_wait` around this


def stop_if_asked() -> None:
    """End the study here if a signal has come, or if this thread lost its folder.

    An executor calls it with every event, and once a second while it waits. Training in this process calls it with every batch.

    Raises:
        KeyboardInterrupt: for a signal, in the main thread.
        BaseException: the folder is lost; `hold_folder` catches it.
    """
    stop_if_lost()
    if _came - _raised and threading.current_thread() is threading.main_thread():
        _raised.update(_came)
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals_noted(*more: signal.Signals) -> Iterator[None]:
    """In this block Ctrl-C, where it raises KeyboardInterrupt at all, is noted for `stop_if_asked`.

    Python handles signals in the main thread alone. In another one nothing is changed.

    Args:
        more: signals that are to raise KeyboardInterrupt too.
    """
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
        if before:  # else an outer block still needs them
            _came.clear()
            _raised.clear()


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """In this block the first Ctrl-C, or SIGTERM, waits for `stop_if_asked` or for the block's end. The second one interrupts at once.

    One press of Ctrl-C can come as both signals: a launcher passes it on as SIGTERM. An error after a signal is its consequence:
    another process that trained the same run may have gone.
    """
    global _waits
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with signals_noted():
        _waits += 1
        try:
            yield
        except Exception:
            stop_if_asked()
            raise
        finally:
            _waits -= 1
        stop_if_asked()


def _note(signum: int, frame: Any) -> None:
    first = signum not in _came
    _came.add(signum)
    if not (first and _waits):
        _raised.discard(signum)  # Python may ignore this one
        raise KeyboardInterrupt

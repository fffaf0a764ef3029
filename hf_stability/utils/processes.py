"""Processes of this machine."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether a process with this number runs. A zombie has ended: only its parent has not asked yet how.

    A parent that never asks keeps the zombie for ever: a notebook that started the process, or the first process of a container.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: no process has such a number
        return False
    except psutil.Error:  # another user's
        return True

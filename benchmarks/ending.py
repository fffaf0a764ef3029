"""The end of a benchmark's part: its exit code, and one line for wrong input or an interrupt."""

from __future__ import annotations

import signal
from collections.abc import Callable

from hf_stability.errors import InputError
from hf_stability.study.stop import signals_noted


def exit_code(part: Callable[[], object]) -> int:
    """Run a part. SIGTERM does what Ctrl-C does: runs end at their next event. Returns the exit code."""
    try:
        with signals_noted(signal.SIGTERM):
            part()
    except InputError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("Interrupted. Finished runs are kept; the same command runs the others.")
        return 130
    return 0

"""Catches errors of the diagnostics, so that they never end a training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import InputError


logger = logging.getLogger(__name__)


class Guard:
    """Runs the parts of a callback. A part that raises gives one warning with its name, and is off from then on.

    Attributes:
        off: names of the parts that raised.

    Example:
        ```python
        guard = Guard()
        png = guard.run("the heat map", draw_heat_map, record)  # None if it raised, now or earlier in this training
        ```
    """

    def __init__(self) -> None:
        self.off: set[str] = set()

    def run(self, part: str, function: Callable, *args: Any, default: Any = None, settings: bool = False) -> Any:
        """Run a function.

        Args:
            part: the part's name in the warning, with its article: `the early warning`.
            function: the function to run. KeyboardInterrupt and other exits pass through.
            args: its arguments.
            default: the return value if the function raises, or if its part is off.
            settings: whether an InputError passes through. True before training, for errors in the user's settings.

        Returns:
            `function(*args)`, or `default`.
        """
        if part in self.off:
            return default
        try:
            return function(*args)
        except Exception as error:
            if settings and isinstance(error, InputError):
                raise
            self.off.add(part)
            logger.warning(
                f"{part[0].upper()}{part[1:]} is off for the rest of this training. Training continues. The cause was "
                f"{type(error).__name__}: {error}"
            )
            logger.debug("", exc_info=True)
            return default

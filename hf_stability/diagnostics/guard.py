"""The one place where our own errors end: a training must never be lost over its diagnostics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import InputError


logger = logging.getLogger(__name__)


class Guard:
    """Runs the parts of a callback. A part that raises is warned of once, by its name, and is off from then on.

    ```python
    guard = Guard()
    png = guard.run("the heat map", draw_heat_map, record)  # None where it raised, now or earlier in this training
    ```

    Attributes:
        off: names of the parts that raised.
    """

    def __init__(self) -> None:
        self.off: set[str] = set()

    def run(self, part: str, function: Callable, *args: Any, default: Any = None, settings: bool = False) -> Any:
        """`function(*args)`; `default` where it raises, or where its part is off.

        Args:
            part: the name in the warning, with its article: `the early warning`.
            function: what to run. KeyboardInterrupt and other exits pass through.
            args: its arguments.
            default: what to return instead of a result.
            settings: let an InputError through: the user's own settings are wrong, and training has not begun.
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
                f"{part[0].upper()}{part[1:]} is off for the rest of this training, which goes on: "
                f"{type(error).__name__}: {error}"
            )
            logger.debug("", exc_info=True)
            return default

"""One failed run: what went wrong, and which remedy holds."""

from .report import diagnose


__all__ = ["diagnose"]

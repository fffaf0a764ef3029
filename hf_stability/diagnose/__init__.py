"""One failed run: its likely causes, and which remedy works."""

from .report import diagnose


__all__ = ["diagnose"]

"""The command line: `hf-stability`, and `run_glue_stable.py`, its twin for `accelerate launch`."""

from .commands import main


__all__ = ["main"]

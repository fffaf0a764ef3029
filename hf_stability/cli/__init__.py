"""The command line: `hf-stability`, and `run_glue_stable.py`, its twin for `accelerate launch`.

It parses flags and prints. `hf_stability.study.api` plans and runs a study; `hf_stability.diagnose` examines a failed
run. Each subcommand has its file. `flags.py` has the flags that several of them share; `parser.py` reads them and shows help.
Commands that take no model use `plain_parser.py`, and start at once.
"""

from .command import main


__all__ = ["main"]

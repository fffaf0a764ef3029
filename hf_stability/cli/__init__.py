"""The command line: `hf-stability`, and `run_glue_stable.py`, its twin for `accelerate launch`.

It parses flags and prints: a study is planned and run by [`hf_stability.study.api`], a failed run is looked at by
[`hf_stability.diagnose`]. A file per subcommand; `flags.py` has what several of them take, `parser.py` reads and shows it.
"""

from .command import main


__all__ = ["main"]

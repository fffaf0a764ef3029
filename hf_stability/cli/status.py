"""`hf-stability status`: how far a study is, from another shell."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial

from ..study.live import LiveTable, PlainLines, terminal
from ..study.status import Status, StatusReader, status_lines, status_text
from .plain_parser import PlainParser, Texts, parse, study_folder


TEXTS = Texts(
    "hf-stability status STUDY_FOLDER [--watch] [--json]",
    """How far is a study? Reads its folder alone, so it works from another shell or another machine that sees the folder.
Tells whether the study runs, which runs train, how many have finished, failed or crashed, and the time left.""",
    """
examples:
  hf-stability status results/demo_pair
  # draw it anew every two seconds, until the study ends or you press Ctrl-C
  hf-stability status results/demo_pair --watch
  # for a script
  hf-stability status results/demo_pair --json

It writes nothing and needs no lock. On another machine it waits up to ten seconds for a change of progress.json,
because the clocks of two machines may differ. Studies of earlier versions have no progress.json: then it counts the
finished runs.
""",
)

UNWRAPPED = 10_000
"""Characters per line where standard output is no terminal: scripts search whole lines."""

EVERY = 2.0
"""Seconds between two drawings with `--watch`."""


def main(argv: Sequence[str]) -> int:
    """Print the status of a study, once or until it ends."""
    known = PlainParser("status", TEXTS)
    known.add_argument("study_folder", nargs="?", help="The study's folder, given to it as --output_dir.")
    known.add_argument("--watch", action="store_true", help="Draw the status anew until the study ends, or Ctrl-C.")
    known.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    given = parse(known, argv)
    reader = StatusReader(study_folder("status", given))
    status = _watch(reader) if given.get("watch") else reader.wait()
    if given.get("json"):
        print(json.dumps(status.to_dict(), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNWRAPPED
        print(status_text(status, width))
    return 0


def _watch(reader: StatusReader) -> Status:
    """Show the status until the study does not run any more, or until Ctrl-C; return the last one."""
    console = terminal()
    display = LiveTable(console) if console is not None else PlainLines()
    status = reader.read()
    try:
        while status.state in ("running", "waiting"):
            if isinstance(display, LiveTable):
                display.draw_lines(partial(status_lines, status))
            else:
                display.draw(status.snapshot)
            time.sleep(EVERY)
            status = reader.read()
    except KeyboardInterrupt:
        pass
    finally:
        display.close()
    return status

"""A terminal for tests: a script in a pseudo-terminal, and the screen as its user sees it."""

from __future__ import annotations

import codecs
import multiprocessing
import os
import pty
import re
import runpy
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from fcntl import ioctl

from hf_stability.study.executors.server import PRELOAD


CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Screen:
    """The contents of a terminal: text, the cursor's moves and clearing. Colours are counted, not kept.

    Attributes:
        lines: all lines, those that scrolled away too.
        cursor_shown: whether the cursor can be seen.
        colours: number of sequences that set a colour or a style.
        wrapped: number of lines that were longer than the terminal is wide.
        unknown: other control sequences.
    """

    def __init__(self, width: int):
        self.width, self.lines, self.row, self.column = width, [""], 0, 0
        self.cursor_shown, self.colours, self.wrapped, self.unknown = True, 0, 0, set[str]()

    def write(self, text: str) -> None:
        """Show more output. It must not end within a control sequence."""
        position = 0
        while position < len(text):
            found = CONTROL.match(text, position)
            if found:
                self._control(*found.groups())
                position = found.end()
                continue
            self._put(text[position])
            position += 1

    def _put(self, sign: str) -> None:
        if sign == "\r":
            self.column = 0
        elif sign == "\n":
            self.row += 1
        else:
            if self.column == self.width:
                self.wrapped, self.row, self.column = self.wrapped + 1, self.row + 1, 0
            self._reach()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + sign + line[self.column + 1 :]
            self.column += 1
        self._reach()

    def _reach(self) -> None:
        self.lines += [""] * (self.row + 1 - len(self.lines))

    def _control(self, numbers: str, letter: str) -> None:
        if letter == "m":
            self.colours += numbers not in ("", "0")
        elif letter == "A":
            self.row = max(self.row - int(numbers or 1), 0)
        elif letter == "K":
            self.lines[self.row] = "" if numbers == "2" else self.lines[self.row][: self.column]
        elif letter in "hl" and numbers == "?25":
            self.cursor_shown = letter == "h"
        else:
            self.unknown.add(numbers + letter)

    @property
    def text(self) -> str:
        """All lines, without spaces at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


class Terminal:
    """A Python script in a pseudo-terminal and a session of its own, forked from the server that has the imports.

    Args:
        script: the file, then its words.
        columns, rows: the terminal's size.
        env: variables of the environment.

    Attributes:
        output: everything that it has written.
        process: the script's process.
    """

    def __init__(self, script: Sequence[object], columns: int = 80, rows: int = 24, **env: str):
        self.columns, self.output = columns, ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # a read may end within a character
        self.master, self._slave = pty.openpty()
        ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        words, env = list(map(str, script)), {"TERM": "xterm-256color", **env}
        self.process = context.Process(target=_run, args=(os.ttyname(self._slave), words, env))
        self.process.start()

    def read_until(self, what: Callable[[str], object], seconds: float = 120) -> None:
        """Read until the output fulfils a condition, or the script has ended."""
        deadline = time.monotonic() + seconds
        while not what(self.output):
            assert time.monotonic() < deadline, self.screen().text
            over = not self.process.is_alive()
            ready, _, _ = select.select([self.master], [], [], 0 if over else 0.1)
            if ready:
                self.output += self._decode(os.read(self.master, 65536))
            elif over:
                return

    def end(self, seconds: float = 120) -> int:
        """Read to the script's end; return the exit code."""
        self.read_until(lambda output: False, seconds)
        self.process.join()
        return self.process.exitcode

    def press_ctrl_c(self) -> None:
        """As a terminal does: for all processes in the foreground."""
        os.write(self.master, b"\x03")

    def screen(self) -> Screen:
        """The contents at this moment."""
        screen = Screen(self.columns)
        screen.write(self.output)
        return screen

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        os.close(self.master)
        os.close(self._slave)


def _run(terminal: str, words: list[str], env: dict[str, str]) -> None:
    os.setsid()
    stream = os.open(terminal, os.O_RDWR)
    ioctl(stream, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(stream, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores Ctrl-C
    signal.pthread_sigmask(
        signal.SIG_UNBLOCK, {signal.SIGINT}
    )  # the server blocks it if a test with workers started it
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        os.environ.pop(name, None)
    os.environ.update(env)
    # Python made its streams before they were a terminal.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")

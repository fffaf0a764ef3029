"""A terminal for tests: a program in a pseudo-terminal, and the screen as its user sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from fcntl import ioctl


CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Screen:
    """What a terminal shows: text, the cursor's moves and clearing. Colours are counted, not kept.

    Attributes:
        lines: all lines, those that scrolled away too.
        cursor_shown: whether the cursor can be seen.
        colours: number of sequences that set a colour or a style.
        wrapped: number of lines that were longer than the terminal is wide.
        hidden: other control sequences.
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
    """A program in a pseudo-terminal and a session of its own.

    Args:
        command: its words.
        columns, rows: the terminal's size.
        env: the environment.

    Attributes:
        output: everything that it has written.
    """

    def __init__(self, command: Sequence[str], columns: int = 80, rows: int = 24, env: Mapping[str, str] = os.environ):
        self.columns, self.output = columns, ""
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        unset = ("COLUMNS", "LINES", "NO_COLOR")
        env = {"TERM": "xterm-256color", **{k: v for k, v in env.items() if k not in unset or env is not os.environ}}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, preexec_fn=lambda: _own_terminal(slave)
        )
        os.close(slave)

    def read_until(self, what: Callable[[str], object], seconds: float = 120) -> str:
        """Read until the output fulfils a condition, or the program has ended."""
        deadline = time.monotonic() + seconds
        while not what(self.output):
            assert time.monotonic() < deadline, self.output[-2000:]
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if not ready:
                continue
            try:
                more = os.read(self.master, 65536)
            except OSError:  # the program has closed its end
                break
            if not more:
                break
            self.output += more.decode("utf-8", "replace")
        return self.output

    def end(self, seconds: float = 120) -> int:
        """Read to the end; return the exit code."""
        self.read_until(lambda output: False, seconds)
        return self.process.wait(10)

    def press_ctrl_c(self) -> None:
        """As the terminal sends it: to the whole group in the foreground."""
        os.write(self.master, b"\x03")

    def screen(self) -> Screen:
        """What is shown now."""
        screen = Screen(self.columns)
        screen.write(self.output)
        return screen

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)


def _own_terminal(slave: int) -> None:
    os.setsid()
    ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in a shell's background ignores Ctrl-C

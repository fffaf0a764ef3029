"""One command at a time works in a study's folder: it holds the folder by a lock file.

| file | what |
| --- | --- |
| `owner.lock` | filelock's lease: host, process and its start; touched every `HEARTBEAT` seconds |
| `owner.json` | who that is, for messages and `hf-stability status`: host, process, since when, command |

Both are gone after a regular end. A dead owner holds nothing. If its process ran on this machine, the next command sees that it
has gone and takes the folder at once. On another machine only the heartbeat tells. A command that finds such a lock waits for
the next touch: it is refused at the first one, and takes the folder after `LEASE` seconds of silence, by its own monotonic clock.
So no clock has to agree with another one, and network file systems will do.

Readers (`status`, `restarts`, `two_way`) need no lock: every file is written atomically.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import filelock

from ..errors import FolderLost, InputError
from ..utils.files import write_json
from ..utils.processes import is_running
from ..utils.text import utc_now


LOCK, OWNER = "owner.lock", "owner.json"

HEARTBEAT = 5.0
"""Seconds between two touches of the lock file. A command on another machine is refused after one. A command that lost its
folder knows after two."""

LEASE = 60.0
"""Seconds of silence after which another machine's owner counts as dead. Twelve touches: a server that hangs for a while
costs no one the folder. All commands must agree on it, so a change needs another name for the lock file."""

POLL = 0.2  # seconds


@dataclass(frozen=True)
class Owner:
    """The command that holds a study's folder.

    Args:
        host: its machine.
        process: its process id there.
        since: when it took the folder, `2026-03-01 14:05:09 UTC`; empty if unknown.
        is_running: whether the process runs; None if that cannot be seen from here: on another machine, or in another container.
    """

    host: str
    process: int
    since: str = ""
    is_running: bool | None = None

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        return f"process {self.process} on {self.host}{since}"


class _Stop(BaseException):
    """Ends the study in the thread that holds the folder. Like KeyboardInterrupt it is no error of a run."""


_held = threading.local()  # `watches`: of the folders that a thread holds, the last one first


def read_owner(folder: Path) -> Owner | None:
    """The command that holds a study's folder; None if there is none.

    An owner on another machine may have died without a trace: only a later touch of `owner.lock` shows that it lives.
    """
    owner = _owner(_lease(folder))
    return None if owner is None or owner.is_running is False else owner


def stop_if_lost() -> None:
    """Leave the `with` block of `hold_folder` if this thread has lost its folder. Without such a block nothing happens.

    An executor calls it with every event, and once a second while it waits.
    """
    if any(watch.loss for watch in getattr(_held, "watches", ())):
        raise _Stop


@contextlib.contextmanager
def hold_folder(folder: Path, steal: bool = False, processes: int = 1) -> Iterator[None]:
    """Hold a study's folder, which is made if it is missing.

    Args:
        folder: the study's.
        steal: take the folder from the command that holds it. A former owner that is still alive notices, and stops.
        processes: number of processes that call this together, under `torchrun` or `accelerate launch`. The main one holds the
            folder for all. A refusal is raised in all of them.

    Raises:
        InputError: another command holds the folder, or the lock file cannot be written.
        FolderLost: another command took the folder meanwhile, or it has gone. The `with` block was left at the next call of
            `stop_if_lost`.
    """
    with contextlib.ExitStack() as held:
        refusal = None
        if processes == 1:
            held.enter_context(_hold(folder, steal))
        else:
            from accelerate import PartialState
            from accelerate.utils import broadcast_object_list

            if PartialState().is_main_process:
                try:
                    held.enter_context(_hold(folder, steal))
                except InputError as error:
                    refusal = str(error)
            refusal = broadcast_object_list([refusal])[0]  # or the others would wait for this one for ever
        if refusal is not None:
            raise InputError(refusal)
        yield


@contextlib.contextmanager
def _hold(folder: Path, steal: bool) -> Iterator[None]:
    watch, before = _Watch(folder), getattr(_held, "watches", ())
    lease = _lease(folder, watch.lose)
    record = folder / OWNER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        former = _owner(lease) if steal else None
        if former is not None:
            lease.force_break()
        _acquire(lease, folder)
    except OSError as error:
        raise InputError(
            f"--output_dir {folder}: the lock {LOCK} cannot be written ({error.strerror or error}); make room, or give another "
            "folder"
        ) from None
    _held.watches = (watch, *before)
    try:
        with contextlib.suppress(OSError):  # it is for messages only
            _write_owner(record)
        if former is not None:
            _wait_for_end(former)
        yield
    except BaseException as error:
        if not watch.loss or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
    finally:
        _held.watches = before
        with contextlib.suppress(OSError):  # the folder may have gone
            if not watch.loss:
                record.unlink(missing_ok=True)
            lease.release()
    if watch.loss:
        raise FolderLost(watch.loss)


def _lease(folder: Path, lose: Any = None) -> filelock.SoftFileLease:
    return filelock.SoftFileLease(
        folder / LOCK, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, on_compromise=lose
    )


def _acquire(lease: filelock.SoftFileLease, folder: Path) -> None:
    """Take the folder if nobody holds it. See the top of this file for how long that takes."""
    begin, first, told = time.monotonic(), None, False
    while True:
        with contextlib.suppress(filelock.Timeout):
            try:
                lease.acquire(timeout=0)
                return
            except ValueError:  # an owner with another lease, of another version
                raise _refused(lease, folder) from None
        owner, touched = _owner(lease), _touched(folder / LOCK)
        waited = time.monotonic() - begin
        first = first or touched
        alive = touched not in (None, first)
        if alive or (owner is not None and owner.is_running) or waited > 2 * LEASE:
            raise _refused(lease, folder)
        if first is not None and (waited > LEASE or (owner is not None and owner.is_running is False)):
            _put_away(folder / LOCK, first)
        elif owner is not None and not told:
            told = True
            _tell(f"{folder} is held by {owner}: waiting up to {LEASE:.0f} s for a sign of life")
        time.sleep(POLL)


def _put_away(lock: Path, dead: tuple[int, int]) -> None:
    """Remove a dead owner's lock file.

    filelock does it by swapping two names, so that no other command can come between. Where the file system has no such call
    (NFS), it leaves the file there.
    """
    aside = lock.with_name(f"{LOCK}.{os.getpid()}")
    with contextlib.suppress(OSError):
        os.rename(lock, aside)
        try:
            if _touched(aside) != dead:  # another command was faster: give its lock back
                os.link(aside, lock)
        finally:
            os.unlink(aside)


def _wait_for_end(former: Owner) -> None:
    """Give a former owner that may be alive the time to notice that it lost the folder."""
    if former.is_running is False:
        return
    _tell(f"--steal_lock: taken from {former}; waiting up to {3 * HEARTBEAT:.0f} s for it to stop")
    end = time.monotonic() + 3 * HEARTBEAT
    while time.monotonic() < end and (former.is_running is None or is_running(former.process)):
        time.sleep(POLL)


def _refused(lease: filelock.SoftFileLease, folder: Path) -> InputError:
    owner = _owner(lease)
    return InputError(
        f"--output_dir {folder}: in use by {owner or 'another command'}; wait for it to end, or add --steal_lock if that "
        "command has died"
    )


def _owner(lease: filelock.SoftFileLease) -> Owner | None:
    """The owner as the lock file tells it; `owner.json` tells the rest, if it is of the same process."""
    marker = lease.owner
    if marker is None:
        return None
    host = marker.hostname.partition("?")[0]  # after the question mark: the container's number
    here = marker.hostname == _this_machine()
    owner = Owner(host, marker.pid, is_running=is_running(marker.pid) if here else None)
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        told = json.loads(Path(lease.lock_file).with_name(OWNER).read_text(encoding="utf-8"))
        if (told["host"], told["process"]) == (owner.host, owner.process):
            return replace(owner, since=str(told["since"]))
    return owner


def _write_owner(path: Path) -> None:
    here = {"host": socket.gethostname(), "process": os.getpid(), "since": utc_now(), "command": shlex.join(sys.argv)}
    write_json(path, here)


@cache
def _this_machine() -> str:
    """This machine, and this container on it, as filelock names it in a lock file."""
    with tempfile.TemporaryDirectory() as folder, _lease(Path(folder)) as lease:
        return lease.owner.hostname


def _touched(lock: Path) -> tuple[int, int] | None:
    try:
        with open(lock, "rb") as file:  # NFS asks the server when a file is opened, not for a mere stat
            stat = os.fstat(file.fileno())
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Watch:
    """A held folder, as the heartbeat's thread sees it. `loss` is a sentence once it is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loss = folder, ""

    def lose(self, compromise: filelock.LeaseCompromise) -> None:
        self.loss = self._sentence(compromise)

    def _sentence(self, compromise: filelock.LeaseCompromise) -> str:
        kept = "This command has stopped. Finished runs are kept."
        if compromise.reason == "refresh-failed":
            return f"{self.folder}: the lock {LOCK} could not be renewed ({compromise.error}). {kept}"
        owner = read_owner(self.folder)
        if owner is None:
            return f"{self.folder}: the lock {LOCK} has gone; the folder was moved or deleted. {kept}"
        return f"{self.folder} was taken by {owner}. {kept}"

"""Files and folders that a run needs on another machine: used in place if that machine sees them, otherwise shipped.

A path is in place if it has the same files there: names, sizes, and times of change. A file system that both machines mount
shows these three alike. Everything else is packed once, and unpacked once per machine, in a folder named by its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.processes import is_running


MOVES = 20
"""How often a run tries to move a parcel into its place. Others may move theirs at the same time."""

Stamp = tuple[tuple[str, int, int], ...]
"""The files below a path: name, bytes, time of change in ns. A file's own name is empty."""

Content = dict[str, np.ndarray]
"""The files below a path: name -> its bytes. A file's own name is empty."""


@dataclass(frozen=True)
class Parcel:
    """A path of the driver's machine.

    Args:
        path: absolute.
        stamp: the files there; None hides the path from other machines.
        key: hash of the content; empty until it is packed.
        content: a reference to the packed content in Ray's object store; None until it is packed.
    """

    path: str
    stamp: Stamp | None
    key: str = ""
    content: Any = None


def stamp_of(path: Path) -> Stamp:
    """The files below a path; empty if there is nothing."""
    return tuple((name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in _files(path))


def pack(path: Path) -> Content:
    """Read all files below a path."""
    return {name: np.fromfile(file, np.uint8) for name, file in _files(path)}


def unpack(content: Mapping[str, np.ndarray], path: Path) -> None:
    """Write packed files below a path; a packed file to the path itself."""
    for name, data in content.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        data.tofile(file)


def key_of(content: Mapping[str, np.ndarray]) -> str:
    """The first 32 hexadecimal digits of a SHA-256 over names and bytes."""
    digest = hashlib.sha256()
    for name, data in content.items():
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data.data)
    return digest.hexdigest()[:32]


def in_place(parcel: Parcel) -> bool:
    """Whether this machine sees the same files at the same path."""
    return parcel.stamp is not None and bool(parcel.stamp) and stamp_of(Path(parcel.path)) == parcel.stamp


def place(parcel: Parcel, get: Any) -> Path:
    """The path of the files on this machine. Unpacks them if no run on this machine has done it before.

    Args:
        parcel: packed, or in place.
        get: returns the content of a reference; `ray.get`.
    """
    if in_place(parcel):
        return Path(parcel.path)
    folder = machine_folder() / "parcels" / parcel.key
    path = folder / Path(parcel.path).name
    content = get(parcel.content)
    if not _is_whole(path, content):
        folder.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            unpack(content, temporary / "new" / path.name)
            _move(temporary / "new", folder, temporary, lambda: _is_whole(path, content))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def _move(new: Path, folder: Path, aside: Path, is_whole: Callable[[], bool]) -> None:
    """Move a whole folder into place, unless another run was faster. A folder that is not whole goes to `aside`."""
    for attempt in range(MOVES):
        try:
            os.rename(new, folder)
            return
        except OSError:  # there is one already
            if is_whole():
                return
            if attempt == MOVES - 1:
                raise
        with contextlib.suppress(OSError):  # another run may have moved it
            os.rename(folder, aside / f"old-{attempt}")


def _is_whole(path: Path, content: Content) -> bool:
    """False also for a folder from which something has cleaned old files."""
    try:
        found = [(name, size) for name, size, _ in stamp_of(path)]
    except FileNotFoundError:  # another run is moving it
        return False
    return found == [(name, len(data)) for name, data in content.items()]


@contextlib.contextmanager
def temporary_run_folder() -> Iterator[Path]:
    """A folder of this machine for one run. Folders of processes that were killed are deleted first."""
    runs, host = machine_folder() / "runs", socket.gethostname()
    runs.mkdir(exist_ok=True)
    for left in runs.glob(f"{host}-*"):
        pid = left.name.removeprefix(f"{host}-").partition("-")[0]
        if pid.isdigit() and not is_running(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{host}-{os.getpid()}-", dir=runs))
    try:
        yield folder / "run"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine_folder() -> Path:
    """This user's folder for parcels on this machine, below the folder for temporary files; nobody else can write there."""
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    folder = Path(tempfile.gettempdir()) / f"hf_stability-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; delete it, or set TMPDIR")
    return folder


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [("", path)]
    return [(file.relative_to(path).as_posix(), file) for file in sorted(path.rglob("*")) if file.is_file()]

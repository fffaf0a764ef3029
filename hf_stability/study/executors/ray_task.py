"""One run on a machine of a Ray cluster: what the driver sends, and what comes back."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...utils.files import write_json
from ...utils.text import error_line
from ...version import __version__
from ..job import Job
from .claim import Claim, claim_path
from .event import throttled, write_error
from .parcels import Content, Parcel, in_place, pack, place, temporary_run_folder, unpack


@dataclass(frozen=True)
class Order:
    """A run, as the driver sends it.

    Args:
        job: the run.
        folder: its folder, as the driver names it.
        needs: the job's local paths -> the parcel with the files there.
        driver: the driver's token, see `claim.py`; empty if the folder is hidden from the task.
        working_folder: the driver's, absolute.
        packed: whether all parcels have their content.
        start: a reference to the files of an unfinished run, from which it goes on; None if there are none.
        version: the driver's version of this package.
    """

    job: Job
    folder: str
    needs: dict[str, Parcel]
    driver: str
    working_folder: str
    packed: bool = False
    start: Any = None
    version: str = __version__

    @property
    def full_folder(self) -> Path:
        """The run's folder, absolute."""
        return Path(self.working_folder, self.folder)


@dataclass(frozen=True)
class Answer:
    """How the run ended.

    Args:
        kind: "done", "crashed", or "unseen": this machine does not see the driver's files, and they were not packed.
        run: the record, with "done".
        error: with "crashed".
        files: the run's files, if the task could not write them into the run's folder itself.
    """

    kind: str
    run: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    files: Content | None = None


class Board:
    """A small actor on the driver's machine, to which runs report their progress."""

    def __init__(self) -> None:
        self.news: dict[str, tuple] = {}

    def report(self, name: str, *done: Any) -> None:
        """A run's steps, total, loss and risk."""
        self.news[name] = done

    def read(self) -> dict[str, tuple]:
        """All that was reported since the last call."""
        news, self.news = self.news, {}
        return news


def train_on_node(order: Order, board: Any) -> Answer:
    """Ray's task: train one run.

    Its files go to the run's folder if this machine sees it and to a temporary folder otherwise. An error of the run is
    returned, not raised, because Ray repeats only what dies.
    """
    import ray

    if order.version != __version__:
        where = f"hf_stability {__version__} on {socket.gethostname()}, {order.version} where the study was started"
        return Answer("crashed", error=f"{where}; install the same version on all machines")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if order.job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if order.working_folder not in sys.path:
        sys.path.append(order.working_folder)  # at the end, so that a user's `datasets.py` hides nothing
    sees_folder = bool(order.driver) and claim_path(order.full_folder).is_file()
    if not order.packed and not (sees_folder and all(map(in_place, order.needs.values()))):
        return Answer("unseen")
    try:
        job = _job_here(order, {path: str(place(parcel, ray.get)) for path, parcel in order.needs.items()})
        if sees_folder:
            with Claim(order.full_folder, order.driver):
                return _train(order, job, order.full_folder, _reporter(order, board))
        with temporary_run_folder() as folder:
            if order.start is not None:
                unpack(ray.get(order.start), folder)
            answer = _train(order, job, folder, _reporter(order, board))
            return replace(answer, files=pack(folder))
    except (InputError, OSError) as error:  # files could not be placed, packed, or claimed
        return Answer("crashed", error=error_line(error, kind=True))


def _job_here(order: Order, paths: dict[str, str]) -> Job:
    """The job with the paths of this machine."""
    job = order.job
    methods = []
    for name in job.methods:
        module, _, cls = name.rpartition(":")
        methods.append(f"{paths[module]}:{cls}" if module in paths else name)
    here = {name: paths.get(getattr(job, name), getattr(job, name)) for name in ("model", "tokenizer", "data_folder")}
    return replace(job, methods=tuple(methods), **here)


def _train(order: Order, job: Job, folder: Path, report: Callable[..., None]) -> Answer:
    from ..run import run_job

    try:
        run = run_job(job, folder, report)
    except Exception as error:
        answer = Answer("crashed", error=write_error(folder, error))
    else:
        answer = Answer("done", run=run.to_dict())
    _name_as_planned(order, folder)
    gc.collect()  # the next run may be in this process, and a Trainer is part of reference cycles
    return answer


def _name_as_planned(order: Order, folder: Path) -> None:
    """Let the run's `config.json` name the driver's paths, as if the run had been executed there."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["job"] = order.job.to_dict()
        for name, value in config["args"].items():
            if isinstance(value, str) and value.startswith(str(folder)):
                config["args"][name] = order.folder + value.removeprefix(str(folder))
        write_json(path, config)
    except (OSError, ValueError, KeyError):  # it crashed before it wrote this file
        return


def _reporter(order: Order, board: Any) -> Callable[..., None]:
    """A function that reports progress, but not after every update step. A lost board loses nothing else."""
    return throttled(lambda *done: board.report.remote(order.job.name, *done))

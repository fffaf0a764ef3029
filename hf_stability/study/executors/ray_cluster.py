"""Runs jobs on a Ray cluster, one task per job. `docs/cluster.md` describes it for users."""

from __future__ import annotations

import contextlib
import inspect
import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...methods import load_method
from ...utils.text import error_line
from ..checkpoints import unfinished_job_id
from ..job import Job
from ..records import LOOK, RunRecord, read_run
from ..stop import stop_if_asked
from .claim import close_claim, open_claim
from .event import Event, Listen, ending
from .parcels import Content, Parcel, key_of, pack, stamp_of, unpack
from .ray_connection import check_room, connected, resources
from .ray_task import Answer, Board, Order, train_on_node
from .seen import wait_for_record


POLL_S = 0.3
"""Seconds between two looks at the board."""

LOST_RETRIES = 3
"""How often Ray runs a job again after its process or its machine died."""

CANCEL_S = 10
"""Seconds in which cancelled tasks must end."""

LAST_FILES = ("config.json", LOOK, "run.json")
"""Written last, in this order. Without `config.json` a run starts again from the beginning; with `run.json` it is whole."""


def execute_on_ray(
    jobs: Sequence[Job],
    folders: Sequence[Path],
    listen: Listen,
    workers: int = 0,
    address: str | None = None,
    runs_per_gpu: int = 1,
    hidden: bool = False,
) -> None:
    """Run the jobs on a Ray cluster.

    A task writes into the run's folder if its machine sees this folder. Otherwise it gets the data, the model and the user's
    methods through Ray's object store, and its files come back the same way. Ray repeats a run if its process or its
    machine dies. If the task sees the folder, the run continues from its checkpoint.

    On any exception, Ctrl-C too, all tasks are cancelled.

    Args:
        jobs, folders, listen: see `event.py`.
        workers: number of runs at a time; 0: as many as the cluster has room for.
        address: the cluster's; None starts Ray on this machine. Ignored if this process has joined a cluster.
        runs_per_gpu: number of runs that share a GPU.
        hidden: treat all paths as hidden from the tasks. Tests need this, where all nodes are on one machine.

    Raises:
        InputError: there is no cluster at the address, or it has no room for the jobs.
    """
    import ray

    with connected(address):
        check_room(jobs, runs_per_gpu, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        tasks = _Tasks(listen, runs_per_gpu, hidden)
        try:
            tasks.run(list(zip(jobs, folders, strict=True)), workers)
        finally:
            tasks.end()


class _Tasks:
    """The tasks of one call, as the driver sees them.

    Attributes:
        running: reference of a task's answer -> job, folder, what was sent.
        waiting: jobs and folders to submit, the next one last.
        pack: whether paths must be packed, because some machine does not see them.
    """

    def __init__(self, listen: Listen, runs_per_gpu: int, hidden: bool):
        import ray

        self.listen, self.runs_per_gpu, self.hidden = listen, runs_per_gpu, hidden
        self.pack = hidden
        self.driver = "" if hidden else uuid.uuid4().hex
        self.parcels: dict[str, Parcel] = {}
        self.running: dict[Any, tuple[Job, Path, Order]] = {}
        self.waiting: list[tuple[Job, Path]] = []
        self.claimed: list[Path] = []
        self.board: Any = ray.remote(Board).options(num_cpus=0, max_restarts=-1, **_on_this_node()).remote()
        self.news: Any = None

    def run(self, jobs: list[tuple[Job, Path]], workers: int) -> None:
        import ray

        self.waiting = jobs[::-1]
        self._claim([folder for _, folder in jobs])
        while self.waiting or self.running:
            while self.waiting and len(self.running) < (workers or self._limit()):
                self._submit(*self.waiting.pop())
            for answer in ray.wait(list(self.running), timeout=POLL_S)[0]:
                self._collect(answer)
            self._tell_progress()
            stop_if_asked()

    def end(self) -> None:
        """Cancel what still runs, and leave nothing behind."""
        import ray

        left = list(self.running)
        for answer in left:
            with contextlib.suppress(Exception):
                ray.cancel(answer, force=True)
        for folder in self.claimed:
            with contextlib.suppress(OSError):
                close_claim(folder)  # should a task survive, it ends itself
        with contextlib.suppress(Exception):
            if left:
                ray.wait(left, num_returns=len(left), timeout=CANCEL_S)
            ray.kill(self.board)

    def _claim(self, folders: list[Path]) -> None:
        if self.hidden:
            return
        self.claimed = folders
        for folder in folders:
            open_claim(folder.absolute(), self.driver)

    def _limit(self) -> int:
        """How many tasks to submit: all, so that the cluster may grow; but few if each carries files."""
        import ray

        if not self.pack:
            return len(self.running) + 1
        return 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _submit(self, job: Job, folder: Path) -> None:
        import ray

        order = self._order(job, folder)
        asked = resources(job.threads, job.device, self.runs_per_gpu)
        task = ray.remote(train_on_node).options(max_retries=LOST_RETRIES, name=job.name, **asked)
        self.running[task.remote(order, self.board)] = (job, folder, order)

    def _order(self, job: Job, folder: Path) -> Order:
        import ray

        needs = {name: self._parcel(path) for name, path in _local_paths(job).items()}
        order = Order(job, str(folder), needs, self.driver, os.getcwd(), packed=self.pack)
        if self.pack and _is_unfinished(job, folder):
            order = replace(order, start=ray.put(pack(folder)))
        return order

    def _parcel(self, path: Path) -> Parcel:
        """The parcel of an absolute path, packed if needed. Each is packed once."""
        import ray

        name, stamp = str(path), stamp_of(path)
        known = self.parcels.get(name)
        if known is None or known.stamp not in (stamp, None) or (self.pack and not known.key):
            known = Parcel(name, None if self.hidden else stamp)
            if self.pack:
                content = pack(path)
                known = replace(known, key=key_of(content), content=ray.put(content))
            self.parcels[name] = known
        return known

    def _collect(self, reference: Any) -> None:
        """A task has ended: write what it brings, and tell the listener."""
        import ray

        job, folder, order = self.running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            answer = Answer("crashed", error=_one_line(error))
        if answer.kind == "unseen":
            self.pack = True
            self.waiting.append((job, folder))
            return
        try:
            if answer.files is not None:
                receive(answer.files, folder)
            elif answer.kind == "done":
                wait_for_record(job, folder)
        except OSError as error:  # a full disk
            answer = Answer("crashed", error=error_line(error, kind=True))
        if order.driver:
            close_claim(folder)
        if answer.kind == "crashed":
            self.listen(Event(job, "crashed", error=answer.error))
        else:
            self.listen(Event(job, ending(job), run=RunRecord(**answer.run)))

    def _tell_progress(self) -> None:
        """Tell the listener what is on the board, without waiting for it."""
        import ray

        if self.news is None:
            self.news = self.board.read.remote()
        if not ray.wait([self.news], timeout=0)[0]:
            return
        news, self.news = self.news, None
        running = {job.name: job for job, _, _ in self.running.values()}
        with contextlib.suppress(ray.exceptions.RayError):  # its machine is lost, or it starts again
            for name, done in ray.get(news).items():
                if name in running:
                    self.listen(Event(running[name], "progress", *done))


def receive(files: Content, folder: Path) -> None:
    """Write a run's files into its folder, in place of what is there. An interruption leaves a run that is run again."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    last = [name for name in LAST_FILES if name in files]
    unpack({name: data for name, data in files.items() if name not in last}, folder)
    for name in last:
        unpack({f"{name}.new": files[name]}, folder)
        os.replace(folder / f"{name}.new", folder / name)


def _local_paths(job: Job) -> dict[str, Path]:
    """The local files and folders that a job needs, under the names that it has for them."""
    names = [name for name in (job.data_folder, job.model, job.tokenizer) if name and Path(name).is_dir()]
    paths = {name: Path(name).absolute() for name in names}
    for method in job.methods:
        module = method.rpartition(":")[0]
        if module.endswith(".py") or "." not in module:  # a package's module must be installed everywhere
            paths[module] = Path(inspect.getfile(load_method(method))).absolute()
    return paths


def _is_unfinished(job: Job, folder: Path) -> bool:
    """Whether an earlier call has left something from which the run can go on."""
    same = unfinished_job_id(folder) == job.id
    return same and read_run(folder) is None and ((folder / LOOK).is_file() or any(folder.glob("checkpoint-*")))


def _on_this_node() -> dict[str, Any]:
    """Options that put an actor on the driver's machine, if that is a node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def _one_line(error: Exception) -> str:
    """Why Ray gave up a task. An error inside of it is at the end of its traceback."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return (str(error).strip().splitlines() or [""])[-1].strip()
    return f"the run was lost {LOST_RETRIES + 1} times: {error_line(error, kind=True, first=True)}"

"""The fork server that worker processes come from: what it imports, and its start. This module imports nothing heavy itself."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ...errors import InputError
from ...utils.launcher import place


# Modules that the server imports once for all workers. Python ignores a misspelt name in silence; a test checks them.
PRELOAD = [
    "transformers.trainer",  # saves 3-7 s per job
    "hf_stability.study.run",
    "datasets",  # from here on, together 1.3 s per job
    "evaluate",
    "sklearn.metrics",
    "torch.utils.tensorboard",
    "tensorboard.plugins.hparams.api_pb2",
    "matplotlib.figure",  # for gradients.png
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "transformers.models.bert.modeling_bert",
]

KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=268435456"
"""Settings of glibc (bytes): a process keeps the memory of freed tensors for the next ones. By default it returns those of 32 MB
and more to the system at once, and gets them back page by page. The gradient of an embedding is such a tensor, at each step."""

SWITCH = "HF_STABILITY_KEEP_MEMORY"
"""The environment variable that turns `KEEP_MEMORY` off: 0. Default: 1."""


_turn = threading.Lock()


def start_method() -> str:
    """How worker processes start on this system: "forkserver" on Linux, "spawn" elsewhere.

    Windows has no fork server. On macOS, system libraries may crash in a process that was forked after they were loaded.
    """
    return "forkserver" if sys.platform == "linux" else "spawn"


@contextlib.contextmanager
def early_server() -> Iterator[None]:
    """Start the server now, so that it imports while this process does the same. It ends with the block.

    Nothing is started on a single core, under a launcher, or if this process has its imports already.
    """
    if not _pays():
        yield
        return
    import multiprocessing.forkserver

    prepare_server(multiprocessing)
    with server_environment():
        multiprocessing.forkserver.ensure_running()
    try:
        yield
    finally:  # an error may come while it still imports: then it would outlive this process
        _end_server()


def _pays() -> bool:
    return (
        start_method() == "forkserver"
        and "torch" not in sys.modules
        and len(os.sched_getaffinity(0)) > 1
        and place().size == 1
    )


def _end_server() -> None:
    from multiprocessing import forkserver

    module: Any = forkserver
    server = module._forkserver
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


def prepare_server(context: Any) -> None:
    """Tell a context of `multiprocessing` what its fork server has to import."""
    # An import may ask CUDA whether there is a GPU. That would make CUDA unusable in the server's forks; NVML does not.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    context.set_forkserver_preload(PRELOAD)


def prepare_worker(offline: bool) -> None:
    """Prepare a new worker.

    - The study may have found the model hub out of reach (`offline`) after the server had imported its libraries.
    - The modules that the server imported are never garbage. Each collection would look through them for 0.1 s.
    - tqdm's lock is one of threads. By default it is a semaphore too, which a worker that is ended would leave behind.
    """
    from huggingface_hub import constants
    from tqdm import tqdm

    constants.HF_HUB_OFFLINE = offline
    gc.freeze()
    tqdm.set_lock(threading.RLock())


@contextlib.contextmanager
def server_environment() -> Iterator[None]:
    """Inside, processes start as the server needs it.

    - They do not import a user's `evaluate.py` or `datasets.py` in the working folder (from Python 3.11 on).
    - They keep freed memory, see `keep_memory`.
    - A Ctrl-C does not reach them. It goes to the whole group, and would print a traceback for each process. This thread takes
      no Ctrl-C before the end of the block, but another one may. Windows has no such mask.

    One thread at a time.
    """
    with _turn, _environment(PYTHONSAFEPATH="1", **keep_memory()), _no_interrupt():
        yield


def keep_memory() -> dict[str, str]:
    """The environment variables with which a new process keeps freed memory. They change the time of a run, and no bit of it.

    A user's own settings of malloc (`MALLOC_...`, or `glibc.malloc...` in `GLIBC_TUNABLES`) win: then there are none. Another
    allocator in `LD_PRELOAD` never reads them, nor does a system without glibc.

    Raises:
        InputError: `HF_STABILITY_KEEP_MEMORY` is neither 0 nor 1.
    """
    switch, tunables = os.environ.get(SWITCH, "1"), os.environ.get("GLIBC_TUNABLES", "")
    if switch not in ("0", "1"):
        raise InputError(f"{SWITCH}={switch}: give 0 or 1 (workers keep freed memory)")
    own = "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)
    return {} if own or switch == "0" else {"GLIBC_TUNABLES": ":".join(filter(None, [tunables, KEEP_MEMORY]))}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

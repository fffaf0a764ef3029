"""A user's own method that breaks a run, as `FILE.py:Faulty`. Tests copy this file beside their study and write the fault.

The file `fault` beside the copy has a fault's name and a seed. The first run with this seed takes the file away and breaks;
with `again` after them, every run breaks. The method changes no result.
"""

import os
import signal
import time
from pathlib import Path

import torch

from hf_stability.methods import Method


FAULT = Path(__file__).with_name("fault")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def in_step():
    kill()


def while_saving():
    """Half of the checkpoint's last file but one, `optimizer.pt`, is written."""
    save = torch.save

    def half(content, file, *rest, **options):
        save(content, file, *rest, **options)
        if str(file).endswith("optimizer.pt"):
            os.truncate(file, os.path.getsize(file) // 2)
            kill()

    torch.save = half


def while_writing(name):
    """The temporary file is written, and not yet in its place."""
    replace = os.replace

    def killed(source, target):
        if os.fspath(target).endswith(name):
            kill()
        replace(source, target)

    os.replace = killed


def out_of_memory():
    torch.empty(1 << 46)


def error():
    raise RuntimeError("a bug\nin two lines")


def wait():
    time.sleep(600)


def interrupt():
    raise KeyboardInterrupt


def full_disk(size=300):
    """No file of this process may grow beyond some bytes, as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


FAULTS = {
    "in_step": in_step,
    "while_saving": while_saving,
    "while_writing_its_record": lambda: while_writing("run.json"),
    "while_writing_its_look": lambda: while_writing("look.json"),
    "out_of_memory": out_of_memory,
    "error": error,
    "full_disk": full_disk,
    "nearly_full_disk": lambda: full_disk(800),  # there is room for the record, which is written last
    "interrupt": interrupt,
    "wait": wait,
}


class Faulty(Method):
    """Breaks the run in its fourth update step, before it is made."""

    def begin_training(self, model, trainer):
        self.seed = trainer.args.seed

    def before_step(self, optimizer, steps_done):
        if steps_done != 3 or not FAULT.exists():
            return
        name, seed, *again = FAULT.read_text().split()
        if int(seed) != self.seed:
            return
        if not again:
            FAULT.unlink()
        FAULTS[name]()

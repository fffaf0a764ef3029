"""A study's progress on the terminal: a bar, and a line above it for each finished run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tqdm.auto import tqdm

from ..utils.batches import total_batch_size
from .executors.event import Event
from .job import Job
from .policies.early_stopping import look_sentence


class Progress:
    """The progress bar of a study, in shares of its work, with a line above it for each finished run."""

    def __init__(
        self,
        jobs: Sequence[Job],
        found: int,
        quiet: bool,
        say: Callable[[str], None] | None = None,
        kind: str = "run",
    ):
        self.quiet, self.custom_say, self.kind = quiet, say, kind
        self.found, self.done, self.runs = found, found, found + len(jobs)
        work = {job.name: _work(job) for job in jobs}
        self.shares = {name: amount / sum(work.values()) for name, amount in work.items()}
        self.fractions = dict.fromkeys(self.shares, 0.0)
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
        self.bar = tqdm(total=1.0, disable=quiet or not jobs, desc=self._count(), bar_format=form, file=sys.stderr)

    def __enter__(self) -> Progress:
        if self.found:
            self.say(f"{self.found} finished {self.kind}{'s' * (self.found > 1)} found, kept")
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()

    def _count(self) -> str:
        return f"{self.done} of {self.runs} {self.kind}s"

    def say(self, line: str) -> None:
        if self.quiet:
            return
        if self.custom_say is not None:
            self.custom_say(line)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                print(line, flush=True)

    def show(self, event: Event) -> None:
        """Move the bar; print a line if a run has ended."""
        name = event.job.name
        if event.kind == "progress":
            self.fractions[name] = event.steps / max(event.total, 1)
            self._move()
        elif event.kind == "again":
            self.fractions[name] = 0.0
            self.say(f"{name}: crashed: {event.error}; it will be run again")
        elif event.kind == "looked":
            self.say(f"{name}: at its look, {look_sentence(event.run)}")
        else:
            sentence = event.run.sentence if event.run else f"crashed: {event.error}"
            self.end(name, sentence, "stage " if event.job.is_stage else "")

    def end(self, name: str, sentence: str, what: str = "") -> None:
        """Count a run as done, and print how it ended."""
        self.fractions[name] = 1.0
        self.done += 1
        self.say(f"{what}{name}: {sentence}")
        self.bar.set_description_str(self._count(), refresh=False)
        self._move()

    def _move(self) -> None:
        share = sum(self.shares[job] * fraction for job, fraction in self.fractions.items())
        self.bar.update(min(share, 1.0) - self.bar.n)


def _work(job: Job) -> float:
    """A job's amount of work, relative to other jobs: update steps, or epochs / batch size if epochs are given."""
    if job.args.get("max_steps", -1) > 0:
        return job.args["max_steps"]
    return job.args.get("num_train_epochs", 3.0) / total_batch_size(job.args, job.processes)

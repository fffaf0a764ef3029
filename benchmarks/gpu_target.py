"""A target for the first GPU: failed runs of bert-large and roberta-large here, beside those that Du & Nguyen published.

    python benchmarks/gpu_target.py plan                      # runs, and minutes on one GPU as soon as a run was timed
    GLUE_DIR=glue python benchmarks/gpu_target.py run         # at most 9 minutes; repeat it until nothing is left
    python benchmarks/gpu_target.py report                    # our failed share beside theirs, from the finished runs

A call starts no run that it does not expect to finish. At its end it stops the runs that were late after all. Finished runs are
kept. A run that needs more than a whole call saves checkpoints, and the next call continues it.

Du & Nguyen, "Measuring the Instability of Fine-Tuning" (ACL 2023, arXiv 2302.07778), made runs fail on purpose by a higher
learning rate, with bias correction on. Their code is github.com/nlpsoc/instability_measurement at commit 6449000:

| setting | value | where |
| --- | --- | --- |
| models, learning rates | bert-large-uncased 5e-5, roberta-large 3e-5 | train_model.sh, "produce failed runs" |
| tasks, seeds | RTE, MRPC, CoLA; 0 to 19 | train_model.sh |
| batch, length | 16; at most 128 tokens, each batch padded to its longest | ft_save_model.py, data_loader.py |
| epochs | 1, see below | ft_save_model.py, `--num_train_epochs` |
| schedule | linear warmup over 10% of the update steps, linear decay to 0 | ft_save_model.py, model_utils.py |
| optimizer | AdamW of transformers 4.14.1 with its defaults: betas 0.9 and 0.999, eps 1e-6, bias correction | model_utils.py, README |
| weight decay | 0.01, not for biases and LayerNorm weights | ft_save_model.py, model_utils.py |
| clipping | 1.0 | ft_save_model.py |
| precision | float32 | ft_save_model.py has no mixed precision |
| failed seeds | `FAILED` | analyze_measures.ipynb, "Successful vs. failed runs" |

Not certain:

- Epochs. train_model.sh sets none, and the default is 1. With one epoch and one evaluation, the final model would also be the
  best one. The README counts 480 runs and 600 models, because the final models are kept beside the best ones. So the published
  runs may be longer. `train` has 5 as its own default, which the command never uses. Give another number by `--epochs`.
- When a run counts as failed. The notebook lists the seeds, and prints the accuracy of the majority class beside them, but has no
  rule. Here a run failed if its accuracy at the end is at or below the majority class, or if it diverged.
- The GPU. On Ampere and later ones, their PyTorch 1.10.1 multiplied float32 matrices in TF32 by default. Here that is off.

Different here:

- They scored one random half of the development set. Here it is the whole set.
- Initialisation, data order and dropout have a random stream each. So seed 3 here is not their seed 3. Only the shares are
  comparable, and no agreement by seed is expected.
- Warmup takes the next whole update step (RTE: 16 steps instead of 15.6). Weights decay before the step instead of after it, see
  recipes/mosbach2021_released.yaml.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
import torch

from benchmarks.timing import machine
from hf_stability import plan_study
from hf_stability.errors import InputError
from hf_stability.statistics.shares import fisher_exact_p, wilson_interval
from hf_stability.study.folder import read_runs
from hf_stability.study.pretrained import load_config
from hf_stability.study.records import RunRecord
from hf_stability.tasks.glue import OFFICIAL_COUNTS
from hf_stability.tasks.load import load_task_data
from hf_stability.utils.files import write_json, write_text
from hf_stability.utils.text import decimal, error_line, markdown_table, p_text
from hf_stability.verdicts.verdict import NOT_OK


BERT, ROBERTA = "bert-large-uncased", "roberta-large"
RATES = {BERT: 5e-5, ROBERTA: 3e-5}
TASKS = ("rte", "mrpc", "cola")
SEEDS = tuple(range(20))
FAILED: dict[tuple[str, str], tuple[int, ...]] = {
    (BERT, "rte"): (0, 2, 5, 7, 8, 9, 11, 14, 15, 17),
    (BERT, "mrpc"): (0, 1, 6, 8, 9, 10, 11, 12, 15, 18, 19),
    (BERT, "cola"): (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 14, 16),
    (ROBERTA, "rte"): (0, 2, 5, 9, 11, 13, 15, 16, 17, 18, 19),
    (ROBERTA, "mrpc"): (1, 3, 6, 11, 13, 15, 19),
    (ROBERTA, "cola"): (0, 3, 5, 7, 9, 13, 15, 17, 19),
}
"""(model, task) -> their seeds that failed. Source: their analyze_measures.ipynb, the variable run_type_dict."""

BATCH = 16
RECIPE = """# The failing runs of Du & Nguyen (ACL 2023, arXiv 2302.07778); benchmarks/gpu_target.py has the source of each value.
extends: mosbach2021_released  # AdamW with eps outside the correction, as in transformers 4.14.1; dropout 0.1
args:
  learning_rate: {rate}
  num_train_epochs: {epochs}
  total_train_batch_size: 16
  lr_scheduler_type: linear
  warmup_steps: 0.1
  adam_beta1: 0.9
  adam_beta2: 0.999
  adam_epsilon: 1e-6
  weight_decay: 0.01
  max_grad_norm: 1.0
"""
MARGIN = 1.2
"""A run may take this much longer than the runs before it."""
START = 20.0
"""Seconds for the start of the worker processes, and for the tables at the end."""

Cell = tuple[str, str]
"""A model and a task."""


# ---- what is there, and what fits into a call -------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A finished run, and how long it took.

    Args:
        record: the run.
        seconds: wall clock, with the start of the run and its evaluation.
    """

    record: RunRecord
    seconds: float


def study_folder(options: argparse.Namespace, cell: Cell) -> Path:
    """The folder of a cell's study."""
    return options.output_dir / f"epochs-{options.epochs}" / cell[0] / cell[1]


def finished(options: argparse.Namespace, cell: Cell) -> dict[int, Timed]:
    """Seed -> its finished run."""
    folder = study_folder(options, cell)
    found = {}
    for record in read_runs(folder):
        times = json.loads((folder / "runs" / record.name / "times.json").read_text(encoding="utf-8"))
        found[record.seed] = Timed(record, times["wall"])
    return {seed: run for seed, run in sorted(found.items()) if seed in SEEDS[: options.seeds]}


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The chosen models and tasks, in this order."""
    return [(model, task) for model in options.models for task in options.tasks]


def update_steps(task: str, epochs: int) -> int:
    """Update steps of a run on the whole training set."""
    return epochs * math.ceil(OFFICIAL_COUNTS[task]["train"] / BATCH)


def seconds_of_a_run(cell: Cell, runs: dict[Cell, dict[int, Timed]], epochs: int) -> float | None:
    """Expected seconds of a run; None if no run was timed yet.

    The median of the cell's own runs. Without any: its update steps, at the slowest speed of the same model's runs, else of all.
    """
    own = [run.seconds for run in runs.get(cell, {}).values()]
    if own:
        return statistics.median(own)
    others = {other: list(found.values()) for other, found in runs.items() if found}
    same = {other: found for other, found in others.items() if other[0] == cell[0]} or others
    slowest = max((run.seconds / max(1, run.record.steps) for found in same.values() for run in found), default=None)
    return None if slowest is None else slowest * update_steps(cell[1], epochs)


def needs_a_whole_call(seconds: float | None, whole: float) -> bool:
    """Whether a run is not expected to finish in a call of so many seconds."""
    return seconds is not None and START + MARGIN * seconds > whole


def how_many(left: int, at_a_time: int, seconds: float | None, remaining: float, whole: float) -> int:
    """Number of runs to start now.

    Args:
        left: runs of the cell that are not finished.
        at_a_time: runs that share the GPUs.
        seconds: of a run, expected; None if no run was timed yet.
        remaining: seconds of this call that are left.
        whole: seconds of a call.
    """
    if seconds is None or needs_a_whole_call(seconds, whole):
        return min(left, at_a_time)  # the first runs are timed; too long ones continue in the next call
    return min(left, at_a_time * max(0, int((remaining - START) / (MARGIN * seconds))))


# ---- the runs ---------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Part `run`: run what is missing, as far as the time allows. Returns the exit code."""
    code, whole, began = 0, 60 * options.minutes, time.monotonic()
    lines = refusals(options)
    if lines:
        print("\n".join(lines), file=sys.stderr)
        return 2
    rang: list[bool] = []
    try:
        with interrupt_after(max(1.0, began + whole - time.monotonic()), rang):
            for cell in cells_of(options):
                if not run_cell(options, cell, whole, began + whole):
                    break
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Time is up: unfinished runs were stopped." if rang else "Interrupted. Finished runs are kept.")
        code = 0 if rang else 130
    report(options)
    print(left_text(options))
    return code


def run_cell(options: argparse.Namespace, cell: Cell, whole: float, deadline: float) -> bool:
    """Run what is missing of a cell. Returns False if the time does not suffice.

    Args:
        whole: seconds of a call.
        deadline: end of this call, on the monotonic clock.

    Raises:
        InputError: a run crashed, or nothing can be run.
    """
    plan: Any = None
    while True:
        done = {other: finished(options, other) for other in cells_of(options)}
        left = [seed for seed in SEEDS[: options.seeds] if seed not in done[cell]]
        if not left:
            return True
        seconds = seconds_of_a_run(cell, done, options.epochs)
        if plan is None:
            stopped = not done[cell] and any(study_folder(options, cell).glob("runs/*/*/config.json"))
            plan = planned(options, cell, left, saves=stopped or needs_a_whole_call(seconds, whole))
            for sentence in plan.doubts:
                print(sentence)
        at_a_time = max(1, plan.execution.workers)
        number = how_many(len(left), at_a_time, seconds, deadline - time.monotonic(), whole)
        if not number:
            return False
        print(f"{cell[0]} on {cell[1]}: {number} of {len(left)} runs that are left ...", flush=True)
        jobs = [job for job in plan.jobs if job.seed in left[:number]]
        folder = study_folder(options, cell)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "machine.json", {**machine(), **gpu(), "at_a_time": at_a_time})
        made = replace(plan, jobs=jobs).run(say=say_line).runs
        crashed = [one for one in made if one.status == "crashed"]
        if crashed:
            raise InputError(f"{folder}: {crashed[0].name} {crashed[0].sentence}")


def say_line(text: str) -> None:
    """Print a study's lines about runs, but not its tables: the report has its own."""
    if "\n" not in text:
        print(text, flush=True)


def planned(options: argparse.Namespace, cell: Cell, seeds: Sequence[int], saves: bool) -> Any:
    """The study of a cell.

    Args:
        saves: save a checkpoint after each tenth of a run, also where that takes much of the time.
    """
    model, task = cell
    recipe = study_folder(options, cell).parent / "du_nguyen2023.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    write_text(recipe, RECIPE.format(rate=RATES[model], epochs=options.epochs))
    on_cpu = {"use_cpu": True} if options.device == "cpu" else {"runs_per_gpu": options.runs_per_gpu}
    return plan_study(
        task_name=task,
        data_dir=options.data_dir,
        model_name_or_path=weights_of(options, model),
        recipes=str(recipe),
        seeds=list(seeds),
        workers=options.workers,
        output_dir=study_folder(options, cell),
        **on_cpu,
        **({"save_steps": 0.1} if saves else {}),
    )


@contextlib.contextmanager
def interrupt_after(seconds: float, rang: list[bool]) -> Iterator[None]:
    """Do in this block, after so many seconds, what Ctrl-C does. Systems without alarms have no limit.

    Args:
        rang: gets an entry when the time is up.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        rang.append(True)
        signal.raise_signal(signal.SIGINT)  # a study notes it, and ends at its next event

    before = signal.signal(signal.SIGALRM, ring)
    ctrl_c = signal.getsignal(signal.SIGINT)
    if ctrl_c is signal.SIG_IGN:  # a shell's background processes ignore it; the limit holds there too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, ctrl_c)


def weights_of(options: argparse.Namespace, model: str) -> str:
    """The model's folder in --model_dir, or its name on the hub."""
    return model if options.model_dir is None else str(options.model_dir / model)


def refusals(options: argparse.Namespace) -> list[str]:
    """A line for each thing that the runs need and that is not here, with the way out."""
    lines = []
    if options.device == "cuda" and not torch.cuda.is_available():
        lines.append(
            "no GPU: PyTorch finds none here; run this on a machine with one, or try small models by --device cpu --model_dir DIR"
        )
    for model in options.models:
        try:
            load_config(weights_of(options, model))
        except InputError:
            place = (
                "neither on the hub nor in its cache" if options.model_dir is None else f"not in {options.model_dir}"
            )
            lines.append(
                f"no weights of {model}: {place}; run `hf download {model}` where there is a network, or give --model_dir, "
                f"a folder with {model}/ in it as save_pretrained writes it"
            )
    for task in options.tasks:
        try:
            load_task_data(task, options.data_dir)
        except InputError as error:
            lines.append(f"no data: {error_line(error)}; or set GLUE_DIR")
    return lines


def gpu() -> dict[str, str]:
    """The GPU's name; empty without one."""
    return {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


# ---- the plan and the report --------------------------------------------------------------------------------------------


def minutes_left(options: argparse.Namespace, cell: Cell, runs: dict[Cell, dict[int, Timed]]) -> float | None:
    """Expected minutes for what is left of a cell; None if no run was timed yet."""
    seconds = seconds_of_a_run(cell, runs, options.epochs)
    if seconds is None:
        return None
    try:
        about = json.loads((study_folder(options, cell) / "machine.json").read_text(encoding="utf-8"))
    except OSError:
        about = {}
    return math.ceil((options.seeds - len(runs[cell])) / about.get("at_a_time", 1)) * seconds / 60


def plan_text(options: argparse.Namespace) -> str:
    """Runs, and the minutes that are left, of each cell."""
    runs = {cell: finished(options, cell) for cell in cells_of(options)}
    rows = []
    for cell in runs:
        minutes = minutes_left(options, cell, runs)
        left = "not known yet" if minutes is None else f"{minutes:.0f}"
        counts = [options.seeds, len(runs[cell]), update_steps(cell[1], options.epochs)]
        rows.append([cell[0], cell[1], f"{RATES[cell[0]]:g}", *map(str, counts), left])
    header = ["model", "task", "learning rate", "runs", "finished", "update steps per run", "minutes left"]
    return f"{markdown_table(header, rows)}\n\n{left_text(options)}"


def left_text(options: argparse.Namespace) -> str:
    """How many runs are left, and what to do."""
    runs = {cell: finished(options, cell) for cell in cells_of(options)}
    planned_runs, done = options.seeds * len(runs), sum(map(len, runs.values()))
    if done == planned_runs:
        return f"All {done} runs are finished: nothing is left."
    minutes = [minutes_left(options, cell, runs) for cell in runs if len(runs[cell]) < options.seeds]
    known = "not known yet" if None in minutes else f"about {sum(one or 0 for one in minutes):.0f} minutes"
    return f"{done} of {planned_runs} runs are finished. Time for the others: {known}. Repeat `run` until nothing is left."


@dataclass(frozen=True)
class Beside:
    """A cell's failed runs here beside theirs.

    Args:
        model, task: the cell.
        theirs: their failed runs of 20.
        failed, runs: failed and finished runs here.
        low, high: 95% interval of the share here (Wilson); NaN without runs.
        p: of Fisher's exact test that both shares are the same; NaN without runs.
        same: seeds with the same outcome here and there.
        by_chance: expected number of those if the seed does not matter.
    """

    model: str
    task: str
    theirs: int
    failed: int
    runs: int
    low: float
    high: float
    p: float
    same: int
    by_chance: float


def beside(cell: Cell, failed: dict[int, bool]) -> Beside:
    """A cell's comparison.

    Args:
        failed: seed -> whether the run failed here.
    """
    theirs, count, n = len(FAILED[cell]), sum(failed.values()), len(failed)
    if not n:
        return Beside(*cell, theirs, 0, 0, math.nan, math.nan, math.nan, 0, 0.0)
    low, high = wilson_interval(count, n)
    same = sum(found == (seed in FAILED[cell]) for seed, found in failed.items())
    own = sum(seed in FAILED[cell] for seed in failed)  # theirs among these seeds
    by_chance = (count * own + (n - count) * (n - own)) / n
    p = fisher_exact_p(count, n, theirs, len(SEEDS))
    return Beside(*cell, theirs, count, n, float(low), float(high), p, same, by_chance)


def table(found: Sequence[Beside]) -> str:
    """The comparisons in Markdown."""
    rows = []
    for one in found:
        own = more = ["-"] * 2
        if one.runs:
            own = [f"{one.failed} of {one.runs}", f"{one.failed / one.runs:.2f} ({one.low:.2f} to {one.high:.2f})"]
            more = [p_text(one.p), f"{one.same} ({decimal(one.by_chance, 1)})"]
        theirs = f"{one.theirs} of {len(SEEDS)}", f"{one.theirs / len(SEEDS):.2f}"
        rows.append([one.model, one.task, f"{RATES[one.model]:g}", *theirs, *own, *more])
    header = ["model", "task", "learning rate", "failed there", "share there", "failed here", "share here (95%)"]
    return markdown_table([*header, "p", "same outcome (by chance)"], rows)


def report(options: argparse.Namespace) -> None:
    """Part `report`: write gpu_target.md and gpu_target.csv, and print the table."""
    runs = {cell: finished(options, cell) for cell in cells_of(options)}
    failed = {cell: {seed: run.record.status in NOT_OK for seed, run in found.items()} for cell, found in runs.items()}
    folder = options.output_dir / f"epochs-{options.epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        f"{table([beside(cell, failed[cell]) for cell in runs])}\n\n"
        f"Number of epochs: {options.epochs}. There: Du & Nguyen (ACL 2023), 20 seeds. The interval is Wilson's. p is Fisher's exact "
        "test of equal shares. The seeds have other random streams here, so no agreement by seed is expected.\n"
    )
    write_text(folder / "gpu_target.md", text)
    write_text(folder / "gpu_target.csv", runs_csv(runs))
    print(text)


def runs_csv(runs: dict[Cell, dict[int, Timed]]) -> str:
    """A line per finished run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "task", "seed", "status", "failed_there", "score", "accuracy", "train_loss", "seconds"])
    for cell, found in runs.items():
        for seed, run in found.items():
            record = run.record
            numbers = [record.last, record.accuracy, record.train_loss, round(run.seconds, 1)]
            writer.writerow([*cell, seed, record.status, int(seed in FAILED[cell]), *numbers])
    return out.getvalue()


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", choices=["plan", "run", "report"])
    add("--minutes", type=float, default=9.0, help="time of a call (default: %(default)g)")
    add("--models", nargs="+", choices=list(RATES), default=list(RATES), help="default: both")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all three")
    add("--seeds", type=int, default=len(SEEDS), help="only the first seeds, this many (default: %(default)d)")
    add("--epochs", type=int, default=1, help="default: %(default)d, see above")
    add(
        "--runs_per_gpu",
        type=int,
        default=4,
        help="runs that share a GPU; fewer if they do not fit (default: %(default)d)",
    )
    add("--workers", type=int, help="runs at a time; default: --runs_per_gpu on each GPU. 0: in this process")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script with small models")
    add("--model_dir", type=Path, help="folder with a folder per model. Default: the hub")
    add("--data_dir", default=os.environ.get("GLUE_DIR"), help="folder with GLUE. Default: GLUE_DIR, else the hub")
    add("--output_dir", type=Path, default=Path("results/gpu_target"), help="default: %(default)s")
    options = parser.parse_args(argv)
    for name, least in {"seeds": 1, "epochs": 1, "runs_per_gpu": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: give {least} or more.")
    if options.seeds > len(SEEDS):
        parser.error(f"--seeds {options.seeds}: they ran {len(SEEDS)}; give at most that.")
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes {options.minutes:g}: must be above 0.")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring. The exit code is 2 if something that the runs need is not here."""
    options = parsed(argv)
    if options.part == "run":
        return run(options)
    if options.part == "plan":
        print(plan_text(options))
    else:
        report(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Check and measure on one GPU, in one call of under ten minutes, what was measured on CPUs only.

    python benchmarks/gpu.py --output_dir gpu_results
    python benchmarks/gpu.py --device cpu --quick --output_dir try    # the same code on a CPU; its figures mean nothing

| part | question | passes if |
| --- | --- | --- |
| `devices` | which GPUs, how much memory, does NVIDIA MPS run? | |
| `half_precision` | are the recorded gradient norms those without the loss scale of fp16? | they are within 10% of float32's |
| `synchronisation` | does the recorder make the host wait for the GPU? | at most 1 more wait per 10 update steps |
| `step_bert-base`, `step_bert-large` | update steps with the recorder, relative to the stock Trainer | the upper end is at most 1.01 |
| `memory` | a run's memory at its peak, relative to the estimate | the lower bound is below it |
| `runs_per_gpu` | runs per hour with 1, 2, 4 and 8 runs on the GPU; one GPU per worker | each worker saw one GPU, no run crashed |

Models have random weights, and data are random tokens or the bundled demo: nothing is downloaded. A part that fails is reported, and
the others go on. Each has a time limit; together they take at most `--minutes`. `gpu.md` and `gpu.json` in the output folder have
the figures. The exit status is 1 if a part failed or did not pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.diagnostics_overhead import SIZES, contestants, make_data, make_model, measure
from benchmarks.timing import machine, ratio_interval
from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments, plan_study
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.study.devices import available_memory, mps_is_running, mps_sentence, visible_gpus
from hf_stability.study.executors.server import PRELOAD
from hf_stability.study.memory import CPU_PROCESS, CUDA_PROCESS, GIB, count_parameters, model_shape, training_memory
from hf_stability.study.study import run_jobs
from hf_stability.tasks.demo.data import demo_model_path
from hf_stability.utils.files import write_json, write_text
from hf_stability.utils.text import markdown_table


BAR = 1.01  # the upper end of the interval, relative to the stock Trainer's update step
WAITS = 0.1  # more waits of the host per update step
NEAR = 0.1  # relative difference of norms in half precision

HOST_WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "Memcpy DtoH",
    "aten::_local_scalar_dense",
)
"""Names of events in which the host waits for the GPU, or fetches a value from it. The last one also counts on a CPU."""


@dataclass(frozen=True)
class Options:
    """The options of the command; see its help."""

    device: str
    quick: bool
    minutes: float
    folder: Path


@dataclass
class Part:
    """The outcome of a part.

    Args:
        columns, rows: its table.
        passed: whether it passes; None if it only measures.
        note: a sentence under the table.
    """

    columns: Sequence[str] = ()
    rows: list[list[Any]] = field(default_factory=list)
    passed: bool | None = None
    note: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Trainers
# ---------------------------------------------------------------------------------------------------------------------


def make_trainer(
    kind: str, size: str, options: Options, folder: Path, steps: int, batch: int = 16, tokens: int = 64, **values: Any
) -> Trainer:
    """A trainer of a model with random weights on random tokens.

    Args:
        kind: "stock", "callback" (the stock Trainer with the callback) or "stable" (StableTrainer with it).
        size: a key of `SIZES`.
        steps: update steps.
        batch, tokens: examples per step, and their length.
        values: more training arguments.
    """
    set_seed(0)
    model = make_model(size)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0  # else each precision draws other masks
    data, collator = make_data(size, batch * steps, tokens)
    trainer_class, args_class = (
        (StableTrainer, StableTrainingArguments) if kind == "stable" else (Trainer, TrainingArguments)
    )
    args = args_class(
        str(folder), max_steps=steps, per_device_train_batch_size=batch, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=options.device == "cpu", logging_steps=10 * steps,
        dataloader_pin_memory=options.device != "cpu", **values,
    )  # fmt: skip
    callbacks = (
        [] if kind == "stock" else [StabilityCallback(output_dir=str(folder), heat_map=False, tensorboard=False)]
    )
    trainer = trainer_class(model, args, train_dataset=data, data_collator=collator, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


# ---------------------------------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------------------------------


def part_devices(options: Options, folder: Path, deadline: float) -> Part:
    """The machine, its GPUs and their memory."""
    about = machine()
    if options.device == "cuda":
        about |= {"GPU": torch.cuda.get_device_name(), "CUDA": torch.version.cuda}
    rows = [[key, value] for key, value in about.items()]
    for gpu in visible_gpus():
        memory = ["-" if one is None else f"{one / GIB:.1f} GiB" for one in (gpu.total, gpu.free)]
        rows.append([f"GPU {gpu.id}", f"{memory[0]}, {memory[1]} free"])
    memory = available_memory()
    rows.append(["memory available", "-" if memory is None else f"{memory / GIB:.1f} GiB"])
    return Part(["what", "value"], rows, note=mps_sentence(mps_is_running()) if options.device == "cuda" else "")


def part_half_precision(options: Options, folder: Path, deadline: float) -> Part:
    """Norms of the record in half precision against float32; the learning rate is 0, so that all steps have the same weights."""
    half = {"fp16": True} if options.device == "cuda" else {"bf16": True}  # a CPU has no loss scale
    size, steps = ("tiny", 4) if options.quick else ("base", 24)

    def norms(name: str, kind: str, **values: Any) -> tuple[np.ndarray, np.ndarray]:
        place = folder / name
        make_trainer(kind, size, options, place, steps, learning_rate=0.0, **values).train()
        record = read_steps(place / "steps.rec")
        return record["grad_norm"], record["layer_norms"]

    rows, passed = [], True
    for kind, clip in (("stable", 1.0), ("stable", 0.0), ("callback", 1e9), ("callback", 0.0)):
        full, half_ = (norms(f"{kind}-{clip:g}-{n}", kind, max_grad_norm=clip, **v) for n, v in enumerate(({}, half)))
        finite = np.isfinite(half_[0]) & np.isfinite(full[0])
        worst = [np.max(np.abs(b[finite] / a[finite] - 1), initial=0) for a, b in zip(full, half_, strict=True)]
        ok = finite.sum() >= steps // 2 and max(worst) <= NEAR
        passed &= bool(ok)
        name = f"{'StableTrainer' if kind == 'stable' else 'stock Trainer + callback'}, {'clips' if clip else 'no clipping'}"
        rows.append([name, next(iter(half)), int(finite.sum()), steps, f"{worst[0]:.4f}", f"{worst[1]:.4f}"])
    columns = [
        "trainer",
        "precision",
        "finite steps",
        "steps",
        "largest difference, total",
        "largest difference, a layer",
    ]
    return Part(columns, rows, passed, "The first steps of fp16 may overflow until the loss scale has fallen.")


class Profiled(TrainerCallback):
    """Profiles the update steps after the first `skip` ones, and counts the events of `HOST_WAITS`.

    Attributes:
        counts: name -> events per update step.
    """

    def __init__(self, skip: int, steps: int, device: str):
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        self.skip, self.steps = skip, steps
        self.profiler = profile(activities=activities)
        self.counts: dict[str, float] = {}

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.skip + self.steps:
            self.profiler.stop()
            found = self.profiler.key_averages()
            for name in HOST_WAITS:
                self.counts[name] = sum(event.count for event in found if event.key.startswith(name)) / self.steps


def part_synchronisation(options: Options, folder: Path, deadline: float) -> Part:
    """Waits of the host per update step, by a profile; no block of the record and no check of the warning falls into it."""
    size, skip, steps = ("tiny", 3, 5) if options.quick else ("base", 10, 20)
    counts = {}
    for kind in ("stock", "stable", "callback"):
        total = 40 * (skip + steps)  # the early warning looks every 5% of training
        trainer = make_trainer(kind, size, options, folder / kind, total)
        profiled = Profiled(skip, steps, options.device)
        trainer.add_callback(profiled)
        trainer.add_callback(StopAfter(skip + steps))
        trainer.train()
        counts[kind] = profiled.counts
    names = {"stock": "stock Trainer", "stable": "StableTrainer + callback", "callback": "stock Trainer + callback"}
    rows = [[names[kind], *(f"{found[name]:.2f}" for name in HOST_WAITS)] for kind, found in counts.items()]
    more = max(counts[kind][name] - counts["stock"][name] for kind in ("stable", "callback") for name in HOST_WAITS)
    return Part(
        ["per update step", *HOST_WAITS], rows, more <= WAITS, f"At most {more:.2f} more than the stock Trainer."
    )


class StopAfter(TrainerCallback):
    """Ends the training after so many update steps."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.steps


def part_step(size: str, options: Options, folder: Path, deadline: float) -> Part:
    """Time of an update step with the recorder, in turns with the stock Trainer."""
    steps = {"tiny": 4, "base": 20, "bert-large": 10}[size]
    keys = ["stock", "stable", "callback"]
    least, turns, tokens = (1, 2, 16) if options.quick else (2, 4, 128)
    times: dict[str, list[float]] = {key: [] for key in keys}
    began, rounds = time.monotonic(), 0
    while rounds < least or (not options.quick and time.monotonic() + (time.monotonic() - began) / rounds < deadline):
        max_steps = max(20, turns + 2) * steps
        make = contestants(size, tokens, 16, steps, max_steps, options.device, str(folder / str(rounds)))
        for key, seconds in measure(make, keys, 1, turns, steps, torch.get_num_threads()).items():
            times[key] += seconds
        rounds += 1
        del make
        if options.device == "cuda":
            torch.cuda.empty_cache()
    rows, passed = [], True
    for key, name in (
        ("stock", "stock Trainer"),
        ("stable", "StableTrainer + callback"),
        ("callback", "stock Trainer + callback"),
    ):
        ratio, low, high = ratio_interval(times, key, "stock")
        passed &= high <= BAR
        rows.append([name, f"{1e3 * statistics.median(times[key]):.2f}", f"{ratio:.4f}", f"{low:.4f} to {high:.4f}"])
    note = f"Batches of 16 examples of {tokens} tokens, float32; {len(times['stock'])} turns of {steps} steps. Limit {BAR}."
    return Part(["update step", "ms, median", "ratio", "95% interval"], rows, None if options.quick else passed, note)


def started_server() -> Any:
    """The fork server of the study's workers, with its imports done: its start is no part of a measurement."""
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(PRELOAD)
    process = fork.Process(target=time.monotonic)
    process.start()
    process.join()
    return fork


def peak_of(size: str, batch: int, tokens: int, precision: str, options: Options, sender: Any) -> None:
    """A process: train a few steps, and send the peak and what a process takes without a model, in bytes."""
    quiet()
    context = 0
    if options.device == "cuda":
        before = visible_gpus()[0].free  # asked before this process starts CUDA
        torch.ones(1024, 1024, device="cuda") @ torch.ones(1024, 1024, device="cuda")
        after, _ = torch.cuda.mem_get_info()
        context = 0 if before is None else max(0, before - after - torch.cuda.memory_reserved())
        torch.cuda.reset_peak_memory_stats()
    values = {} if precision == "float32" else {precision: True}
    with tempfile.TemporaryDirectory() as place:
        make_trainer("stable", size, options, Path(place), 3, batch, tokens, **values).train()
    if options.device == "cuda":
        sender.send((torch.cuda.max_memory_reserved(), context))
    else:
        import resource  # Windows has none

        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0))


def part_memory(options: Options, folder: Path, deadline: float) -> Part:
    """The peak of short trainings against the estimate. On a GPU without the context, which the last column has."""
    cases = [("tiny", 16, 32, "bf16")]
    if not options.quick:
        half = "bf16" if options.device == "cpu" or torch.cuda.is_bf16_supported() else "fp16"
        cases = [
            ("base", 16, 128, "float32"),
            ("base", 64, 128, half),
            ("bert-large", 16, 128, "float32"),
            ("bert-large", 32, 256, half),
        ]
    fork = started_server()
    rows, passed = [], True
    for size, batch, tokens, precision in cases:
        if time.monotonic() > deadline:
            rows.append([size, batch, tokens, precision, "no time left", *["-"] * 4])
            continue
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=peak_of, args=(size, batch, tokens, precision, options, sender))
        process.start()
        sender.close()
        try:
            peak, context = receiver.recv()
        except EOFError:
            rows.append([size, batch, tokens, precision, "crashed", *["-"] * 4])
            passed = False
            continue
        finally:
            process.join()
        config = config_of(size)
        mixed = precision != "float32"
        memory = training_memory(
            count_parameters(config) or 0, model_shape(config), tokens, batch, mixed=mixed, device=options.device
        )
        estimate = memory.estimate - (memory.process if options.device == "cuda" else 0)
        passed &= memory.least <= peak
        figures = [f"{one / GIB:.2f}" for one in (peak, memory.least, estimate)]
        rows.append([size, batch, tokens, precision, *figures, f"{estimate / peak:.2f}", f"{context / GIB:.2f}"])
    columns = [
        "model",
        "batch",
        "tokens",
        "precision",
        "peak, GiB",
        "least",
        "estimate",
        "estimate / peak",
        "context, GiB",
    ]
    assumed = CUDA_PROCESS if options.device == "cuda" else CPU_PROCESS
    note = f"context: a process without a model. The estimate assumes {assumed / GIB:.2f} GiB for it."
    return Part(columns, rows, passed, note)


def config_of(size: str) -> BertConfig:
    """The config of a model of `SIZES`."""
    shape = SIZES[size]
    return BertConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.hidden // 64), intermediate_size=4 * shape.hidden,
    )  # fmt: skip


SEEN = """
import json, os, torch
from hf_stability.methods import Method


class Seen(Method):
    def begin_training(self, model, trainer):
        device = next(model.parameters()).device
        seen = [os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count(), str(device)]
        with open({path!r}, "a") as file:
            file.write(json.dumps(seen) + "\\n")
"""


def part_runs_per_gpu(options: Options, folder: Path, deadline: float) -> Part:
    """Runs per hour of a study of small runs, by the number of runs on a GPU. Each run starts in a new worker process."""
    size, steps, numbers = ("tiny", 4, (1, 2)) if options.quick else ("minilm", 150, (1, 2, 4, 8))
    model = folder / "model"
    tokenizer = demo_model_path("bert")
    config = config_of(size)
    BertForSequenceClassification(config).save_pretrained(model)
    for path in Path(tokenizer).glob("tokenizer*"):
        shutil.copy(path, model)
    started_server()
    rows, passed, first = [], True, None
    for number in numbers:
        if first is not None and time.monotonic() + 2 * first[0] > deadline:
            rows.append([number, "-", "no time left", "-", "-"])
            continue
        seen = folder / f"seen-{number}.jsonl"
        (folder / f"seen_{number}.py").write_text(SEEN.format(path=str(seen)))
        gpus = {"runs_per_gpu": number} if options.device == "cuda" else {"workers": number, "use_cpu": True}
        plan = plan_study(
            task_name="demo_pair", model_name_or_path=model, recipes="devlin2019", seeds=2 if options.quick else max(4, 2 * number),
            max_steps=steps, eval_strategy="no", max_eval_samples=64, methods=f"{folder / f'seen_{number}.py'}:Seen",
            output_dir=folder / f"study-{number}", **gpus,
        )  # fmt: skip
        plan.tokens.save(plan.jobs[0].data_folder)
        began = time.monotonic()
        runs = run_jobs(plan.jobs, plan.folder, plan.execution, quiet=True)
        seconds = time.monotonic() - began
        first = first or (seconds, seconds / len(runs))
        crashed = sum(run.status == "crashed" for run in runs)
        views = [json.loads(line) for line in seen.read_text().splitlines()]
        one_each = all(count == 1 and device == "cuda:0" for _, count, device in views) or options.device == "cpu"
        passed &= not crashed and len(views) == len(runs) and one_each
        per_hour = 3600 * len(runs) / seconds
        speedup = first[1] * len(runs) / seconds
        ids = " ".join(sorted({str(id) for id, *_ in views}))
        rows.append(
            [number, len(runs), f"{per_hour:.0f}", f"{speedup:.2f}", f"{plan.execution.workers} workers, {ids}"]
        )
        for sentence in plan.doubts:
            rows.append(["", "", sentence, "", ""])
    columns = ["runs per GPU", "runs", "runs per hour", "relative to 1", "workers and their GPUs"]
    note = f"{steps} update steps each, with all starts of processes. {mps_sentence(mps_is_running()) if options.device == 'cuda' else ''}"
    return Part(columns, rows, passed, note)


def parts(options: Options) -> dict[str, tuple[Callable[[Options, Path, float], Part], float]]:
    """Name -> the part, and its share of the time."""
    base, large = ("tiny", "tiny") if options.quick else ("base", "bert-large")
    return {
        "devices": (part_devices, 0.03),
        "half_precision": (part_half_precision, 0.12),
        "synchronisation": (part_synchronisation, 0.08),
        "step_bert-base": (partial(part_step, base), 0.15),
        "step_bert-large": (partial(part_step, large), 0.2),
        "memory": (part_memory, 0.14),
        "runs_per_gpu": (part_runs_per_gpu, 0.28),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The report
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds. Systems without alarms have no limit."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(
    name: str, part: Callable[[Options, Path, float], Part], options: Options, seconds: float
) -> dict[str, Any]:
    """A part's outcome as plain values; an error is part of it.

    Args:
        seconds: its share of the time. Parts end about then; after 1.3 times that they are stopped.
    """
    began = time.monotonic()
    place = options.folder / "work" / name
    place.mkdir(parents=True, exist_ok=True)
    try:
        with time_limit(1.3 * seconds):
            outcome, error = part(options, place, began + seconds), ""
    except Exception as problem:
        (options.folder / f"{name}.error.txt").write_text(traceback.format_exc())
        outcome, error = Part(passed=False), f"{type(problem).__name__}: {' '.join(str(problem).split())}"
    if options.device == "cuda":
        torch.cuda.empty_cache()
    took = time.monotonic() - began
    return {"name": name, **vars(outcome), "error": error, "seconds": round(took, 1)}


def report(outcomes: Sequence[dict[str, Any]]) -> str:
    """All outcomes in Markdown."""
    text = []
    for one in outcomes:
        ends = {True: "passed", False: "NOT PASSED", None: "measured"}
        text.append(f"## {one['name']}: {ends[one['passed']]} ({one['seconds']:.0f} s)")
        if one["error"]:
            text.append(f"{one['error']}. The traceback is in {one['name']}.error.txt.")
        if one["rows"]:
            text.append(markdown_table(list(one["columns"]), [[str(cell) for cell in row] for row in one["rows"]]))
        if one["note"].strip():
            text.append(one["note"].strip())
    return "\n\n".join(text) + "\n"


def quiet() -> None:
    """No verdicts on a few steps, no reports on new heads."""
    logging.getLogger("hf_stability").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def parse(arguments: Sequence[str] | None) -> tuple[Options, list[str]]:
    """The options, and the names of the parts to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    add("--quick", action="store_true", help="tiny models and few steps, to try the script")
    add("--minutes", type=float, default=9.0, help="time for all parts together (default: %(default)s)")
    add("--parts", nargs="+", help="only these")
    add("--output_dir", type=Path, default=Path("gpu_results"), help="default: %(default)s")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; use --device cpu.")
    if not 0 < given.minutes < math.inf:
        parser.error(f"--minutes {given.minutes}: must be above 0.")
    options = Options(given.device, given.quick, given.minutes, given.output_dir)
    unknown = set(given.parts or ()) - set(parts(options))
    if unknown:
        parser.error(f"--parts {min(unknown)}: no such part; give some of {', '.join(parts(options))}.")
    return options, given.parts or list(parts(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print and write their figures; 1 if one failed."""
    options, names = parse(arguments)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # or the fork server's imports would start CUDA
    quiet()
    options.folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in names:
        part, share = parts(options)[name]
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcomes.append(run_part(name, part, options, 60 * options.minutes * share))
        write_json(options.folder / "gpu.json", {"device": options.device, "quick": options.quick, "parts": outcomes})
        write_text(options.folder / "gpu.md", report(outcomes))  # after each part: a killed call keeps its figures
    shutil.rmtree(options.folder / "work", ignore_errors=True)
    print(report(outcomes))
    return int(any(one["passed"] is False for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())

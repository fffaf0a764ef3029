"""Time update steps with the diagnostics against those of the stock Trainer, in one run.

See `python benchmarks/diagnostics_overhead.py --help`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.utils import logging as transformers_logging


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.timing import interleaved, machine, ratio_interval
from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.tasks.demo.data import demo_model_path
from hf_stability.tasks.load import load_task_data, tokenize


PEER = "stock Trainer"
NAMES = {
    "stable": "StableTrainer",
    "callback": "stock Trainer + StabilityCallback",
    "everything": 'StableTrainer, diagnostics="all"',
    "wandb": "stock Trainer + wandb.watch-style histograms",
    "paper": "the paper's loop",
    "again": "stock Trainer, a second one",
}
DEFAULT = [key for key in NAMES if key != "again"]
BARS = {"stable": {"cpu": 1.01, "cuda": 1.01}, "callback": {"cpu": 1.05, "cuda": 1.01}}
SIZES_WITH_BARS = ("minilm", "base", "bert-large")


@dataclass(frozen=True)
class Size:
    """The shape of a model with random weights, and the length of its measurement.

    Args:
        layers, hidden, vocabulary: sizes of a BERT; its heads have 64 units (MiniLM: 32).
        rounds, turns, steps: defaults of the options.
    """

    layers: int
    hidden: int
    vocabulary: int
    rounds: int
    turns: int
    steps: int


SIZES = {
    "tiny": Size(2, 32, 1000, rounds=10, turns=2, steps=40),
    "demo": Size(12, 64, 0, rounds=30, turns=2, steps=10),
    "minilm": Size(6, 384, 30522, rounds=30, turns=2, steps=5),
    "base": Size(12, 768, 30522, rounds=10, turns=2, steps=2),
    "bert-large": Size(24, 1024, 30522, rounds=2, turns=4, steps=1),
}

HELP = f"""\
Time whole update steps (data, forward, backward, clipping, AdamW, callbacks) of several trainers on the same model and
data. All have default settings, and each update step is recorded:

  stock Trainer   the peer, always there
  stable          StableTrainer: norms by layer before clipping, from the pass that also clips. The early warning is on
                  (it warns). Limit {BARS["stable"]["cpu"]}
  callback        the stock Trainer with StabilityCallback: norms after clipping, from an extra pass. The early warning is
                  on. Limit {BARS["callback"]["cpu"]} on a CPU, {BARS["callback"]["cuda"]} on a GPU
  everything      StableTrainer with StabilityCallback(diagnostics="all")
  wandb           the stock Trainer with the work of wandb.watch(model, log="gradients", log_freq=1), without wandb: a
                  hook on each parameter's gradient, a copy of it, its minimum and maximum brought to the host, and a
                  histogram of 64 bins. It does so every step, like all others here; wandb's default is every 1000th.
                  The queue, the files and the upload of wandb are left out
  paper           the loop of the paper's code: `.norm().item()` of each parameter, before and after clipping
  again           the stock Trainer a second time, to show the noise of the measurement (not by default)

Sizes (default: random weights, batch 16, 16 tokens as in CoLA):

  demo            the bundled scale BERT (12 layers of 64 units) with its weights, on demo_pair, its own batches
  minilm          the shape of the 6-layer checkpoint, 22.7 million parameters (the default)
  base            12 x 768, 109 million parameters
  bert-large      24 x 1024, 335 million parameters, few steps: about six minutes on one core
  tiny            2 x 32, to show the fixed cost per step

The limits count for minilm, base and bert-large. For all else the figure is only reported.

The trainers run in threads that take turns, in a new random order each time, so that all see the same machine. A turn is
--steps update steps of a training of 20 turns. The first turn is warmup and not timed. After it, each turn of StableTrainer
or the callback contains one check of the early warning, and writes a block of the record and of TensorBoard's events. (No
check comes before step 5, the last of the few steps of bert-large.) All trainers share one copy of the weights and of
AdamW's moments. So their place in memory makes no difference, and bert-large fits into 10 GB. Gradients, hooks and all else
are separate. Each of --rounds starts with new trainers.

The result is the median over all turns of the ratio to the stock Trainer in the same turn, with its 95% bootstrap interval.
The exit status is 1 if the upper end of an interval is above its limit. So a run that is too noisy fails as well. Then look at
both ends, take more --rounds, and run nothing else meanwhile.
"""


# ---------------------------------------------------------------------------------------------------------------------
# Contestants
# ---------------------------------------------------------------------------------------------------------------------


class PaperLoop(Trainer):
    """A Trainer with the loop of the paper's code: a host synchronisation per parameter, before and after clipping."""

    def _clip_grad_norm(self, model):
        self.norms = [(name, p.grad.norm().item()) for name, p in model.named_parameters() if p.grad is not None]
        total = super()._clip_grad_norm(model)
        self.norms += [(name, p.grad.norm().item()) for name, p in model.named_parameters() if p.grad is not None]
        return total


class WandbHistograms(TrainerCallback):
    """Compute the histograms of `wandb.watch(model, log="gradients", log_freq=1)` at each step, without wandb.

    It has the operations and the host synchronisations of `log_tensor_stats` in wandb/integration/torch/wandb_torch.py.

    Attributes:
        histograms: parameter -> (64 counts, 65 edges) of its last gradient.
    """

    def __init__(self, bins: int = 64):
        self.bins = bins
        self.histograms: dict[str, tuple[list[float], list[float]]] = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.hooks = [p.register_hook(partial(self.observe, name)) for name, p in parameters]

    def on_train_end(self, args, state, control, **kwargs):
        for hook in self.hooks:
            hook.remove()

    def observe(self, name: str, gradient: Tensor) -> None:
        """Take the gradient of one parameter."""
        flat = gradient.detach().clone().reshape(-1).float()
        if (~torch.isfinite(flat)).all().item():
            return
        if not torch.isfinite(flat).all():
            flat = flat[torch.isfinite(flat)]
        low, high = flat.min().item(), flat.max().item()
        if low == high:
            counts, edges = torch.tensor([float(len(flat))]), torch.tensor([low, high])
        else:
            counts = flat.histc(self.bins, low, high).cpu().clone()
            edges = torch.linspace(low, high, self.bins + 1)
        self.histograms[name] = counts.tolist(), edges.tolist()


class SharedMoments(TrainerCallback):
    """Put existing moments into a new trainer's AdamW, which would otherwise make its own at its first step.

    Args:
        moments: per parameter, in the order of the model, the tensors `exp_avg` and `exp_avg_sq`.
    """

    def __init__(self, moments: Sequence[tuple[Tensor, Tensor]]):
        self.moments = moments

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        for parameter, (first, second) in zip(model.parameters(), self.moments, strict=True):
            step = torch.zeros((), device=parameter.device)
            optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def twin(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its weights in memory, but no gradients, hooks or anything else."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, {**shared, **{id(b): b for b in model.buffers()}})


def make_model(size: str) -> nn.Module:
    """The model that all contestants train."""
    if size == "demo":
        return AutoModelForSequenceClassification.from_pretrained(demo_model_path("bert"))
    shape = SIZES[size]
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.hidden // (32 if size == "minilm" else 64)),
        intermediate_size=4 * shape.hidden,
    )
    return BertForSequenceClassification(config)


def make_data(size: str, rows: int, tokens: int) -> tuple[Dataset, Callable]:
    """At least `rows` training examples, and their collator."""
    if size == "demo":
        tokenizer = AutoTokenizer.from_pretrained(demo_model_path("bert"))
        train = tokenize(load_task_data("demo_pair"), tokenizer).train
        return train.select(np.arange(max(rows, len(train))) % len(train)), DataCollatorWithPadding(tokenizer)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, SIZES[size].vocabulary, (rows, tokens), dtype=np.int64)
    data = Dataset.from_dict({"input_ids": ids, "label": rng.integers(0, 2, rows)}).with_format("torch")
    return data, default_data_collator


def contestants(size: str, tokens: int, batch: int, steps: int, max_steps: int, device: str, folder: str) -> dict:
    """name -> a function that makes the trainer; all share the weights of one model and the moments of AdamW."""
    model = make_model(size).to(device)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    data, collator = make_data(size, batch * max_steps, tokens)
    settings = {
        "max_steps": max_steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 2e-5,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "logging_steps": 10 * max_steps,
        "dataloader_pin_memory": device != "cpu",
    }

    def make(key: str, trainer_class, args_class, callback: Callable[[], TrainerCallback] | None = None) -> Trainer:
        args = args_class(f"{folder}/{key}", **settings)
        callbacks = [SharedMoments(moments), *([callback()] if callback else [])]
        trainer = trainer_class(twin(model), args, train_dataset=data, data_collator=collator, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        return trainer

    stock, stable = (Trainer, TrainingArguments), (StableTrainer, StableTrainingArguments)
    ours = partial(StabilityCallback, block_steps=steps, heat_map=False)  # drawn at the end, which is not timed
    return {
        "stock": partial(make, "stock", *stock),
        "stable": partial(make, "stable", *stable, ours),
        "callback": partial(make, "callback", *stock, ours),
        "everything": partial(make, "everything", *stable, partial(ours, diagnostics="all")),
        "wandb": partial(make, "wandb", *stock, WandbHistograms),
        "paper": partial(make, "paper", PaperLoop, TrainingArguments),
        "again": partial(make, "again", *stock),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Taking turns
# ---------------------------------------------------------------------------------------------------------------------


class Gate(TrainerCallback):
    """A training in its own thread, which makes a given number of update steps per turn.

    Args:
        make_trainer: makes the trainer, in that thread.
        threads: CPU threads of the training; OpenMP keeps this number per thread.

    Raises:
        Exception: from each method, the error that the training raised.
    """

    def __init__(self, make_trainer: Callable[[], Trainer], threads: int = 1):
        self.go, self.done, self.stopping = threading.Semaphore(0), threading.Semaphore(0), False
        self.error: BaseException | None = None
        self.left = 0
        self.thread = threading.Thread(target=self.run, args=(make_trainer, threads), daemon=True)
        self.thread.start()
        self.wait()  # it waits before its first step

    def run(self, make_trainer: Callable[[], Trainer], threads: int) -> None:
        """Run the whole training; this is the thread."""
        try:
            torch.set_num_threads(threads)
            trainer = make_trainer()
            trainer.add_callback(self)  # last, so that the turn includes the other callbacks
            trainer.train()
        except BaseException as error:
            self.error = error
        self.done.release()

    def on_train_begin(self, args, state, control, **kwargs):
        self.hold(control)

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.hold(control)

    def hold(self, control) -> None:
        """Wait in the thread until the next turn."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.done.release()
        self.go.acquire()
        control.should_training_stop |= self.stopping

    def turn(self, steps: int) -> None:
        """Make this many update steps, and wait until the device has finished them."""
        self.left = steps
        self.go.release()
        self.wait()

    def stop(self) -> None:
        """End the training and wait for its end."""
        self.stopping = True
        self.go.release()
        self.wait()
        self.thread.join()

    def wait(self) -> None:
        """Wait until the training waits or has ended."""
        self.done.acquire()
        if self.error is not None:
            raise self.error


def measure(make: dict, keys: Sequence[str], rounds: int, turns: int, steps: int, threads: int) -> dict:
    """Seconds per update step of each contestant, turn by turn: key -> list of `rounds * turns` floats.

    Args:
        make: key -> a function that makes the trainer.
        keys: the contestants to time.
        rounds: how often all trainers are made anew.
        turns: timed turns per contestant and round; one more before them is warmup.
        steps: update steps per turn.
        threads: CPU threads.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {key: [] for key in keys}
    for i in tqdm(range(rounds), desc="rounds", unit="round"):
        gates = {key: Gate(make[key], threads) for key in rng.permutation(list(keys))}
        turn = {key: partial(gate.turn, steps) for key, gate in gates.items()}
        for key, seconds in interleaved(turn, turns, 1, warmup=1, seed=i, progress=rounds == 1).items():
            times[key] += [second / steps for second in seconds]
        for gate in gates.values():
            gate.stop()
        del gates, turn
        gc.collect()  # a Trainer has reference cycles
    return times


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


def bar_of(key: str, size: str, device: str) -> float | None:
    """The limit of a contestant's ratio, for the upper end of its interval; None if the ratio is only reported."""
    return BARS.get(key, {}).get(device) if size in SIZES_WITH_BARS else None


def report(times: dict[str, list[float]], size: str, device: str) -> tuple[str, list[str]]:
    """The table in Markdown, and the names of the contestants above their limits."""
    lines = [
        "| update step | ms, median | ratio to the stock Trainer | 95% interval | limit |",
        "|---|---|---|---|---|",
    ]
    too_slow = []
    for key in times:
        ratio, low, high = ratio_interval(times, key, "stock")
        name, bar, milliseconds = NAMES.get(key, PEER), bar_of(key, size, device), 1e3 * statistics.median(times[key])
        lines.append(f"| {name} | {milliseconds:.1f} | {ratio:.3f} | {low:.3f} to {high:.3f} | {bar or ''} |")
        too_slow += [name] if bar and high > bar else []
    return "\n".join(lines), too_slow


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with defaults for the size filled in."""
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    by_size = {
        name: ", ".join(f"{s} {getattr(SIZES[s], name)}" for s in SIZES) for name in ("rounds", "turns", "steps")
    }
    add("--size", choices=SIZES, default="minilm", help="model shape (default: %(default)s)")
    add("--contestants", nargs="+", choices=NAMES, default=DEFAULT, help=f"default: {' '.join(DEFAULT)}")
    add("--tokens", type=int, default=16, help="tokens per example; demo has its own (default: %(default)s)")
    add("--batch", type=int, default=16, help="examples per update step (default: %(default)s, as in the paper)")
    add("--rounds", type=int, help=f"how often all trainers are made anew (default: {by_size['rounds']})")
    add("--turns", type=int, help=f"timed turns per trainer and round (default: {by_size['turns']})")
    add("--steps", type=int, help=f"update steps per turn (default: {by_size['steps']})")
    add("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--json", type=Path, help="file for the times of all turns")
    options = parser.parse_args(arguments)
    for name in ("rounds", "turns", "steps"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(SIZES[options.size], name))
    for name in ("rounds", "turns", "steps", "threads", "tokens", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: must be at least 1.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; use --device cpu.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; the exit code is 1 if a contestant is above its limit."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    logging.getLogger("hf_stability").setLevel(logging.ERROR)  # no verdicts on a few steps
    transformers_logging.set_verbosity_error()  # no report on the new head
    keys = ["stock", *dict.fromkeys(options.contestants)]
    max_steps = max(20, options.turns + 2) * options.steps
    with tempfile.TemporaryDirectory() as folder:
        make = contestants(
            options.size, options.tokens, options.batch, options.steps, max_steps, options.device, folder
        )
        times = measure(make, keys, options.rounds, options.turns, options.steps, options.threads)
    about = {**machine(), **{k: v for k, v in vars(options).items() if k not in ("json", "threads", "contestants")}}
    if options.device == "cuda":
        about["processor"] = torch.cuda.get_device_name()
    table, too_slow = report(times, options.size, options.device)
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()) + f"\n\n{table}")
    for name in too_slow:
        print(f"\n{name}: the upper end of the interval is above its limit.")
    if options.json:
        options.json.write_text(json.dumps({"about": about, "seconds_a_step": times}, indent=1) + "\n")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the diagnostics cost: a StableTrainer's update step, and the callback's on a stock Trainer, next to the stock step.

`python benchmarks/diagnostics_overhead.py --help` says the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.timing import interleaved, machine, ratio_interval
from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments


PEER = "stock Trainer"
LIMITS = {"StableTrainer": 1.02, "stock Trainer + StabilityCallback": 1.05}

# (layers, hidden, vocabulary): the sizes of real checkpoints, with random weights
SIZES = {"minilm": (6, 384, 30522), "base": (12, 768, 30522), "tiny": (2, 32, 1000)}

HELP = f"""\
Times whole update steps (data, forward, backward, clipping, AdamW, callbacks) of four trainers on the same model shape and
data, each with default settings and every update step recorded:

  stock Trainer                       the peer
  StableTrainer                       norms before clipping, from the pass that also clips; limit {LIMITS["StableTrainer"]}
  stock Trainer + StabilityCallback   norms after clipping, from a pass of their own; limit {LIMITS["stock Trainer + StabilityCallback"]}
  the paper's loop                    `.norm().item()` of each parameter, before and after clipping

The trainers run in threads that take turns, so that all see the same machine; a turn is --steps update steps, and each
turn of ours includes writing a block of the record and of TensorBoard's events. Where a trainer's tensors come to lie in
memory can make its steps faster or slower by some percent for its whole life: so every one of --rounds begins with four new
trainers, made in an order drawn anew. The result is the median over rounds of the ratio to the stock Trainer, with its 95%
bootstrap interval. The exit status is 1 if the upper end of an interval exceeds its limit. A run too noisy to tell fails as
well: look at both ends, take more --rounds, and leave the machine alone meanwhile.
"""


class PaperLoop(Trainer):
    """A Trainer with the loop of the paper's code: a host synchronisation for each parameter, before and after clipping."""

    def _clip_grad_norm(self, model):
        self.norms = [(name, p.grad.norm().item()) for name, p in model.named_parameters() if p.grad is not None]
        total = super()._clip_grad_norm(model)
        self.norms += [(name, p.grad.norm().item()) for name, p in model.named_parameters() if p.grad is not None]
        return total


class Gate(TrainerCallback):
    """A training in a thread of its own, which goes on by one update step at a time.

    Args:
        make_trainer: makes the trainer, in that thread.
        threads: CPU threads of the training; OpenMP keeps the number by thread.
    """

    def __init__(self, make_trainer, threads: int):
        self.go, self.done, self.stopping = threading.Semaphore(0), threading.Semaphore(0), False
        self.thread = threading.Thread(target=self.run, args=(make_trainer, threads), daemon=True)
        self.thread.start()
        self.done.acquire()  # it stands before its first step

    def run(self, make_trainer, threads: int) -> None:
        torch.set_num_threads(threads)
        trainer = make_trainer()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)
        trainer.train()

    def on_step_begin(self, args, state, control, **kwargs):
        self.done.release()
        self.go.acquire()
        control.should_training_stop = self.stopping

    def step(self) -> None:
        """One update step, from the last one's end to the next one's begin."""
        self.go.release()
        self.done.acquire()

    def stop(self) -> None:
        """End the training, and wait for its end."""
        self.stopping = True
        self.go.release()
        self.thread.join()


def contestants(size: str, tokens: int, steps: int, max_steps: int, folder: str) -> dict:
    """name -> a function that makes the trainer."""
    layers, hidden, vocabulary = SIZES[size]
    rng = np.random.default_rng(0)
    rows = 16 * max_steps
    ids = rng.integers(5, vocabulary, (rows, tokens), dtype=np.int64)
    data = Dataset.from_dict({"input_ids": ids, "label": rng.integers(0, 2, rows)}).with_format("torch")
    settings = {
        "max_steps": max_steps,
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-5,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 10 * max_steps,
        "dataloader_pin_memory": False,
    }

    def make(trainer_class, args_class, name, callbacks=()):
        def trainer():
            config = BertConfig(
                vocab_size=vocabulary,
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 32,
                intermediate_size=4 * hidden,
            )
            args = args_class(f"{folder}/{name}", **settings)
            return trainer_class(
                BertForSequenceClassification(config), args, train_dataset=data, callbacks=list(callbacks)
            )

        return trainer

    block = {"block_steps": steps}
    return {
        PEER: make(Trainer, TrainingArguments, "stock"),
        "StableTrainer": make(StableTrainer, StableTrainingArguments, "stable", [StabilityCallback(**block)]),
        "stock Trainer + StabilityCallback": make(
            Trainer, TrainingArguments, "callback", [StabilityCallback(**block)]
        ),
        "the paper's loop": make(PaperLoop, TrainingArguments, "loop"),
    }


def main() -> int:
    """Measure, print the table, and say by the exit status whether ours keep to their limits."""
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=SIZES, default="minilm", help="model shape, random weights (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=16, help="tokens an example, batch 16 (default: %(default)s, CoLA's)"
    )
    parser.add_argument("--rounds", type=int, default=30, help="times that all are made anew (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="turns of each trainer in a round (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="update steps in a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every block's times there")
    options = parser.parse_args()
    if min(options.rounds, options.turns, options.steps, options.threads, options.tokens) < 1:
        parser.error("--rounds, --turns, --steps, --threads and --tokens must be at least 1")
    torch.set_num_threads(options.threads)
    logging.getLogger("hf_stability").setLevel(logging.ERROR)  # verdicts on a few steps
    rng = np.random.default_rng(0)
    warmup = 2
    max_steps = warmup + options.turns * options.steps + 2
    with tempfile.TemporaryDirectory() as folder:
        make = contestants(options.size, options.tokens, options.steps, max_steps, folder)
        times: dict[str, list[float]] = {name: [] for name in make}
        for i in tqdm(range(options.rounds), desc="rounds", unit="round"):
            gates = {name: Gate(make[name], options.threads) for name in rng.permutation(list(make))}
            steps = {name: gate.step for name, gate in gates.items()}
            taken = interleaved(steps, options.turns, options.steps, warmup=warmup, seed=i, progress=False)
            for name, gate in gates.items():
                times[name].append(statistics.fmean(taken[name]))
                gate.stop()
    about = {**machine(), **{key: value for key, value in vars(options).items() if key not in ("json", "threads")}}
    print("\n" + ", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(f"| update step | ms, median | ratio to {PEER} | 95% interval | limit |\n|---|---|---|---|---|")
    too_slow = []
    for name in times:
        ratio, low, high = ratio_interval(times, name, PEER)
        limit = LIMITS.get(name)
        print(
            f"| {name} | {1e3 * statistics.median(times[name]):.1f} | {ratio:.3f} | {low:.3f} to {high:.3f} | {limit or ''} |"
        )
        too_slow += [name] if limit and high > limit else []
    for name in too_slow:
        print(f"\n{name}: the upper end of the interval is over its limit.")
    if options.json:
        options.json.write_text(json.dumps({"about": about, "seconds_a_step": times}, indent=1) + "\n")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main())

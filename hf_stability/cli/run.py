"""`hf-stability run`, and flags alone: a study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..study.api import Arms, StudyResult, plan_study
from ..study.study import StageFailed, is_main_process
from ..tasks.overview import columns_and_classes
from .flags import PolicyArguments, StudyArguments, names_of
from .parser import Texts, parse, study_parser
from .program import PROG, is_first_process


USAGE = f"""{PROG} [run] [--model_name_or_path M] [--task_name T | --train_file F --validation_file F]
       [--recipe R ...] [--seeds N] [--output_dir D] [any argument of the Trainer]"""

DESCRIPTION = """Fine-tune a BERT-like model over many seeds with one or more recipes: scores, verdicts, every layer's gradients."""

EXAMPLES = """
examples:
  # the bundled demo, offline: three recipes on a small entailment task, a few minutes on two cores
  accelerate launch run_glue_stable.py

  # the paper's comparison on RTE: 25 seeds of each recipe, on one GPU or as many as there are
  accelerate launch run_glue_stable.py --model_name_or_path bert-large-uncased --task_name rte \\
      --recipe transformers_default devlin2019 mosbach2021 --seeds 25 --output_dir rte

  # the same recipe with and without more on top; the rates and epochs that a .yaml file of your own lists under `grid:`
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe mosbach2021 mosbach2021+mine.yaml
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe grid.yaml --dry_run

  # your own model and data; what would be run, and where each value comes from
  hf-stability --model_name_or_path ./my-roberta --train_file train.csv --validation_file dev.csv --dry_run

  # one run of yours failed: what went wrong, and which remedy holds over three seeds
  hf-stability diagnose --help
  hf-stability rescue --help

  # a finished study: what restarts and stopping bad seeds early would have been worth
  hf-stability restarts --help

  # restarts that save compute: start 20 seeds, look at them after a quarter of training, finish the best 5
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --validation_half both \\
      --restarts 20 --look_at 0.25 --finish 5

  # is it the initialisation or the data order? 5 of the one x 5 of the other, each pair twice with other dropout
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --two_way 5 5 2
  hf-stability two_way --help

A study can be interrupted: the same command goes on with what is missing, and more --seeds add to it. Every argument of
Hugging Face's Trainer can be given too, and goes over the recipe's: --learning_rate 3e-5, --num_train_epochs 10, --bf16
(--help_all lists them). Watch a study with: tensorboard --logdir OUTPUT_DIR/runs
"""

FIRST_EXAMPLES = """
examples: (--help_all has more, and every flag)
  hf-stability                             # the bundled demo, offline, a few minutes on two cores
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 mosbach2021 --seeds 25
  hf-stability --model_name_or_path ./my-roberta --train_file train.csv --validation_file dev.csv --dry_run
  hf-stability diagnose --help             # one run of yours failed; and which remedy holds: hf-stability rescue --help
The same command goes on with an interrupted study, and more --seeds add to it.
"""

SHOWN = (
    "model_name_or_path", "task_name", "data_dir", "train_file", "validation_file", "recipe",
    "seeds", "workers", "keep_model", "dry_run", "output_dir", "two_way", "restarts", "learning_rate",
    "num_train_epochs", "total_train_batch_size", "warmup_steps", "on_alarm",
    "diagnostics",
)  # fmt: skip
"""The flags that --help shows."""

# The study without data and model. Its seeds take two cores less than five minutes.
DEMO = {"task_name": "demo_pair", "recipe": ["transformers_default", "devlin2019", "mosbach2021"], "seeds": ["4"]}
NAMES_DATA = (
    "task_name", "data_dir", "train_file", "validation_file", "text_column_names", "label_column_name", "model_name_or_path",
)  # fmt: skip


def main(argv: Sequence[str], commands: Mapping[str, str] | None = None) -> int:
    """Run a study.

    Args:
        argv: its flags.
        commands: the subcommands and what each is for, which `--help` shows where none was given.

    Returns:
        the exit code.
    """
    texts = Texts(USAGE, DESCRIPTION, EXAMPLES if "--help_all" in argv else FIRST_EXAMPLES)
    if commands is not None:
        listed = "\n".join(f"  {name:<10}{what}" for name, what in commands.items())
        texts = Texts(USAGE, f"{DESCRIPTION}\n\ncommands ({PROG} COMMAND --help):\n{listed}", texts.examples)
    given = parse(study_parser(argv, {"study": (StudyArguments, PolicyArguments)}, texts, SHOWN), argv)
    if not set(NAMES_DATA) & set(given):
        given = {**_demo(given), **given}
        if is_first_process():
            print(f"No data and no model named: the bundled demo, {DEMO['task_name']}", file=sys.stderr)
    return run_given(given)


def _demo(given: Mapping[str, Any]) -> dict[str, Any]:
    """The demo's values; a policy brings its own seeds."""
    own_seeds = names_of(PolicyArguments)
    return {name: value for name, value in DEMO.items() if name != "seeds" or not set(own_seeds) & set(given)}


def run_given(
    given: dict[str, Any],
    arms: Arms | None = None,
    notes: Sequence[str] = (),
    conclude: Callable[[StudyResult], str] = lambda result: result.conclusion,
) -> int:
    """Plan and run the study of these flags, and say what came of it.

    Args:
        given: the flags given, by field name.
        arms: see [`plan_study`].
        notes: sentences to print before the runs; `arms` may fill them.
        conclude: makes the last paragraph.

    Returns:
        the exit code.
    """
    dry_run = given.pop("dry_run", False)
    plan = plan_study(**keywords(given), arms=arms)
    if is_first_process():
        for sentence in (*plan.doubts, *notes):
            print(sentence, file=sys.stderr)
    if dry_run:
        print(plan.describe())
        return 0
    main_process, code = is_main_process(plan.jobs), 0
    if main_process:
        print(columns_and_classes(plan.data), flush=True)
    try:
        result = plan.run()
    except StageFailed as error:
        code = 1
        if main_process:
            print(f"{PROG}: {error}", file=sys.stderr)
    else:
        if main_process:
            code = tell(result)
            if conclusion := conclude(result):
                print(f"\n{conclusion}")
    if plan.jobs[0].processes > 1:  # a process that leaves early may take the others with it
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
    return code


def keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as the keywords of [`plan_study`]."""
    return {{"recipe": "recipes", "method": "methods"}.get(name, name): value for name, value in given.items()}


def tell(result: StudyResult) -> int:
    """Say what came of a study; the exit code."""
    folder, runs = result.folder, result.runs
    crashed = [run.name for run in runs if run.status == "crashed"]
    if crashed:
        error = folder / "runs" / crashed[0] / "error.txt"
        see = f": see {error}" if error.is_file() else f", first {crashed[0]}"
        print(f"{PROG}: {len(crashed)} run(s) crashed{see}", file=sys.stderr)
    stopped = [run for run in runs if run.status == "stopped"]
    if stopped:
        saved = sum(run.planned_steps - run.steps for run in stopped)
        print(
            f"\n{len(stopped)} run(s) were stopped by an alarm: censored, not failed. {saved} update steps were saved."
        )
    early = [run for run in runs if run.ended_at_look]
    if early:
        gone = sum(run.status == "diverged" for run in early)
        but = f", but for {gone} that had diverged" if gone else ""
        print(f"\n{len(early)} run(s) were stopped early, others looked better: censored, not failed{but}.")
    waiting = sum(run.status == "waiting" for run in runs)
    if waiting:
        print(f"\n{waiting} run(s) paused at their look because another run crashed. Rerun the command to continue.")
    if result.picture_error:
        print(f"{PROG}: no figures: {result.picture_error}", file=sys.stderr)
    if result.pictures:
        print(f"Figures: {folder / 'figures'} ({', '.join(path.stem for path in result.pictures)})")
    print(f"A folder for each run: {folder / 'runs'}; to look at them: tensorboard --logdir {folder / 'runs'}")
    return 1 if crashed else 0

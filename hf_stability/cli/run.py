"""`hf-stability run`, or flags without a command: a study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..study.api import Arms, StudyResult, plan_study
from ..study.study import StageFailed, is_main_process
from ..tasks.load import DATA_FLAGS
from ..tasks.overview import columns_and_classes
from .flags import ExecutionArguments, PolicyArguments, StudyArguments, names_of
from .parser import study_parser
from .plain_parser import Texts, parse
from .program import PROG, is_first_process


USAGE = f"""{PROG} [run] [--model_name_or_path M] [--task_name T | --dataset_name D |
       --train_file F --validation_file F] [--recipe R ...] [--seeds N] [--output_dir D] [any argument of the Trainer]"""

DESCRIPTION = (
    "Fine-tune a BERT-like model with recipes over many seeds; each run gets a verdict and a record of its gradients."
)

EXAMPLES = """
examples:
  # the bundled demo: three recipes on a small entailment task; offline, a few minutes on two cores
  accelerate launch run_glue_stable.py

  # the paper's comparison on RTE: 25 seeds per recipe, on one GPU or several
  accelerate launch run_glue_stable.py --model_name_or_path bert-large-uncased --task_name rte \\
      --recipe transformers_default devlin2019 mosbach2021 --seeds 25 --output_dir rte

  # a recipe with and without your own additions; a grid of learning rates in your own file (docs/recipes.md)
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe mosbach2021 mosbach2021+mine.yaml
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe grid.yaml --dry_run

  # your own model and data; only print the planned runs, and where each value comes from
  hf-stability --model_name_or_path ./my-roberta --train_file train.csv --validation_file dev.csv --dry_run

  # a run failed: find the cause, then compare remedies over three seeds
  hf-stability diagnose --help
  hf-stability rescue --help

  # a finished study: would restarts, or stopping bad seeds early, have been worth it?
  hf-stability restarts --help

  # restarts that save compute: start 20 seeds, compare them after a quarter of training, finish the best 5
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --validation_half both \\
      --restarts 20 --look_at 0.25 --finish 5

  # stop when it is decided which recipe fails less often: at most 20 seeds per recipe, looks after 5, 10 and 15
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 mosbach2021 --seeds 20 \\
      --until failed_share

  # initialisation, data order or dropout? 5 initialisations x 5 data orders x 2 dropout seeds
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --two_way 5 5 2
  hf-stability two_way --help

You can interrupt a study. The same command continues it, and more --seeds add runs to it. Every argument of the
Trainer is a flag too, and overrides the recipe: --learning_rate 3e-5, --num_train_epochs 10, --bf16. To watch a study:
hf-stability status OUTPUT_DIR --watch, or tensorboard --logdir OUTPUT_DIR/runs
"""

FIRST_EXAMPLES = """
examples: (--help_all shows more, and every flag: GPUs, clusters, saving ...)
  hf-stability                             # the bundled demo: offline, a few minutes on two cores
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 mosbach2021 --seeds 25
  hf-stability --model_name_or_path ./my-roberta --train_file train.csv --validation_file dev.csv --dry_run
  hf-stability diagnose --help             # a run failed: find the cause; then hf-stability rescue --help
The same command continues an interrupted study. More --seeds add runs. A flag overrides the recipe's value.
"""

SHOWN = (
    "model_name_or_path", "task_name", "train_file", "validation_file", "dataset_name", "recipe", "seeds",
    "workers", "keep_model", "dry_run", "output_dir", "learning_rate", "num_train_epochs", "on_alarm",
)  # fmt: skip
"""The flags that `--help` shows."""

# The study that runs without model and data. It takes less than five minutes on two cores.
DEMO = {"task_name": "demo_pair", "recipe": ["transformers_default", "devlin2019", "mosbach2021"], "seeds": ["4"]}
NAMES_DATA = (*DATA_FLAGS, "model_name_or_path")


def main(argv: Sequence[str], commands: Mapping[str, str] | None = None) -> int:
    """Run a study.

    Args:
        argv: the flags.
        commands: subcommand -> its purpose. `--help` lists them if no subcommand was given.

    Returns:
        The exit code.
    """
    texts = Texts(USAGE, DESCRIPTION, EXAMPLES if "--help_all" in argv else FIRST_EXAMPLES)
    if commands is not None:
        listed = "\n".join(f"  {name:<10}{what}" for name, what in commands.items())
        texts = Texts(USAGE, f"{DESCRIPTION}\n\ncommands ({PROG} COMMAND --help):\n{listed}", texts.examples)
    given = parse(
        study_parser(argv, {"study": (StudyArguments, ExecutionArguments, PolicyArguments)}, texts, SHOWN), argv
    )
    if not set(NAMES_DATA) & set(given):
        given = {**_demo(given), **given}
        if is_first_process():
            print(f"No model and no data given: running the bundled demo, {DEMO['task_name']}", file=sys.stderr)
    return run_given(given)


def _demo(given: Mapping[str, Any]) -> dict[str, Any]:
    """The demo's values. A policy has its own seeds."""
    own_seeds = names_of(PolicyArguments)
    return {name: value for name, value in DEMO.items() if name != "seeds" or not set(own_seeds) & set(given)}


def run_given(
    given: dict[str, Any],
    arms: Arms | None = None,
    notes: Sequence[str] = (),
    conclude: Callable[[StudyResult], str] = lambda result: result.conclusion,
) -> int:
    """Plan the study of these flags, run it, and print the outcome.

    Args:
        given: the flags that were given, field name -> value.
        arms: see `plan_study`.
        notes: sentences to print before the runs; `arms` may add some.
        conclude: makes the last paragraph.

    Returns:
        The exit code.
    """
    dry_run = given.pop("dry_run", False)
    plan = plan_study(**keywords(given), arms=arms)
    if first := is_first_process():
        for sentence in (*plan.doubts, *notes):
            print(sentence, file=sys.stderr)
    if dry_run:
        if first:
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
    if plan.jobs[0].processes > 1:  # a process that exits early may end the others
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
    return code


def keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as the keywords of `plan_study`."""
    return {{"recipe": "recipes", "method": "methods"}.get(name, name): value for name, value in given.items()}


def tell(result: StudyResult) -> int:
    """Print the outcome of a study; return the exit code."""
    folder, runs = result.folder, result.runs
    crashed = [run.name for run in runs if run.status == "crashed"]
    if crashed:
        error = folder / "runs" / crashed[0] / "error.txt"
        see = f": see {error}" if error.is_file() else f", first {crashed[0]}"
        print(
            f"{PROG}: {len(crashed)} run(s) crashed{see}. Run the same command again to repeat them; with --retry_crashed 2 it "
            "repeats them itself.",
            file=sys.stderr,
        )
    stopped = [run for run in runs if run.status == "stopped"]
    if stopped:
        saved = sum(run.planned_steps - run.steps for run in stopped)
        print(
            f"\n{len(stopped)} run(s) were stopped by an alarm: censored, not failed. {saved} update steps were saved."
        )
    early = [run for run in runs if run.ended_at_look]
    if early:
        gone = sum(run.status == "diverged" for run in early)
        but = f", except for {gone} that had diverged" if gone else ""
        print(f"\n{len(early)} run(s) were stopped early because others looked better: censored, not failed{but}.")
    waiting = sum(run.status == "waiting" for run in runs)
    if waiting:
        print(
            f"\n{waiting} run(s) paused after --look_at, because another run of the recipe crashed. Rerun the command to continue."
        )
    if result.picture_error:
        print(f"{PROG}: no figures: {result.picture_error}", file=sys.stderr)
    if result.pictures:
        print(f"Figures: {folder / 'figures'} ({', '.join(path.stem for path in result.pictures)})")
    print(f"A folder for each run: {folder / 'runs'}; to look at them: tensorboard --logdir {folder / 'runs'}")
    return 1 if crashed else 0

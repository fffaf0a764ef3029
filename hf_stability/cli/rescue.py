"""`hf-stability rescue`: a small study that compares remedies for a failed run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..diagnose.rescue import conclusion, rescue_jobs
from ..study.job import Job
from ..tasks.load import TaskData
from .flags import ExecutionArguments, StudyArguments
from .parser import study_parser, take
from .plain_parser import Texts, parse
from .run import SHOWN, run_given


TEXTS = Texts(
    """hf-stability rescue [--model_name_or_path M] [--task_name T | --dataset_name D |
       --train_file F --validation_file F] [--recipe R] [--seeds N] [--min_steps N]
       [--output_dir D] [any argument of the Trainer]""",
    """A run failed: compare four settings over 3 seeds each, and see which does not fail. Give the settings of the failed
run with --recipe and flags. The four settings:
  same           as the failed run
  third_of_rate  a third of the learning rate, and 10% warmup
  2000_steps     at least 2000 update steps
  reinit_top     pooler and top quarter of the layers re-initialised (not for ALBERT: its layers share weights)""",
    """
examples:
  # your own script: the Trainer's defaults, except for the learning rate
  hf-stability rescue --model_name_or_path bert-large-uncased --train_file train.csv --validation_file dev.csv \\
      --learning_rate 5e-5

  # a run of a study; only print the planned runs, and where each value comes from
  hf-stability rescue --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --dry_run

It is a study like any other. You can interrupt it and run the same command again; more --seeds add runs to it. Three
seeds show a failure that happens most of the time, not one that happens in 1 of 10 runs. So confirm the remedy with
20 seeds. docs/my_run_failed.md explains the result.
""",
)

HELPS = {
    "recipe": "The failed run's recipe: a name, a .yaml file, or parts joined by + (a+b). "
    "Default: transformers_default, the Trainer's defaults.",
    "seeds": "Per setting: a count (3 means seeds 1 to 3), a list (3 7 9) or a range (10-19). Default: 3.",
    "output_dir": "Folder for all results. Default: results/rescue_TASK.",
}

DEFAULTS: dict[str, Any] = {"recipe": ["transformers_default"], "seeds": ["3"]}
"""Flags of a study with another default here: the Trainer's own settings, three seeds."""


@dataclass
class RescueArguments:
    """The command's own flags."""

    min_steps: int = field(
        default=2000,
        metadata={"help": "Update steps of the long run; left out if the failed run had as many. Default: 2000."},
    )


def main(argv: Sequence[str]) -> int:
    """Run the remedies and print which of them did not fail."""
    given = {**DEFAULTS, **parse_flags(argv)}
    own = take(given, RescueArguments)
    given.setdefault("output_dir", f"results/rescue_{given.get('task_name') or 'custom'}")
    notes: list[str] = []

    def arms(jobs: list[Job], data: TaskData, config: Any) -> list[Job]:
        remedies, left_out = rescue_jobs(jobs, len(data.train), config, own.min_steps)
        notes.extend(left_out)
        return remedies

    return run_given(given, arms, notes, lambda result: conclusion(result.runs, notes))


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given: field name -> value."""
    shown = (*SHOWN, "min_steps")
    known = study_parser(argv, {"study": (StudyArguments, ExecutionArguments, RescueArguments)}, TEXTS, shown, HELPS)
    return parse(known, argv)

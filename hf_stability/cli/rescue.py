"""`hf-stability rescue`: a study whose arms are remedies for a run that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..diagnose.rescue import conclusion, rescue_jobs
from ..study.job import Job
from ..tasks.load import TaskData
from .flags import StudyArguments
from .parser import Texts, parse, study_parser, take
from .run import SHOWN, run_given


TEXTS = Texts(
    """hf-stability rescue [--model_name_or_path M] [--task_name T | --train_file F --validation_file F]
       [--recipe R] [--seeds N] [--min_steps N] [--output_dir D] [any argument of the Trainer]""",
    """A run failed: try four remedies over 3 seeds each, and see which holds. The failing settings are those of
--recipe and of the flags, as for the study; the arms are: the same; a third of the rate with 10% warmup; at least 2000
update steps; the pooler and the top quarter of the layers drawn anew (not for ALBERT, whose layers are shared).""",
    """
examples:
  # a script of your own, with the Trainer's defaults but for the rate
  hf-stability rescue --model_name_or_path bert-large-uncased --train_file train.csv --validation_file dev.csv \\
      --learning_rate 5e-5

  # a run of a study; what would be run, and where each value comes from
  hf-stability rescue --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --dry_run

It is a study like any other, in --output_dir (default: results/rescue_TASK): it can be interrupted, the same command
goes on with what is missing, and more --seeds add to it. Three seeds find what fails most of the time, not what fails
one time in ten: confirm what held with 20. docs/my_run_failed.md says what to do with the result.
""",
)

HELPS = {
    "recipe": "One recipe by name, a .yaml file, or parts composed (a+b): the failed run's. "
    "Default: transformers_default, the Trainer untouched.",
    "seeds": "A count (3: seeds 1 to 3), seeds (3 7 9), or ranges (1000-1019), for each arm. Default: 3.",
}

DEFAULTS: dict[str, Any] = {"recipe": ["transformers_default"], "seeds": ["3"]}
"""The study's flags that have another default here: the Trainer untouched, three seeds."""


@dataclass
class RescueArguments:
    """The command's own flags."""

    min_steps: int = field(
        default=2000,
        metadata={"help": "Update steps of the long arm; left out where the run has more. Default: 2000."},
    )


def main(argv: Sequence[str]) -> int:
    """Run the remedies, and say which held."""
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
    """The flags that were given, by field name."""
    shown = (*SHOWN, "min_steps")
    known = study_parser(argv, {"study": (StudyArguments, RescueArguments)}, TEXTS, shown, HELPS)
    return parse(known, argv)

"""`hf-stability diagnose`: find out why one run failed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..diagnose import report as diagnosis
from ..diagnose.environment import environment
from ..errors import InputError
from ..tasks.load import DATA_FLAGS
from ..utils.files import write_json
from .flags import DataArguments, ModelArguments
from .parser import study_parser, take
from .plain_parser import Texts, parse


TEXTS = Texts(
    """hf-stability diagnose PATH [--model_name_or_path M] [--task_name T | --dataset_name D |
       --train_file F --validation_file F] [--memorize] [--json [FILE] [--figures_only]] [any argument of the Trainer]""",
    """Find out why ONE run failed. Prints the likely causes, most likely first, each with its remedy and the flags to use.
Trains nothing without --memorize; writes nothing without --json FILE. docs/my_run_failed.md explains each line.""",
    """
PATH is one of
  an output folder or checkpoint of any Trainer, or its trainer_state.json;
  a steps.rec of StabilityCallback;
  a run's folder in a study, such as results/rte/runs/devlin2019/seed-003. It records its model and data itself;
  a README.md with the Trainer's table of training results, or the name of a model on the hub that has one.
The files beside PATH are read too. Give model and data to have them checked as well. Give training flags that the
files do not record.

examples:
  hf-stability diagnose output/checkpoint-500
  hf-stability diagnose output --model_name_or_path bert-large-uncased --train_file train.csv --validation_file dev.csv
  hf-stability diagnose results/rte/runs/devlin2019/seed-003 --memorize
  hf-stability diagnose output --json --figures_only     # for a bug report: no names, paths or texts of yours

In Python, with your Trainer: from hf_stability.diagnose import diagnose; print(diagnose(trainer).to_text())
Next step: hf-stability rescue --help
""",
)

SHOWN = (
    "model_name_or_path", "tokenizer_name", "task_name", "data_dir", "train_file", "validation_file", "max_seq_length",
    "memorize", "memorize_rate", "json", "figures_only", "learning_rate", "warmup_steps", "optim",
    "bf16", "fp16", "use_cpu",
)  # fmt: skip
"""The flags that `--help` shows."""

HELPS = {
    "learning_rate": "Learning rate of the run. Default: as recorded in PATH.",
    "warmup_steps": "Update steps of warmup; below 1, a fraction of all steps. Default: as recorded in PATH.",
}
"""Help of flags that only describe the run here."""

CUTS = ("pad_to_max_length", "max_train_samples", "max_eval_samples", "validation_half")
"""Flags that shorten or pad the data. They are refused here: diagnose reads whole sets."""

STDOUT = "-"
"""The file of a bare `--json`."""


@dataclass
class DiagnoseArguments:
    """The command's own flags."""

    memorize: bool = field(
        default=False,
        metadata={
            "help": "Train the model on 32 training examples, for up to 300 update steps. If it cannot learn them by heart, "
            "there is a bug (labels, tokenizer, frozen weights). If it can, the training may be unstable."
        },
    )
    memorize_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of --memorize. Default: 5e-5 x 768 / hidden size; 10 times that with adapters."
        },
    )
    json: str | None = field(
        default=None,
        metadata={
            "help": "Write the report as JSON, with the versions, to this file too; without a file, print the JSON in place of "
            "the text. Without PATH: print the versions only.",
            "nargs": "?",
            "const": STDOUT,
        },
    )
    figures_only: bool = field(
        default=False,
        metadata={
            "help": "With --json: leave out all paths, names and texts of yours, and print no text. Numbers, versions and the names of the checks "
            "remain."
        },
    )


def main(argv: Sequence[str]) -> int:
    """Diagnose one run and print the findings."""
    helps = dict.fromkeys(CUTS, argparse.SUPPRESS) | HELPS
    known = study_parser(argv, {"diagnose": (DiagnoseArguments,)}, TEXTS, SHOWN, helps)
    known.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    given = parse(known, argv)
    path = given.pop("path", None)
    asked = set(given)
    if path is None and given.get("json") != STDOUT:
        raise InputError(
            "diagnose: give the run's path first: its output folder, trainer_state.json or steps.rec; see diagnose --help"
        )
    for name in CUTS:
        if name in given:
            raise InputError(f"--{name} {given[name]}: diagnose reads whole data sets; leave this flag out")
    model, data, own = (take(given, cls) for cls in (ModelArguments, DataArguments, DiagnoseArguments))
    if own.json == "":
        raise InputError("--json: give a file, or no value to print it")
    if own.figures_only and own.json is None:
        raise InputError("--figures_only: goes with --json; give both")
    if path is None:
        others = asked - {"json", "figures_only"}
        if others:
            raise InputError(
                f"diagnose: give the run's path first, before --{min(others)}; --json alone prints the versions"
            )
        print(json.dumps({"schema": diagnosis.SCHEMA, "versions": environment()}, indent=2))
        return 0
    target = Path(own.json) if own.json and own.json != STDOUT else None
    if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise InputError(f"--json {target}: no file can be written there; give one in an existing folder")
    found = diagnosis.diagnose(
        path,
        model_name_or_path=model.model_name_or_path,
        tokenizer_name=model.tokenizer_name,
        **{name: getattr(data, name) for name in DATA_FLAGS},
        max_seq_length=data.max_seq_length,
        training=given,
        memorize=own.memorize,
        memorize_rate=own.memorize_rate,
        show=True,
    )
    if own.json == STDOUT:
        print(json.dumps(found.to_dict(own.figures_only), indent=2))
        return 0
    if target is not None:
        write_json(target, found.to_dict(own.figures_only))
    print(f"written: {target}" if own.figures_only else found.to_text())
    return 0

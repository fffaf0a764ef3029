"""The command that runs a recipe of a study again, made from its records alone.

The records have the recipe, the seeds, and every training argument with its source. They do not have the names of the user's
files, nor how the data were cut. The command has placeholders in capitals for the former, and a sentence names the latter.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....tasks.demo.data import ASSETS, DEMO_TASKS
from ....tasks.glue import GLUE_TASKS
from ...job import Job
from ...records import RunRecord


NOT_RECORDED = "--max_seq_length, --pad_to_max_length, --max_train_samples, --max_eval_samples, --validation_half"
"""Flags that change the data. The records have only the tokens' hash."""

BUNDLED = "bundled"
"""Stands for the demo's own model, which a demo task has without a flag."""

BUNDLED_FOLDER = (ASSETS / "bert").parts[-5:]
"""The last parts of its path: the package's folder and those below."""

WIDTH = 100
"""Columns of the command's lines, where its words allow it."""


def rerun_section(job: Job, runs: Sequence[RunRecord], model: str = "MODEL") -> list[str]:
    """The lines of a Markdown section: the command, and what it needs.

    Args:
        job: the settings of one of the runs.
        runs: all runs of its recipe, at least one.
        model: the pretrained model's name on the hub, `BUNDLED` for the demo's, or a placeholder in capitals.
    """
    halves = any(run.report is not None for run in runs)
    words = rerun_command(job, runs, model)
    lines = ["## Run it again", "", "```bash", *_wrapped(words), "```", ""]
    capitals = [word for line in words for word in line.split() if re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", word)]
    if capitals:
        lines.append(f"- Replace {', '.join(dict.fromkeys(capitals))} by your own: the records do not have them.")
    lines.append("- A recipe that hf_stability does not package is a YAML file. The table above has its values.")
    unknown = NOT_RECORDED if not halves else NOT_RECORDED.replace(", --validation_half", "")
    if job.task not in (*GLUE_TASKS, *DEMO_TASKS):
        unknown += ", --text_column_names, --label_column_name, --dataset_name"
    lines.append(f"- The records do not have these flags: {unknown}. Add them if they were given.")
    if job.processes > 1:
        lines.append(
            f"- {job.processes} processes trained each run together: start the command with accelerate launch."
        )
    lines.append(
        f"- The same run of the new study then has the id `{job.id}` in its `config.json`. It is a hash of settings, pretrained "
        "weights, tokens and device. On other versions or machines, scores may differ in their last digits."
    )
    return lines


def rerun_command(job: Job, runs: Sequence[RunRecord], model: str = "MODEL") -> list[str]:
    """The command as flags, each with its values: `["hf-stability", "--task_name rte", "--seeds 20", ...]`.

    Args:
        job, runs, model: see `rerun_section`.
    """
    words = ["hf-stability"] + ([] if model == BUNDLED else [f"--model_name_or_path {model}"])
    if job.task in (*GLUE_TASKS, *DEMO_TASKS):
        words.append(f"--task_name {job.task}")
    else:
        words += ["--train_file TRAIN_FILE", "--validation_file VALIDATION_FILE"]
    if any(run.report is not None for run in runs):
        words.append("--validation_half both")
    words += [f"--recipe {shlex.quote(job.recipe)}", *seed_flags(job, runs)]
    words += [f"--method {shlex.quote(public(name))}" for name in job.methods]
    for name, value in job.args.items():
        if job.sources.get(name) == f"--{name}":
            words.append(f"--{name} {_value(value)}")
    if job.dtype != "float32":
        words.append(f"--dtype {job.dtype}")
    if job.threads != 1:
        words.append(f"--threads_per_run {job.threads}")
    if job.keep_model != "none":
        words.append(f"--keep_model {job.keep_model}")
    return [*words, "--output_dir again"]


def seed_flags(job: Job, runs: Sequence[RunRecord]) -> list[str]:
    """`--seeds 20`, `--two_way 5 5 2`, or `--restarts 20 --look_at 0.25 --finish 5`."""
    cells = [run.cell for run in runs if run.cell is not None]
    if cells:
        return ["--two_way " + " ".join(str(max(cell[key] for cell in cells)) for key in ("init", "order", "dropout"))]
    if job.policy is None:
        return [f"--seeds {seed_words([run.seed for run in runs])}"]
    seeds = job.policy["seeds"]
    flags = [f"--restarts {len(seeds)}", f"--look_at {job.policy['look_at']:g}", f"--finish {job.policy['finish']}"]
    return flags if sorted(seeds) == list(range(1, len(seeds) + 1)) else [f"--seeds {seed_words(seeds)}", *flags]


def seed_words(seeds: Sequence[int]) -> str:
    """Seeds as `--seeds` takes them: `5` for 1 to 5, `1000-1019`, or `3 7 9`."""
    seeds = sorted(seeds)
    if seeds != list(range(seeds[0], seeds[-1] + 1)):
        return " ".join(map(str, seeds))
    return str(seeds[-1]) if seeds[0] == 1 else f"{seeds[0]}-{seeds[-1]}"


def public(value: Any) -> Any:
    """A value without this machine's folders: of a path there is only the last part.

    Args:
        value: of any type; a list's items are shortened one by one.
    """
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    is_path = os.path.isabs(value) or value.startswith(("~", "./", "../")) or bool(re.match(r"[A-Za-z]:[\\/]", value))
    return Path(value.replace("\\", "/")).name if is_path else value


def is_bundled(model: str) -> bool:
    """Whether a folder is the bundled model that the demo tasks have by default, in any installation."""
    return Path(model).parts[-len(BUNDLED_FOLDER) :] == BUNDLED_FOLDER


def _value(value: Any) -> str:
    """A value as the command line takes it."""
    value = public(value)
    return " ".join(shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value]))


def _wrapped(words: Sequence[str]) -> list[str]:
    """The command in lines of about `WIDTH` columns, each but the last ending with a backslash."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append("   ")
        lines[-1] += f" {word}"
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]

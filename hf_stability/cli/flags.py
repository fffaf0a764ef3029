"""The flags that several subcommands take, as dataclasses, and the group of each in `--help`.

A flag is a keyword of [`plan_study`][hf_stability.study.api.plan_study]; its default there is what counts. The first sentence
of a flag's help, and what begins with `Default:`, is what `--help` shows; `--help_all` shows the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..methods import argument_names
from ..recipe import recipe_names
from ..study.job import KEEP_MODEL
from ..study.pretrained import DTYPES
from ..training_args import StableTrainingArguments


DIAGNOSTICS = ("on_alarm", "audit_alarms", "diagnostics")
"""Training arguments of the group `diagnostics`."""


@dataclass
class ModelArguments:
    """The pretrained model."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder made by save_pretrained, or a name on the hub. Default: the demo's."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, where it is not the model's."})


@dataclass
class DataArguments:
    """The task."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, demo_pair, demo_cola, demo_nli. The demo's are bundled."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "GLUE in its official layout (RTE/train.tsv ...). Default: the hub's nyu-mll/glue. It serves stages, too."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own data (.csv, .tsv, .json, .jsonl): columns of text, and a column `label`. Whole numbers from 0 on "
            "and words are classes, other numbers a regression. Text: `sentence`, or `sentence1` and `sentence2`, or else the "
            "first one or two columns of text."
        },
    )
    validation_file: str | None = field(default=None, metadata={"help": "Its development set, with the same columns."})
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The files' column of text, or two for a pair, instead of those above."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "The files' column of labels. Default: label."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Tokens; longer examples are truncated. Default: 128."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad all to max_seq_length, not each batch to its longest (slower on a CPU)."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Only the first examples of the training set."}
    )
    validation_half: str | None = field(
        default=None,
        metadata={
            "help": "Only this half of each development set: choose settings on the first, report on the second. both: two "
            "development sets; the first counts (verdicts, tables, the best run), the second is evaluated beside it.",
            "choices": ["first", "second", "both"],
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Only the first examples of the development sets."}
    )


@dataclass
class StudyArguments:
    """The study: recipes, seeds, and how they are run."""

    recipe: list[str] = field(
        default_factory=lambda: ["mosbach2021"],
        metadata={
            "help": f"One or more, to compare: {', '.join(recipe_names())}, .yaml files, parts composed (a+b). Default: "
            "mosbach2021. Without data and model: the demo's three. A grid stands for all its recipes, or for some of them "
            "(a,learning_rate=2e-05)."
        },
    )
    method: list[str] | None = field(
        default=None,
        metadata={
            "help": "Methods of your own, for all recipes: MODULE:CLASS or FILE.py:CLASS. Their arguments become flags; see "
            "examples/own_method.py."
        },
    )
    seeds: list[str] | None = field(
        default=None,
        metadata={
            "help": "A count (25: seeds 1 to 25), seeds (3 7 9), or ranges (1000-1019). Default: 5. Without data and model: 4."
        },
    )
    workers: int | None = field(
        default=None,
        metadata={
            "help": "Runs at a time, each in its own process. Default: one per GPU, else one per core. 0: all in this process."
        },
    )
    threads_per_run: int = field(
        default=1, metadata={"help": "CPU threads of a run; changes results in the last digits."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "What the weights are loaded and trained in. auto: as the checkpoint was saved. Half precision often fails: "
            "for mixed precision give --bf16 or --fp16 instead. Default: float32.",
            "choices": [*DTYPES, "auto"],
        },
    )
    keep_model: str = field(
        default="none",
        metadata={
            "help": "Which models to keep: none, last, failed_and_best. Default: none.",
            "choices": list(KEEP_MODEL),
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print what would be run and where each value comes from; write nothing."}
    )


@dataclass
class PolicyArguments:
    """Ways to run seeds other than each to its end: two-way seeds, restarts with early stopping."""

    two_way: list[int] | None = field(
        default=None,
        metadata={
            "help": "I J [R], instead of --seeds: I initialisations x J data orders x R dropouts. R is 2 unless you give it. "
            "two_way.md says how much of the scores' variance comes from each. More of each can be added later."
        },
    )
    restarts: int | None = field(
        default=None,
        metadata={
            "help": "Start so many seeds per recipe, finish only the best; with --look_at and --finish. Which seeds: "
            "1 to this, or --seeds. See also: hf-stability restarts --help."
        },
    )
    look_at: float | None = field(
        default=None,
        metadata={
            "help": "With --restarts: the fraction of training after which the seeds are looked at, for example 0.25."
        },
    )
    finish: int | None = field(
        default=None,
        metadata={"help": "With --restarts: how many go on, those with the best score at the look."},
    )


def names_of(*classes: type) -> list[str]:
    """The fields of dataclasses."""
    return [f.name for cls in classes for f in fields(cls)]


def method_flags(training: type[StableTrainingArguments] = StableTrainingArguments) -> list[str]:
    """The training arguments of the methods: ours, and the user's own (see [`arguments_class`])."""
    return [*argument_names(), *argument_names(training.own_methods)]

"""The flags that several subcommands share, as dataclasses; each dataclass is a group of `--help`.

A flag is a keyword of [`plan_study`][hf_stability.study.api.plan_study], which also has the default that counts. `--help`
shows the first sentence of a flag's help and each sentence that begins with `Default`. `--help_all` shows the whole help.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..methods import argument_names
from ..recipe import recipe_names
from ..study.execution import EXECUTORS, PARALLEL
from ..study.job import KEEP_MODEL
from ..study.policies.until import DECIDES
from ..study.pretrained import DTYPES
from ..training_args import StableTrainingArguments


DIAGNOSTICS = ("on_alarm", "audit_alarms", "max_restarts", "restart_with", "diagnostics", "preflight")
"""The training arguments in the group `diagnostics`."""


@dataclass
class ModelArguments:
    """The pretrained model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder of a saved model, or a name on the hub. Default for demo tasks: the demo's."},
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or hub name of the tokenizer. Default: the model's."}
    )


@dataclass
class DataArguments:
    """The task."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "A GLUE task (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli) or a bundled demo task (demo_pair, "
            "demo_cola, demo_nli)."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with GLUE's files (RTE/train.tsv ...). Default: nyu-mll/glue from the hub. The files are in GLUE's "
            "official layout. A recipe's stages read GLUE tasks from this folder too."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your training data (.csv, .tsv, .json, .parquet): columns of text, and a column `label`. A .jsonl file "
            "has an object per line. Labels: words, or whole numbers from 0, are classes; other numbers are the targets of a regression; lists are several "
            "labels per example. Text: the column `sentence`, or `sentence1` and `sentence2`, or else the first one or two "
            "columns of text."
        },
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Your development set, with the same columns."}
    )
    text_column_names: list[str] | None = field(
        default=None,
        metadata={"help": "The column of text in your data; two columns for pairs. Default: see --train_file."},
    )
    label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "The column of labels in your data. Default: label. A,B,C: a column of 0 and 1 for each of several labels."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Instead of files: a data set on the hub, or a folder that `datasets` reads. That is a folder of csv, json or "
            "parquet files, or one of save_to_disk. No code of the data set is run."
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "With --dataset_name: its configuration, if it has several."}
    )
    train_split_name: str | None = field(
        default=None, metadata={"help": "With --dataset_name: the split to train on. Default: train."}
    )
    validation_split_name: str | None = field(
        default=None,
        metadata={
            "help": "With --dataset_name: the split to evaluate on. Default: validation. No other one is guessed."
        },
    )
    max_seq_length: int = field(
        default=128, metadata={"help": "Tokens per example; longer ones are truncated. Default: 128."}
    )
    pad_to_max_length: bool = field(
        default=False,
        metadata={"help": "Pad each example to --max_seq_length, not to its batch's longest (slower on a CPU)."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only this many examples of the training set, the first ones."}
    )
    validation_half: str | None = field(
        default=None,
        metadata={
            "help": "Evaluate on one half of each development set: choose settings on the first, report on the second. both: "
            "evaluate on both halves. Then the first counts (verdicts, tables, the best run); the second is recorded beside it.",
            "choices": ["first", "second", "both"],
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only this many examples of each development set, the first ones."}
    )


@dataclass
class StudyArguments:
    """The study: recipes, seeds, and how to run them."""

    recipe: list[str] = field(
        default_factory=lambda: ["mosbach2021"],
        metadata={
            "help": "One recipe, or several to compare: names (hf-stability recipes lists them), .yaml files, parts joined by + "
            f"(a+b). Default: mosbach2021. Packaged: {', '.join(recipe_names())}. Without data and model: the demo's three. "
            "A grid means all its recipes; a,learning_rate=2e-05 picks some of them. See docs/recipes.md."
        },
    )
    method: list[str] | None = field(
        default=None,
        metadata={
            "help": "Your own methods, added to all recipes: MODULE:CLASS or FILE.py:CLASS. Their arguments become flags. See "
            "examples/own_method.py."
        },
    )
    seeds: list[str] | None = field(
        default=None,
        metadata={
            "help": "A count (25 means seeds 1 to 25), a list (3 7 9), or a range (1000-1019). Default: 5. Without data and model: 4."
        },
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of the weights, in which they are loaded and trained. auto: as the checkpoint was saved. Default: "
            "float32. Weights in half precision often fail to train: for mixed precision give --bf16 or --fp16 instead.",
            "choices": [*DTYPES, "auto"],
        },
    )
    keep_model: str = field(
        default="none",
        metadata={
            "help": "Which trained models to save: none, last, failed_and_best. Default: none. With last, each run's final model. "
            "With failed_and_best, those of the failed runs and of the best run.",
            "choices": list(KEEP_MODEL),
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the planned runs, and where each value comes from; train and write nothing."},
    )


@dataclass
class ExecutionArguments:
    """Where the runs are executed, and how many at a time. None of it changes a result."""

    workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of runs at a time. Default: one per core, or --runs_per_gpu on each GPU. They are fewer if "
            "memory is short. On a Ray cluster: as many as it has room for. Each run trains in a worker process. 0: no worker processes, one run after the other."
        },
    )
    threads_per_run: int = field(
        default=1,
        metadata={"help": "CPU threads per run. Default: 1. Another number changes results in the last digits."},
    )
    executor: str = field(
        default="local",
        metadata={
            "help": "Where the runs train. local: on this machine. ray: on a Ray cluster, one task per run. Default: local.",
            "choices": list(EXECUTORS),
        },
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "With --executor ray: the cluster's address, for example auto or ray://HOST:10001. Default: start Ray on this "
            "machine."
        },
    )
    runs_per_gpu: int = field(
        default=1,
        metadata={
            "help": "Runs that share a GPU. Small models leave a GPU idle with one. Default: 1. Fewer share it if they do not fit into its "
            "memory. NVIDIA MPS lets them compute side by side."
        },
    )
    parallel: str = field(
        default="data",
        metadata={
            "help": "Under accelerate launch or torchrun with several processes. data: all of them train each run together. seeds: each "
            "process trains its own runs. Default: data.",
            "choices": list(PARALLEL),
        },
    )
    retry_crashed: int = field(
        default=0, metadata={"help": "Run a crashed run again, up to this many times. Default: 0."}
    )
    steal_lock: bool = field(
        default=False,
        metadata={
            "help": "Take the study's folder from another command. Use it if that command has died. A living one stops, and its finished runs are kept."
        },
    )


@dataclass
class PolicyArguments:
    """Other ways to run seeds than each to its end: two-way seeds, restarts with early stopping, stop when decided."""

    two_way: list[int] | None = field(
        default=None,
        metadata={
            "help": "I J [R] instead of --seeds: I initialisations x J data orders x R dropout seeds. R is 2 unless you give it. "
            "two_way.md then shows how much of the scores' variance comes from each. You can raise I, J and R later."
        },
    )
    restarts: int | None = field(
        default=None,
        metadata={
            "help": "Start this many seeds per recipe, finish only the best; with --look_at and --finish. The seeds are 1 to "
            "this number, or those of --seeds. See also hf-stability restarts --help."
        },
    )
    look_at: float | None = field(
        default=None,
        metadata={"help": "With --restarts: compare the seeds after this fraction of training, for example 0.25."},
    )
    finish: int | None = field(
        default=None,
        metadata={"help": "With --restarts: how many seeds to finish, those with the best scores at --look_at."},
    )
    until: str | None = field(
        default=None,
        metadata={
            "help": "Stop the study when each pair of recipes is decided: by their failed shares, or by their mean scores. The "
            "test has a stricter level than 0.05, because it looks several times. The estimates of a study that stopped early are "
            "marked, because they are biased. See docs/until.md.",
            "choices": list(DECIDES),
        },
    )
    until_looks: list[int] | None = field(
        default=None,
        metadata={
            "help": "With --until: the numbers of seeds per recipe after which to look, such as 5 10 20. The last look is always "
            "at all seeds. Default: quarters of the seeds, none below 4. They cannot be changed once there are results."
        },
    )


def names_of(*classes: type) -> list[str]:
    """Names of the fields of these dataclasses."""
    return [f.name for cls in classes for f in fields(cls)]


def method_flags(training: type[StableTrainingArguments] = StableTrainingArguments) -> list[str]:
    """The training arguments of all methods, packaged and the user's own (see `arguments_class`)."""
    return [*argument_names(), *argument_names(training.own_methods)]
